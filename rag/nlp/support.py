"""How well passages support the sentences of an answer: words, figures, names, negation and meaning as one score.

A sentence is compared with windows of a passage, one or two neighbouring sentences or rows, because a passage says
much else as well. Pure functions: what needs an embedding takes the cosines as an argument, and is fine without.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rag.core.types import Matrix
from rag.nlp.analysis import analyse
from rag.nlp.figures import Figure, figures, missing_share
from rag.nlp.language import is_foreign
from rag.nlp.sentences import Unit, units

FEWEST_TERMS = 3
"""Telling terms below which a sentence says too little to be judged by itself."""
MOST_PASSAGE_CHARS = 12_000
_SMALL_WEIGHT = 0.15
_SMALL_WORDS = """
    a an the of in on at to for and or is are was were be been being it its this that these those with as by from you
    your can could may might will would shall should which who whom whose what how when where if then also their they
    them he she his her him we our us i my me do does did has have had but so than such there here into about more most
    other some any all each both yes sure however additionally please
    的 了 在 是 和 与 有 也 就 这 那 及 或 都 而 但 被 把 其 中 于 以 为 对
"""
_NEGATION = re.compile(
    r"\b(?:not|no|never|none|nor|neither|nothing|nobody|without|cannot|unable|\w+n['’]t)\b|不|没|未|无|非",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(r"[,;:.!?()，。；：！？]|\b(?:but|and|or|because|unless|if|when|which|that)\b")
_NEGATED_TERMS = 3
_NEGATED_CHARS = 120
_NAME = re.compile(r"(?<=[\w,;:)] )[A-Z][\w&-]+")
_LINK = re.compile(r"\]\((?:[^)\s\]]|\](?!\())*+\)|https?://\S+")

# Logistic regressions on one half (by a hash of the question's id) of MTRAG-UN's reference answers: their sentences
# that say something and are not verbatim, with the best passage they rest on against the other ones of the question's
# top ten. `make bench ARGS=citations` tells the AUC on both halves.
_WORDS = (-6.0, 7.1, 9.3)
"""Without an embedding: constant, `near`, `pairs`."""
_MEANING = (-8.3, 4.2, 6.5, 7.1)
"""The same, and the cosine of the sentence with its best window."""
_CONTRADICTED = 0.2
"""What is left of the score where a figure or a name is missing, or one of the two denies what the other says."""
_TOUCHED = 0.5
_LEAST_STEM = 4
_WORTH_READING = 0.3
"""A passage that holds less than this share of a claim's term weight is not looked at any closer."""
_VERBATIM_TOKENS = 3
_LIKE_BEST = 0.5
"""The share of the best window's words from which another one may give a figure: finds 95 % of the figures of sentences
that rest on a passage, and refuses 73 % of those exchanged for another figure of the same passage."""


class _Text:
    """A passage. Its windows are read when they are first needed: of most claims most passages say nothing."""

    def __init__(self, text: str, title: str) -> None:
        name = title.replace("_", " ")
        self.tokens = analyse(text)
        self.terms = frozenset(self.tokens) | frozenset(analyse(name))
        self.foreign = is_foreign(text)
        self._text = text
        self._named = figures(name)

    @cached_property
    def units(self) -> list[Unit]:
        return units(self._text) or [Unit(text=self._text, kind="sentence", block=0)]

    @cached_property
    def _wholes(self) -> list[str]:
        """The units, rows with the heads of their table."""
        return [" ".join((unit.text, unit.section, *unit.header)) for unit in self.units]

    @cached_property
    def windows(self) -> list[frozenset[str]]:
        return [frozenset(analyse(whole)) for whole in self._wholes]

    @cached_property
    def figures(self) -> list[frozenset[Figure]]:
        return [figures(whole, words=True) | self._named for whole in self._wholes]

    @cached_property
    def all_figures(self) -> frozenset[Figure]:
        return frozenset().union(*self.figures, figures(self._text, words=True))

    @cached_property
    def denied(self) -> list[frozenset[str]]:
        return [_denied(unit.text) for unit in self.units]

    @cached_property
    def pairs(self) -> frozenset[tuple[str, str]]:
        return frozenset(zip(self.tokens, self.tokens[1:], strict=False))

    @cached_property
    def line(self) -> str:
        return f" {' '.join(self.tokens)} "


@dataclass(frozen=True, slots=True)
class _Claim:
    tokens: list[str]
    terms: frozenset[str]
    telling: frozenset[str]
    pairs: frozenset[tuple[str, str]]
    names: frozenset[str]
    figures: frozenset[Figure]
    denied: frozenset[str]
    foreign: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """What the words of claims and passages say of each other. All matrices have shape (claims, passages).

    `near`: the share (0 to 1) of a claim's term weight that the best window of the passage holds. `pairs`: the share
    (0 to 1) of its pairs of neighbouring words in the passage. `contradicted`: whether a figure of the claim does not
    stand in a window that is like its best, a name nowhere in the passage, or one of claim and window denies what the
    other says; `wrong_figure`: the first of these alone. `alien`: whether words cannot tell, because the two are in
    different languages or the claim has no telling term. `touches`: of short claims, whether a telling term is common
    to both. `short`, of shape (claims,): whether the claim has fewer than three. `windows[c][p]` is the text in
    passage p that is nearest to claim c.
    """

    near: Matrix
    pairs: Matrix
    contradicted: NDArray[np.bool_]
    wrong_figure: NDArray[np.bool_]
    alien: NDArray[np.bool_]
    touches: NDArray[np.bool_]
    short: NDArray[np.bool_]
    windows: list[list[str]]


def overlap(claims: Sequence[str], passages: Sequence[str], titles: Sequence[str] = ()) -> Overlap:
    """Compare each claim with each passage; of a passage the first 12,000 characters count.

    A term weighs more the fewer passages hold it, most where none does; small words weigh little.

    Args:
        titles: The documents' names, one for each passage, or none: a name or a year may stand there alone.
    """
    given = [
        _Text(passage[:MOST_PASSAGE_CHARS], title)
        for passage, title in zip(passages, titles or [""] * len(passages), strict=True)
    ]
    spread = Counter(term for text in given for term in text.terms)
    sheets = np.zeros((6, len(claims), len(passages)), dtype=np.float32)
    windows: list[list[str]] = []
    short: list[bool] = []
    for row, claimed in enumerate(claims):
        claim = _claim(claimed)
        weights = _weights(claim.terms, spread, len(passages))
        total = sum(weights.values()) or 1.0
        windows.append([""] * len(passages))
        short.append(len(claim.telling) < FEWEST_TERMS)
        for column, text in enumerate(given):
            sheets[4, row, column] = claim.foreign != text.foreign or not claim.telling
            sheets[5, row, column] = len(claim.telling) < FEWEST_TERMS and _touches(claim.telling, text.terms)
            share = sum(weights[term] for term in claim.terms & text.terms) / total
            if share < _WORTH_READING and len(claim.telling) >= FEWEST_TERMS:
                sheets[0, row, column] = share
                if sheets[4, row, column]:
                    sheets[3, row, column] = missing_share(claim.figures, text.all_figures)
                continue
            sheets[:4, row, column], windows[row][column] = _compare(claim, weights, text)
    return Overlap(
        near=sheets[0],
        pairs=sheets[1],
        contradicted=sheets[2] > 0,
        wrong_figure=sheets[3] > 0,
        alien=sheets[4] > 0,
        touches=sheets[5] > 0,
        short=np.array(short, dtype=np.bool_),
        windows=windows,
    )


def support_scores(words: Overlap, cosines: Matrix | None = None) -> Matrix:
    """How surely each passage supports each claim, 0 to 1; shape (claims, passages).

    .5 is as likely as not. Figures and names that are missing and denials that do not fit leave a fifth of it. A short
    claim (`In 1932.`) has .5 where a telling term is common to both and nothing contradicts it, else 0.

    Args:
        cosines: Of each claim with its window of each passage, shape (claims, passages); NaN or None where there is
            none: words decide there, alone.
    Source: fitted on MTRAG-UN, see above the constants.
    """
    score = _logistic(_WORDS, words)
    if cosines is not None:
        full = _logistic(_MEANING, words, np.nan_to_num(cosines))
        score = np.where(np.isnan(cosines), score, full)
    score = np.where(words.contradicted, _CONTRADICTED * score, score)
    touched = np.where(words.touches & ~words.contradicted, _TOUCHED, 0.0)
    return np.asarray(np.where(words.short[:, None], touched, score), dtype=np.float32)


def telling(text: str) -> int:
    """How many different terms of `text` say something."""
    return len(frozenset(analyse(_LINK.sub(" ", text))) - _small_terms())


def _logistic(constants: Sequence[float], words: Overlap, cosines: Matrix | None = None) -> Matrix:
    total = constants[0] + constants[1] * words.near + constants[2] * words.pairs
    if cosines is not None:
        total = total + constants[3] * cosines
    return np.asarray(1 / (1 + np.exp(-total)), dtype=np.float32)


def _weights(terms: frozenset[str], spread: Counter[str], passages: int) -> dict[str, float]:
    small = _small_terms()
    return {
        term: math.log1p((passages + 1) / (spread[term] + 0.5)) * (_SMALL_WEIGHT if term in small else 1.0)
        for term in terms
    }


def _compare(claim: _Claim, weights: dict[str, float], passage: _Text) -> tuple[tuple[float, ...], str]:
    """The first four signals, and the text of the nearest window."""
    total = sum(weights.values()) or 1.0
    common = [claim.terms & window for window in passage.windows]
    single = [sum(weights[term] for term in terms) for terms in common]
    double = [sum(weights[term] for term in a | b) for a, b in zip(common, common[1:], strict=False)]
    best = max(range(len(single)), key=lambda place: single[place])
    near = max([*single, *double]) / total
    if len(claim.tokens) >= _VERBATIM_TOKENS and f" {' '.join(claim.tokens)} " in passage.line:
        return (1.0, 1.0, 0.0, 0.0), passage.units[best].text
    wrong = _lacks_figure(claim, passage, single)
    signals = (
        near,
        len(claim.pairs & passage.pairs) / max(1, len(claim.pairs)),
        float(wrong or _lacks_name(claim, passage) or _denies(claim, passage, best)),
        float(wrong),
    )
    return signals, passage.units[best].text


def _lacks_figure(claim: _Claim, passage: _Text, shares: Sequence[float]) -> bool:
    """Whether a figure of the claim stands in none of the windows that hold about as much of it as the best one."""
    if not claim.figures:
        return False
    if missing_share(claim.figures, passage.all_figures) > 0:
        return True
    least = _LIKE_BEST * max(shares)
    near = [passage.figures[place] for place, share in enumerate(shares) if share >= least]
    return missing_share(claim.figures, frozenset().union(*near)) > 0


def _lacks_name(claim: _Claim, passage: _Text) -> bool:
    """Whether a name of the claim stands nowhere in the passage."""
    return any(not _touches({name}, passage.terms) for name in claim.names - passage.terms)


def _touches(wanted: Set[str], terms: Set[str]) -> bool:
    """Whether one of the `wanted` terms is among `terms`, in one form or other (`Swiss` for `Switzerland`)."""
    if not wanted.isdisjoint(terms):
        return True
    stems = {term[:_LEAST_STEM] for term in wanted if len(term) >= _LEAST_STEM}
    return any(term[:_LEAST_STEM] in stems for term in terms)


def _denies(claim: _Claim, passage: _Text, place: int) -> bool:
    """Whether one denies what the other says, with the same words."""
    denied, terms = passage.denied[place], passage.windows[place]
    if claim.denied & denied:
        return False
    return bool(claim.denied & terms) or (not claim.denied and bool(denied & claim.terms))


def _claim(text: str) -> _Claim:
    plain = _LINK.sub(" ", text)
    tokens = analyse(plain)
    return _Claim(
        tokens=tokens,
        terms=frozenset(tokens),
        telling=frozenset(tokens) - _small_terms(),
        pairs=frozenset(zip(tokens, tokens[1:], strict=False)),
        names=frozenset(term for name in _NAME.findall(plain) for term in analyse(name)),
        figures=figures(plain),
        denied=_denied(plain),
        foreign=is_foreign(plain),
    )


def _denied(text: str) -> frozenset[str]:
    """The first telling terms behind each negation of `text`, in its clause."""
    found: set[str] = set()
    for match in _NEGATION.finditer(text):
        clause = _CLAUSE_END.split(text[match.end() : match.end() + _NEGATED_CHARS], maxsplit=1)[0]
        found.update([term for term in analyse(clause) if term not in _small_terms()][:_NEGATED_TERMS])
    return frozenset(found)


def _small_terms() -> frozenset[str]:
    global _small
    if not _small:
        _small = frozenset(analyse(_SMALL_WORDS))
    return _small


_small: frozenset[str] = frozenset()
