"""Citation marks `[ID:n]` in answers: repaired, checked, put in where the model wrote none.

n is the index of a source, from 0. All functions are pure; what needs an embedding takes the similarities as an
argument. Code, fenced or inline, is never touched and never counts. Every function takes time linear in its text: a
pattern keeps the whole process waiting while it looks, in whatever thread.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from rag.core.types import CitedChunk, DocumentCount, Matrix, Reference
from rag.nlp.sentences import sentences

MOST_MARKS_PER_SENTENCE = 4
MOST_CHARS = 40_000
"""Characters of an answer whose sentences are looked at."""
_MOST_DIGITS = 6

_CODE = re.compile(r"^[ ]{0,3}(`{3,}|~{3,})[^\n]*(?:\n.*?(?:^[ ]{0,3}\1[`~]*[ \t]*$|\Z)|\Z)|`[^`\n]+`", re.M | re.S)
_TOKEN = re.compile(r"(?P<open>[\[【(（]|##(?!#))|[\]】)）]|\$\$")
"""What may begin or end a mark."""
_ID = r"[Ii][Dd][ \t]?[:：]"
_NUMBERS = r"\d++(?:[ \t]?[,;、，][ \t]?(?:[Ii][Dd][ \t]?[:：]?[ \t]?)?\d++){0,15}"
_SQUARE = re.compile(r"[\[【][ \t]?" + _ID + r"[ \t]?" + _NUMBERS + r"[ \t]?[\]】]")
_SHOWN = re.compile(_SQUARE.pattern + r"|\(ID:\d{1,3}\)|（ID[:：]\d{1,3}）|##\d++\$\$")
"""What is taken out where no mark may be shown: in round brackets, longer numbers are those of something else."""
_LOOSE = re.compile(
    r"\(ID:(?P<round>\d{1,6})\)|（ID[:：](?P<wide>\d{1,6})）"
    r"|(?P<open>[\[【(（])?(?<![\w/.#@=&?%-])[Rr][Ee][Ff](?P<ref>0|[1-9]\d{0,5})(?(open)[\]】)）])(?![-/.:=@]?\w)"
)
"""What a model writes for a mark, and others for something else: in this form exactly."""
_DIGITS = re.compile(r"\d+")
MARK = re.compile(r"\[ID:(\d+)\]")
_NOT_PROSE = re.compile(r"\s*+(?:\||#{1,6}\s|[-=_*|:][-=_*|: ]*+$)")
_BEGUN = re.compile(
    r"[\[【][ \t]{0,5}(?:[Ii][ \t]{0,4}(?:[Dd][ \t]{0,5}(?:[:：][IiDd:：\d,;、， \t]{0,240})?)?)?"
    r"|[(（][ \t]{0,4}(?:I[ \t]{0,4}(?:D[ \t]{0,4}(?:[:：]\d{0,3}[ \t]{0,4})?)?)?"
    r"|##\d{0,6}\$?"
)
"""What may become a mark. The blanks in it go with a mark behind them."""
_NEUTRAL = "‹"
_LEAD = 4
"""Blanks in front of a mark that go with it."""
_MOST_ROUNDS = 4
_MOST_HELD = 300


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """`text` with `change` made to each part that is not code."""
    return "".join(part if is_code else change(part) for is_code, part in parts(text))


@dataclass(frozen=True, kw_only=True, slots=True)
class Repaired:
    """An answer all of whose marks have the form `[ID:n]` and name a source. `marked`: whether the model wrote any in
    square brackets. `originals` has what stood where a mark was made of a looser form, by the mark's end."""

    text: str
    marked: bool
    originals: Mapping[int, str]


def repair_marks(answer: str, sources: int, *, loose: bool = True) -> Repaired:
    """`answer` with every mark in its one form, `[ID:n]` with n below `sources`.

    `[ID: n]`, `【ID:n】` and lists such as `[ID:1, ID:2]` become marks; an n that names no source is dropped. `(ID:n)`
    and `refn` become marks where n names a source; else they are part of the text and stay.

    Args:
        loose: Whether `(ID:n)` and `refn` may be marks. Not in quotations: there they are the document's.
    """

    def settle(candidate: str) -> str | None:
        if not _SQUARE.fullmatch(candidate):
            return None
        valid = _valid(_DIGITS.findall(candidate), sources)
        return "".join(f"[ID:{n}]" for n in dict.fromkeys(valid))

    text = _settled(answer, settle)
    marked = bool(cited_indices(text))
    if not loose:
        return Repaired(text=text, marked=marked, originals={})
    return _with_loose(text, sources, marked=marked)


def _with_loose(text: str, sources: int, *, marked: bool) -> Repaired:
    originals: dict[int, str] = {}
    out: list[str] = []
    length = 0

    def put(piece: str) -> None:
        nonlocal length
        out.append(piece)
        length += len(piece)

    for is_code, part in parts(text):
        start = 0
        for match in () if is_code else _LOOSE.finditer(part):
            valid = _valid([match["round"] or match["wide"] or match["ref"]], sources)
            if valid:
                put(part[start : match.start()])
                put(f"[ID:{valid[0]}]")
                originals[length] = match[0]
                start = match.end()
        put(part[start:])
    return Repaired(text="".join(out), marked=marked, originals=originals)


Settle = Callable[[str], str | None]
"""What becomes of a text in brackets that holds no bracket: None, it is no mark; empty, it is dropped."""


def _settled(text: str, settle: Settle) -> str:
    """`text` with `settle` made to what may be a mark and is not code, until nothing changes."""

    def neutral(candidate: str) -> str | None:
        settled = settle(candidate)
        return _NEUTRAL + candidate[1:] if settled == "" else settled

    # A mark that is dropped in front of three backticks makes them open a block of code, which moves the borders
    # between code and prose for what follows. Few texts need a second round; where a text is made to need them
    # without end, the marks lose their bracket instead, which moves no border.
    for _ in range(_MOST_ROUNDS):
        before, text = text, outside_code(text, lambda part: "".join(_pieces(part, settle)[0]))
        if text == before:
            return text
    return outside_code(text, lambda part: "".join(_pieces(part, neutral)[0]))


def _pieces(text: str, settle: Settle) -> tuple[list[str], list[int]]:
    """`text` settled, in pieces, and the places of those that are opening brackets without an end. One pass: a mark
    that forms around one that is dropped is found at its own end."""
    out: list[str] = []
    opened: list[int] = []
    start = 0
    for token in _TOKEN.finditer(text):
        if token["open"]:
            out += (text[start : token.start()], token[0])
            opened.append(len(out) - 1)
        else:
            out.append(text[start : token.end()])
            if opened:
                _close(out, opened, settle)
        start = token.end()
    out.append(text[start:])
    return out, opened


def _close(out: list[str], opened: list[int], settle: Settle) -> None:
    first = opened.pop()
    settled = settle("".join(out[first:]))
    if settled != "":
        opened.clear()  # What holds a bracket is no mark.
    if settled is not None:
        out[first:] = [settled]
    if settled == "":
        out[first - 1] = out[first - 1][: _lead_start(out[first - 1])]


def _lead_start(text: str) -> int:
    """Where the blanks at the end of `text` begin that go with a mark behind it."""
    return max(len(text.rstrip(" \t")), len(text) - _LEAD)


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
    """`text` without marks, of all forms but `refn` and of the old one (`##n$$`): they point to another answer's
    sources."""
    return _settled(text, _dropped)


def _dropped(candidate: str) -> str | None:
    return "" if _SHOWN.fullmatch(candidate) else None


def _held_from(out: list[str], opened: Sequence[int]) -> int:
    """The piece from which on `out` may become a mark. Where that is too much to hold, a bracket is changed."""
    end, room = len(out), _MOST_HELD
    for place in reversed(opened):
        begun = "".join(out[place:end])
        if not _BEGUN.fullmatch(begun):
            break
        room -= len(begun)
        if room < 0:
            out[place] = _NEUTRAL
            break
        end = place
    return end


class MarkFilter:
    """Takes marks out of a text that comes in pieces, in code as well. What may become a mark is held back, no more;
    of too much that may, the first brackets are changed into others."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """What of the text so far can be shown now."""
        out, opened = _pieces(self._held + piece, _dropped)
        held = _held_from(out, opened)
        shown = "".join(out[:held])
        start = _lead_start(shown.removesuffix("#"))
        self._held = shown[start:] + "".join(out[held:])
        return shown[:start]

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
