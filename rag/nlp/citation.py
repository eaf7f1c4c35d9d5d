"""Citation marks `[ID:n]` in answers: repaired, checked, put in where the model wrote none.

n is the index of a source, from 0. All functions are pure; what needs an embedding takes the similarities as an
argument. Code, fenced or inline, is never touched and never counts.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from rag.core.types import CitedChunk, DocumentCount, Matrix, Reference
from rag.nlp.sentences import sentences

MOST_MARKS_PER_SENTENCE = 4
MOST_CHARS = 40_000
"""Characters of an answer whose sentences are looked at."""
_MOST_DIGITS = 6

_CODE = re.compile(r"^[ ]{0,3}(`{3,}|~{3,})[^\n]*(?:\n.*?(?:^[ ]{0,3}\1[`~]*[ \t]*$|\Z)|\Z)|`[^`\n]+`", re.M | re.S)
_NUMBERS = r"(\d+(?:\s?[,;、，]\s?(?:ID\s?[:：]?\s?)?\d+){0,15})"
_BRACKETED = re.compile(r"(?P<lead>[ \t]{0,4})(?P<open>[\[(【（])\s?ID\s?[:：]\s?" + _NUMBERS + r"\s?[\])】）]", re.I)
_REF = re.compile(r"(?P<open>[\[(【（])?\bref(\d+)\b(?(open)[\])】）])", re.I)
_DIGITS = re.compile(r"\d+")
MARK = re.compile(r"\[ID:(\d+)\]")
# Runs of white space are bounded: looking for an unbounded one at each of its places takes quadratic time.
_OLD_MARK = re.compile(r"[ \t]{0,4}(?:\[ID:\d+\]|##\d+\$\$)")
_NOT_PROSE = re.compile(r"\s*+(?:\||#{1,6}\s|[-=_*|:][-=_*|: ]*+$)")
_HELD_BACK = re.compile(r"[ \t]{0,4}(?:\[(?:I(?:D(?::\d{0,6})?)?)?)?$")


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """`text` with `change` made to each part that is not code."""
    return "".join(part if is_code else change(part) for is_code, part in parts(text))


def repair_marks(answer: str, sources: int) -> str:
    """`answer` with every mark in its one form, `[ID:n]` with n below `sources`.

    `[ID: n]`, `(ID:n)`, `【ID:n】`, `refn` and lists such as `[ID:1, ID:2]` become marks. In square brackets an n
    that names no source is dropped; in round ones, and after `ref`, it may be part of the text and stays.
    """

    def once(text: str) -> str:
        return outside_code(text, lambda part: _REF.sub(_ref(sources), _BRACKETED.sub(_bracketed(sources), part)))

    # A mark that is dropped in front of three backticks makes them open a block of code, which moves the borders
    # between code and prose for what follows: repeated until nothing changes.
    while (repaired := once(answer)) != answer:
        answer = repaired
    return answer


def _bracketed(sources: int) -> Callable[[re.Match[str]], str]:
    def repaired(match: re.Match[str]) -> str:
        valid = _valid(_DIGITS.findall(match[3]), sources)
        if not valid:
            return match[0] if match["open"] in "(（" else ""
        return match["lead"] + "".join(f"[ID:{n}]" for n in dict.fromkeys(valid))

    return repaired


def _ref(sources: int) -> Callable[[re.Match[str]], str]:
    def repaired(match: re.Match[str]) -> str:
        valid = _valid([match[2]], sources)
        return f"[ID:{valid[0]}]" if valid else match[0]

    return repaired


def _valid(digits: Sequence[str], sources: int) -> list[int]:
    numbers = [int(each) for each in digits if len(each) <= _MOST_DIGITS]
    return [n for n in numbers if n < sources]


def cited_indices(answer: str) -> tuple[int, ...]:
    """The n of all marks, each once, in the order of the text."""
    found = dict[int, None]()
    for is_code, part in parts(answer):
        if not is_code:
            digits = (match[1] for match in MARK.finditer(part))
            found.update((int(each), None) for each in digits if len(each) <= _MOST_DIGITS)
    return tuple(found)


def without_marks(text: str) -> str:
    """`text` without marks, of the present and of the old form (`##n$$`): they point to another answer's sources."""
    return outside_code(text, lambda part: _OLD_MARK.sub("", part))


class MarkFilter:
    """Takes marks out of a text that comes in pieces. What may become a mark is held back, no more."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """What of the text so far can be shown now."""
        text = _OLD_MARK.sub("", self._held + piece)
        held = _HELD_BACK.search(text)
        start = held.start() if held else len(text)
        self._held = text[start:]
        return text[:start]

    def rest(self) -> str:
        """What was held back, at the end."""
        rest, self._held = self._held, ""
        return rest


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentence:
    """A sentence of an answer that may carry marks; `end` is where they would go."""

    text: str
    end: int


def citable_sentences(answer: str) -> list[Sentence]:
    """The sentences of `answer` that could rest on a source, in order: no code, table, heading or rule."""
    found: list[Sentence] = []
    for offset, line in prose_lines(answer):
        if not _NOT_PROSE.match(line):
            cursor = 0
            for text in sentences(line):
                cursor = line.find(text, cursor) + len(text)
                found.append(Sentence(text=text, end=offset + cursor))
    if found and len(answer) > MOST_CHARS and not answer[found[-1].end : MOST_CHARS].strip():
        found.pop()  # It may be cut, and a mark has no place in the middle of a sentence.
    return found


def prose_lines(answer: str) -> Iterator[tuple[int, str]]:
    """The lines of `answer` that are not code, or parts of lines beside code, with their offsets; up to `MOST_CHARS`,
    where the last one is cut.

    What is code is read from the whole: a cut could open it, and then its text would pass for prose.
    """
    offset = 0
    for is_code, part in parts(answer):
        if offset >= MOST_CHARS:
            return
        start = offset
        offset += len(part)
        if not is_code:
            for line in part[: MOST_CHARS - start].splitlines(keepends=True):
                yield start, line
                start += len(line)


_ENOUGH = 0.5
_NEAR_BEST = 0.9


def insert_marks(answer: str, claims: Sequence[Sentence], scores: Matrix, *, enough: float = _ENOUGH) -> str:
    """`answer` with ` [ID:n]` after the sentences that a source supports.

    Each n is put in once, at the sentence it supports best; a sentence gets at most four, the best ones, and only
    those near its best.

    Args:
        claims: Sentences of this answer, in order.
        scores: Shape (claims, sources), from `rag.nlp.support.support_scores`.
        enough: The least score of a mark.
    """
    chosen: dict[int, list[int]] = {}
    if scores.size:
        for source in range(scores.shape[1]):
            best = int(np.argmax(scores[:, source]))
            if scores[best, source] >= max(enough, _NEAR_BEST * float(scores[best].max())):
                chosen.setdefault(best, []).append(source)
    for best in sorted(chosen, reverse=True):
        kept = sorted(chosen[best], key=lambda source: -scores[best, source])[:MOST_MARKS_PER_SENTENCE]
        marks = "".join(f"[ID:{source}]" for source in sorted(kept))
        end = claims[best].end
        answer = f"{answer[:end]} {marks}{answer[end:]}"
    return answer


def count_documents(chunks: Sequence[CitedChunk], cited: Set[int]) -> tuple[DocumentCount, ...]:
    """The documents of the chunks whose index is in `cited`, of all chunks if none is; most chunks first. Pages of the
    web, which have no document id, count by their address."""
    counted = [chunk for chunk in chunks if chunk.index in cited] or list(chunks)
    first = {(chunk.document_id, chunk.url): chunk for chunk in reversed(counted)}
    counts = Counter((chunk.document_id, chunk.url) for chunk in counted)
    return tuple(
        DocumentCount(document_id=first[key].document_id, document_name=first[key].document_name, count=count)
        for key, count in counts.most_common()
    )


def with_counts(reference: Reference, answer: str) -> Reference:
    """`reference` with the documents that `answer` cites."""
    cited = frozenset(cited_indices(answer))
    return replace(reference, documents=count_documents(reference.chunks, cited))


def parts(text: str) -> Iterator[tuple[bool, str]]:
    """`text` in order as (is code, part)."""
    start = 0
    for code in _CODE.finditer(text):
        if code.start() > start:
            yield False, text[start : code.start()]
        yield True, code[0]
        start = code.end()
    if start < len(text):
        yield False, text[start:]
