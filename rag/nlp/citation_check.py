"""An answer's citation marks against what supports its sentences: kept, moved or dropped.

A mark stands for the sentence it is in or behind, and for the sentences without marks before it in the same line.
Tables and headings are checked as whole lines. Code is never touched. All functions are pure.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from rag.core.types import Matrix
from rag.nlp.citation import MARK, MOST_MARKS_PER_SENTENCE, prose_lines
from rag.nlp.sentences import sentences
from rag.nlp.support import FEWEST_TERMS, telling

KEPT = 0.25
"""Least support of a mark that the model wrote: on the half of MTRAG-UN that it was not chosen on, 81 % of the marks on
the best passage stay and 1 % of those on others."""
ENOUGH = 0.5
"""Least support of a mark that is put in or moved."""
Originals = Mapping[int, str]
"""What stood where a mark was made of a looser form, by the mark's end."""
_NONE: Originals = MappingProxyType({})
_MARKS_RUN = re.compile(r"(?:[ \t]{0,4}\[ID:\d{1,6}\])+")
_MARKS_ALONE = re.compile(r"\s*(?:\[ID:\d{1,6}\]\s*)+")
_BULLET = re.compile(r"^\s*(?:[-*+•]|#{1,6}|>|\(?\d{1,3}[.)])\s+")
_LEAD = 4
_LEAST_SHARE = 0.25
"""Of a claim's words that one of several sources must hold to have a part in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """`[ID:source]` at `start` to `end` of the answer, the blanks before it included."""

    source: int
    start: int
    end: int


@dataclass(kw_only=True, slots=True)
class Claim:
    """A sentence without its marks, or the part of it that its marks stand for; and the `line` it stands in."""

    text: str
    line: int
    marks: list[Mark] = field(default_factory=list)


def claims_of(answer: str) -> list[Claim]:
    """The sentences of `answer` and the lines of its tables, in order, with their marks, as far as `prose_lines` go."""
    found: list[Claim] = []
    for line, (start, text) in enumerate(prose_lines(answer)):
        _add_line(found, text, start, line)
    return found


def _add_line(found: list[Claim], text: str, offset: int, line: int) -> None:
    cursor = 0
    pieces = [text] if text.lstrip().startswith("|") else sentences(text)
    for piece in pieces:
        begin = text.find(piece, cursor)
        cursor = begin + len(piece)
        alone = _MARKS_ALONE.match(piece)
        before = found[-1] if found and (found[-1].line == line or (alone and alone.end() == len(piece))) else None
        if before is not None and alone:
            before.marks.extend(_marks(text, begin, begin + alone.end(), offset))
            begin += alone.end()
        whole = _plain(text[begin:cursor])
        for start, end in _segments(text, begin, cursor):
            marks = list(_marks(text, start, end, offset))
            own = _plain(text[start:end])
            if marks or telling(own) >= FEWEST_TERMS or (start, end) == (begin, cursor):
                found.append(Claim(text=own if telling(own) >= FEWEST_TERMS else whole, line=line, marks=marks))


def _segments(text: str, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """A sentence cut behind its marks: what stands before a mark is what it is for."""
    start = begin
    for run in _MARKS_RUN.finditer(text, begin, end):
        if run.start() > start:
            yield start, run.end()
            start = run.end()
    if start < end:
        yield start, end


def _plain(text: str) -> str:
    return _BULLET.sub("", MARK.sub("", text)).strip(" |\n")


def _marks(text: str, begin: int, end: int, offset: int) -> Iterator[Mark]:
    for match in MARK.finditer(text, begin, end):
        start = match.start()
        while start > 0 and match.start() - start < _LEAD and text[start - 1] in " \t":
            start -= 1
        if len(match[1]) <= 6:
            yield Mark(source=int(match[1]), start=offset + start, end=offset + match.end())


def spans(claims: Sequence[Claim]) -> list[tuple[int, int]]:
    """Of each claim with marks, in order: the first claim that its marks stand for, and itself."""
    found = []
    first = 0
    for index, claim in enumerate(claims):
        if index and claims[index - 1].line != claim.line:
            first = index
        if claim.marks:
            found.append((first, index))
            first = index + 1
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What is known of claims and sources. `scores` (support) and `shares` (of a claim's words in the source) have
    shape (claims, sources), 0 to 1; so has `judged`: where it is False, nothing is known and a mark stays. `joint` is
    the support that the sources of a claim with several marks give together, by claim."""

    scores: Matrix
    shares: Matrix
    judged: NDArray[np.bool_]
    joint: Mapping[int, float] = field(default_factory=dict)


def settled(
    answer: str, claims: Sequence[Claim], findings: Findings, *, kept: float = KEPT, originals: Originals = _NONE
) -> str:
    """`answer` with each mark kept, moved to the source that supports its sentence, or dropped.

    Args:
        claims: From `claims_of`, of this answer.
        kept: Least support of a mark that stays.
        originals: From `repair_marks`, of this answer: such a mark becomes its original again unless it is supported.
    """
    changes: list[tuple[Mark, str]] = []
    for first, last in spans(claims):
        changes.extend(_changes(claims[last].marks, findings, first, last, kept=kept))
    seen = {mark.end for claim in claims for mark in claim.marks}
    changes = [(mark, originals.get(mark.end, text)) for mark, text in changes]
    changes.extend(_restored(answer, {end: text for end, text in originals.items() if end not in seen}))
    return _changed(answer, changes)


def restored(answer: str, originals: Originals) -> str:
    """`answer` with all `originals` in the place of the marks that were made of them."""
    return _changed(answer, _restored(answer, originals))


def _restored(answer: str, originals: Originals) -> list[tuple[Mark, str]]:
    found = []
    for end, text in originals.items():
        match = MARK.fullmatch(answer, answer.rindex("[", 0, end), end)
        assert match is not None
        found.append((Mark(source=int(match[1]), start=match.start(), end=end), text))
    return found


def _changed(answer: str, changes: Sequence[tuple[Mark, str]]) -> str:
    pieces: list[str] = []
    end, behind = len(answer), ""
    for mark, text in sorted(changes, key=lambda change: -change[0].start):
        pieces.append(answer[mark.end : end])
        behind = pieces[-1] or behind
        # What stands behind is settled already: a mark that follows directly still needs the blank.
        keeps_blank = bool(text) or behind.startswith("[ID:")
        blanks = answer[mark.start : mark.end].partition("[")[0] if keeps_blank else ""
        pieces.append(blanks + text)
        behind = pieces[-1] or behind
        end = mark.start
    return "".join([answer[:end], *reversed(pieces)])


def _changes(
    marks: Sequence[Mark], findings: Findings, first: int, last: int, *, kept: float
) -> Iterator[tuple[Mark, str]]:
    """What becomes of the marks of claims `first` to `last` that do not stay."""
    best = findings.scores[first : last + 1].max(axis=0)
    known = np.asarray(findings.judged[first : last + 1].all(axis=0))
    together = findings.joint.get(last, 0.0) >= kept

    def stays(mark: Mark) -> bool:
        shares = together and findings.shares[last, mark.source] >= _LEAST_SHARE
        return bool(best[mark.source] >= kept or shares or not known[mark.source])

    good = sorted((mark for mark in marks if stays(mark)), key=lambda mark: -best[mark.source])
    good = good[:MOST_MARKS_PER_SENTENCE]
    said = {mark.source for mark in good}
    target = int(np.argmax(findings.scores[last]))
    for mark in marks:
        if mark in good:
            continue
        moved = findings.scores[last, target] >= ENOUGH and target not in said
        said.add(target)
        yield mark, f"[ID:{target}]" if moved else ""
