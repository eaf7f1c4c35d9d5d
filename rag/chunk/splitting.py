"""Cutting a text that is too long for a chunk: at the configured delimiters, else at sentences, words, characters."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rag.nlp.tokens import count_tokens

_QUOTED = re.compile(r"`([^`]+)`")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？；])|\n+")
_WORD = re.compile(r"\S+\s*")
_CHARACTERS_PER_TOKEN = 2


@dataclass(frozen=True, slots=True)
class Delimiters:
    """`marks` are the several-character delimiters, which are removed; `single` keeps its characters, so that
    what is cited stays as it was written."""

    marks: re.Pattern[str] | None
    single: re.Pattern[str] | None

    def drop_marks(self, text: str) -> list[str]:
        """The parts between marks."""
        parts = self.marks.split(text) if self.marks else [text]
        return [part.strip("\n") for part in parts if part.strip()]


def delimiters(setting: str) -> Delimiters:
    """Read the `delimiter` setting: single characters, several-character delimiters in back quotes; a backslash
    followed by n, t or r means the control character."""
    marks = [_unescape(mark) for mark in _QUOTED.findall(setting)]
    singles = [mark for mark in marks if len(mark) == 1] + list(_unescape(_QUOTED.sub("", setting)))
    longer = sorted({mark for mark in marks if len(mark) > 1}, key=lambda mark: (-len(mark), mark))
    alternatives = "".join(re.escape(character) for character in sorted(set(singles) - {"`"}))
    return Delimiters(
        marks=re.compile("|".join(map(re.escape, longer))) if longer else None,
        single=re.compile(f"(?<=[{alternatives}])") if alternatives else None,
    )


def split_text(text: str, *, limit: int, single: re.Pattern[str] | None) -> list[str]:
    """Parts of `text` of about `limit` tokens each, none more than twice that; joined they are `text` again, but
    for space at the cuts."""
    cuts: list[Callable[[str], Sequence[str]]] = [_sentences, _WORD.findall, _slices_of(limit)]
    if single is not None:
        cuts.insert(0, single.split)
    return [part.strip() for part in _split(text, limit, cuts) if part.strip()]


def split_lines(text: str, *, limit: int) -> list[str]:
    """Parts of a code block: at blank lines, else at lines, else as text."""
    cuts: list[Callable[[str], Sequence[str]]] = [_blocks, _lines, _WORD.findall, _slices_of(limit)]
    return [part.strip("\n") for part in _split(text, limit, cuts) if part.strip()]


def _split(text: str, limit: int, cuts: Sequence[Callable[[str], Sequence[str]]]) -> list[str]:
    """Cut with the first way, join neighbours up to the limit, cut what is still too long with the next ways."""
    if not cuts or count_tokens(text) <= limit:
        return [text]
    parts: list[str] = []
    joined, joined_tokens = "", 0
    for piece in cuts[0](text):
        tokens = count_tokens(piece)
        if joined and joined_tokens + tokens > limit:
            parts.append(joined)
            joined, joined_tokens = "", 0
        if tokens > limit:
            parts.extend(_split(piece, limit, cuts[1:]))
        else:
            joined, joined_tokens = joined + piece, joined_tokens + tokens
    return [*parts, joined] if joined else parts


def _sentences(text: str) -> list[str]:
    ends = [match.end() for match in _SENTENCE.finditer(text)]
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True) if b > a]


def _blocks(text: str) -> list[str]:
    return re.split(r"(?<=\n\n)(?=\S)", text)


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _slices_of(limit: int) -> Callable[[str], list[str]]:
    size = max(1, limit // _CHARACTERS_PER_TOKEN)
    return lambda text: [text[i : i + size] for i in range(0, len(text), size)]


def _unescape(setting: str) -> str:
    return setting.replace("\\n", "\n").replace("\\t", "\t").replace("\\r", "\r")
