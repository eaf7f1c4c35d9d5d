"""What of the passages answers a question: preselection by words, and the choice among the embedded few."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag.core.types import ChunkText
from rag.nlp.analysis import analyse
from rag.nlp.sentences import Unit, units

_STOP_WORDS = """
    a about after all also am an and any are as asked at based be been being both but by can could did do does doing
    for from further give given had has have having he her here hers him his how i if in into is it its itself just
    let me more most much many my no nor not now of off on once only or other our out over own please question
    response answer relying details shown per primarily same she should show so some such tell than that the their
    them then there these they this those through to too under until up upon use using very was we were what when
    where whether which while who whom whose why will with would you your according name explain describe find
    fy fiscal year usd million millions billion billions dollars
    的 了 在 是 和 与 吗 呢 什么 什 么 谁 哪 些 哪些 几 多少 多 少 如何 怎么 怎 为什么 为 何 被 有 个 请 问 于 以
    对 中 之 这 那 其 及 或 都 也 就 它 他 她
"""
# What reports call what questions ask for.
_ALSO_CALLED = (
    (re.compile(r"\bcap(?:ital )?ex(?:penditures?)?\b", re.IGNORECASE), "purchases additions property plant equipment"),
    (re.compile(r"\bpp&?n?e\b", re.IGNORECASE), "property plant equipment"),
    (re.compile(r"\brevenues?\b", re.IGNORECASE), "sales"),
    (re.compile(r"\bcogs\b", re.IGNORECASE), "cost of sales goods sold"),
    (re.compile(r"\bprofits?\b", re.IGNORECASE), "income earnings"),
    (re.compile(r"\bR&D\b"), "research development"),
    (re.compile(r"\bFCF\b|\bfree cash ?flow", re.IGNORECASE), "cash operating activities"),
)
_ALSO_WEIGHT = 0.35
_ASIDE_WEIGHT = 0.15
_YEAR_TERM = re.compile(r"fy(?:\d{2}|\d{4})")
_ASKING = re.compile(r"[^.?!。？！]*(?:\.(?=\w)[^.?!。？！]*)*[?？]")
_LEANS = re.compile(
    r"(?:(?:it|its|they|their|them|he|his|she|her|this|these|those|that|such|both|neither|the (?:latter|former|same)|"
    r"however|therefore|thus|hence|consequently|moreover|furthermore|additionally|in addition|as a result|"
    r"accordingly|instead|otherwise|also|conversely|similarly|likewise|nevertheless|for example|for instance|"
    r"in contrast|by contrast|then|but|and|or|so)\b|"
    r"(?:他|她|它|这|那|其|此|该|因此|所以|然而|但是|但|此外|另外|同时|不过|于是))",
    re.IGNORECASE,
)
_NUMBER_ASKED = re.compile(
    r"\bhow (?:much|many|long|old|far|large|big|high|often)\b|\b(?:amount|ratio|rate|percent(?:age)?|number|total|"
    r"margin|cost|price|value|size|population|revenues?|income|earnings|expenditures?|sales)\b|多少|几|多大|多长",
    re.IGNORECASE,
)
_TIME_ASKED = re.compile(
    r"\bwhen\b|\bwhat (?:year|date|day|month|time)\b|\bwhich year\b|何时|什么时候|哪一?年", re.IGNORECASE
)
_WHO_ASKED = re.compile(r"\bwho(?:m|se)?\b|谁", re.IGNORECASE)
_LETTER = re.compile(r"[^\W\d_]")
_DIGIT = re.compile(r"\d")
_COUNT = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|twelve|hundred|thousand|million|billion)\b", re.I
)
_DATE = re.compile(
    r"\b1\d{3}\b|\b20\d{2}\b|\b(?:January|February|March|April|May|June|July|August|September|October|November|December)\b|"
    r"century|\d{1,4}\s*年"
)
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+")
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
_YEAR = re.compile(r"(?:19|20)\d{2}")
_SINGLE_WIDE_WEIGHT = 0.25
_CONTEXT_WEIGHT = 0.5
_MAX_EMBEDDED_CHARS = 200
_MIN_CHARS = 12
_MAX_QUESTION_CHARS = 400
_FIGURE_END = re.compile(r"\d[\d,.]*\)?%?$")
_ENDS = ".!?。！？;；\"'”)"
MAX_QUOTES = 3
MARGIN = 0.1
"""How far below the best score a further quotation may lie."""
SAME = 0.9
"""Cosine from which two units say the same."""
ENOUGH = 0.36
ENOUGH_WIDE = 0.275
"""Fitted on XQuAD, English and Chinese: questions against their own paragraphs and against those of other articles;
95 % (89 % in Chinese) of either kind fall on the right side."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A unit that may be quoted; `place` is its index among the units of its passage."""

    passage: int
    place: int
    unit: Unit
    caption: str
    coverage: float
    own: float
    lexical: float

    def text_to_embed(self) -> str:
        """The unit; of a row its label and its table's caption, because figures blur what it is about."""
        text = self.unit.text
        if self.unit.kind == "row":
            label = next((cell for cell in self.unit.cells if _LETTER.search(cell)), text)
            year = next((head for head in self.unit.header if _YEAR.search(head)), "")
            text = " ".join(part for part in (label, year, self.caption) if part)
        return text[:_MAX_EMBEDDED_CHARS]


@dataclass(frozen=True, slots=True)
class Quote:
    """What is quoted of one passage, in one go."""

    passage: int
    text: str
    score: float


class Selection:
    """The units of all passages, and the question's terms with their weights."""

    def __init__(self, question: str, passages: Sequence[ChunkText]) -> None:
        self.question = question
        self.focus = focus_of(question)
        self.years = set(_YEAR.findall(question))
        self.wide = bool(_WIDE.search(question))
        self._units = [units(passage.content) for passage in passages]
        self._terms = [[set(analyse(unit.text)) for unit in part] for part in self._units]
        self._contexts = [
            set(analyse(" ".join((p.document_name.replace("_", " "), *p.heading_path)))) for p in passages
        ]
        self.weights = self._weigh(question)
        self._whole = sum(self.weights.values()) or 1.0
        self._names_found = [names for pattern, names in _ALSO_CALLED if pattern.search(self.focus)]
        self._synonyms = set(analyse(" ".join(self._names_found))) - self.weights.keys() - _stops()

    def _weigh(self, question: str) -> dict[str, float]:
        """Terms of the question with their weights: rare ones more, those beside the point and synonyms less."""
        frequency = Counter(term for part in self._terms for unit in part for term in unit)
        count = sum(len(part) for part in self._terms)
        wanted = set(analyse(self.focus))
        everything = list(dict.fromkeys(analyse(question)))
        asked = [term for term in everything if term not in _stops() and not _YEAR_TERM.fullmatch(term)]
        weights: dict[str, float] = {}
        for term in asked or everything:
            weight = math.log(1 + (count + 1) / (frequency[term] + 0.5))
            if len(term) == 1 and _WIDE.match(term):
                weight *= _SINGLE_WIDE_WEIGHT
            weights[term] = weight if term in wanted else weight * _ASIDE_WEIGHT
        return weights

    def text_to_embed(self) -> str:
        """The question's point, with the names that reports have for it."""
        return " ".join((self.focus[:_MAX_QUESTION_CHARS], *self._names_found))

    def candidates(self, limit: int) -> list[Candidate]:
        """The best `limit` units by words, each of the first three passages with one at least."""
        found = [candidate for passage in range(len(self._units)) for candidate in self._of(passage)]
        found.sort(key=lambda c: c.lexical, reverse=True)
        chosen = found[:limit]
        missing = {0, 1, 2} - {candidate.passage for candidate in chosen}
        spare = [next((c for c in found if c.passage == passage), None) for passage in sorted(missing)]
        extra = [candidate for candidate in spare if candidate is not None]
        return chosen[: limit - len(extra)] + extra

    def _of(self, passage: int) -> list[Candidate]:
        result: list[Candidate] = []
        caption, above = "", set[str]()
        headers: dict[tuple[str, ...], set[str]] = {}
        total = len(self._units)
        for place, (unit, terms) in enumerate(zip(self._units[passage], self._terms[passage], strict=True)):
            if unit.kind == "heading" or _is_title(unit):
                caption, above = unit.text, terms
                continue
            if len(unit.text) < _MIN_CHARS and not _WIDE.search(unit.text):
                continue
            if unit.header not in headers:
                headers[unit.header] = set(analyse(" ".join(unit.header)))
            header = headers[unit.header]
            around = self._contexts[passage] | above | header
            if place and _LEANS.match(unit.text):
                around |= self._terms[passage][place - 1]
            own = sum(weight for term, weight in self.weights.items() if term in terms)
            lent = sum(weight for term, weight in self.weights.items() if term not in terms and term in around)
            coverage = min(1.0, (own + _CONTEXT_WEIGHT * lent) / self._whole + self._share_of_synonyms(terms))
            lexical = coverage + 0.3 * self.fit(unit) + 0.1 * (1 - passage / total) - _penalty(unit)
            result.append(Candidate(passage, place, unit, caption, coverage, own / self._whole, lexical))
        return result

    def _share_of_synonyms(self, terms: set[str]) -> float:
        return _ALSO_WEIGHT * len(self._synonyms & terms) / len(self._synonyms) if self._synonyms else 0.0

    def fit(self, unit: Unit) -> float:
        """0 to 1: whether the unit holds the kind of thing that is asked for."""
        text = unit.text
        if unit.kind == "row" and self.years & set(_YEAR.findall(" ".join(unit.header))):
            return 0.8 if any(_DIGIT.search(cell) for cell in unit.cells[1:]) else 0.0
        if _TIME_ASKED.search(self.question):
            return 0.6 if _DATE.search(text) else 0.0
        if _WHO_ASKED.search(self.question):
            return 0.4 if _NAME.search(text) else 0.0
        if _NUMBER_ASKED.search(self.question):
            if unit.kind == "row":
                return 0.6 if sum(bool(_DIGIT.search(cell)) for cell in unit.cells[1:]) else 0.0
            return 0.4 if _COUNT.search(text) else 0.0
        return 0.0

    def quote(self, candidate: Candidate) -> tuple[int, int]:
        """The places of the units to quote for `candidate`: itself, and the sentence it leans on."""
        place = candidate.place
        part = self._units[candidate.passage]
        if candidate.unit.kind == "row" or not _LEANS.match(candidate.unit.text):
            return place, place
        before = part[place - 1] if place else None
        if before is None or before.kind != "sentence" or before.block != candidate.unit.block:
            return place, place
        return place - 1, place

    def text(self, passage: int, first: int, last: int) -> str:
        """The quotation of units `first` to `last`."""
        part = self._units[passage][first : last + 1]
        return " ".join(self._shown(unit) for unit in part)

    def _shown(self, unit: Unit) -> str:
        if unit.kind == "row":
            return row_text(unit, self._asked_columns(unit))
        return re.sub(r"^(?:[-*+•●▪◦‣–]|\(?\d{1,3}[.)])\s+", "", unit.text)

    def _asked_columns(self, unit: Unit) -> tuple[int, ...]:
        """Columns whose head the question names, where it names some but not all."""
        named = [
            index
            for index, head in enumerate(unit.header)
            if index
            and unit.cells[index]
            and (self.years & set(_YEAR.findall(head)) if self.years else self._names(head))
        ]
        return tuple(named)

    def _names(self, head: str) -> bool:
        terms = [term for term in analyse(head) if term not in _stops()]
        return bool(terms) and all(term in self.weights for term in terms)


def choose(
    selection: Selection, found: Sequence[Candidate], cosines: NDArray[np.float32], alike: NDArray[np.float32]
) -> list[Quote]:
    """The quotations that answer, best first; empty if none does.

    Args:
        cosines: Of each candidate with the question, shape (n,).
        alike: Of the candidates with each other, shape (n, n).
    """
    # The embedding model reads English; for other scripts words decide.
    by_meaning = 0.2 if selection.wide else 0.55
    scores = [
        by_meaning * float(cosines[i]) + (1 - by_meaning) * c.coverage + 0.25 * selection.fit(c.unit)
        + 0.04 * (1 - c.passage / 12) - _penalty(c.unit)
        for i, c in enumerate(found)
    ]  # fmt: skip
    order = sorted(range(len(found)), key=lambda i: scores[i], reverse=True)
    if not order or not _answers(selection, found[order[0]], float(cosines[order[0]])):
        return []
    best = scores[order[0]]
    taken: list[int] = []
    for index in order:
        if len(taken) == MAX_QUOTES or scores[index] < best - MARGIN:
            break
        if all(alike[index, other] < SAME and found[index].unit.text != found[other].unit.text for other in taken):
            taken.append(index)
    return _merged(selection, [(found[i], scores[i]) for i in taken])


def _answers(selection: Selection, best: Candidate, cosine: float) -> bool:
    """Whether the best unit is about the question at all."""
    if selection.wide:
        return 0.2 * cosine + 0.8 * best.coverage >= ENOUGH_WIDE
    # The embedding model makes little of a row's label; that its table has the year asked for counts instead.
    fit = 0.1 * selection.fit(best.unit) if best.unit.kind == "row" else 0.0
    return 0.5 * cosine + 0.5 * best.coverage + fit >= ENOUGH


def _merged(selection: Selection, taken: Sequence[tuple[Candidate, float]]) -> list[Quote]:
    """Quotations with overlapping or touching ones of a passage made one, in the order of the best of each."""
    spans: list[tuple[int, int, int, float]] = []
    for candidate, score in taken:
        first, last = selection.quote(candidate)
        for index, (passage, start, end, best) in enumerate(spans):
            if passage == candidate.passage and first <= end + 1 and last >= start - 1:
                spans[index] = (passage, min(first, start), max(last, end), best)
                break
        else:
            spans.append((candidate.passage, first, last, score))
    return [Quote(passage, selection.text(passage, first, last), score) for passage, first, last, score in spans]


def row_text(unit: Unit, columns: Sequence[int]) -> str:
    """A table row in words: its label, then `head: value` of the given columns, else of all."""
    label = unit.cells[0]
    values = []
    sign = ""
    for index, cell in enumerate(unit.cells[1:], 1):
        if cell in ("$", "€", "£", "¥"):
            sign = cell + " "  # A column of its own, as parsed tables have them.
            continue
        if cell and (not columns or index in columns):
            head = unit.header[index]
            values.append(f"{head}: {sign}{cell}" if head else sign + cell)
        sign = ""
    if not values:
        return f"{unit.header[0]}: {label}" if unit.header[0] and unit.header[0] != label else label
    joined = "; ".join(values)
    return f"{label} – {joined}" if label else joined


def _is_title(unit: Unit) -> bool:
    """A short line without an end: a caption, a running head, a lone field."""
    text = unit.text
    return unit.kind == "sentence" and len(text) < 70 and text[-1] not in _ENDS and not _DIGIT.search(text)


def _penalty(unit: Unit) -> float:
    """Long sentences quote badly; lines without an end are captions more often than statements."""
    too_long = 0.1 * min(1.0, max(0.0, (len(unit.text) - 240) / 600))
    if unit.kind == "row":
        return too_long if any(unit.cells[1:]) else 0.3
    return too_long + (0.0 if unit.text[-1] in _ENDS or _FIGURE_END.search(unit.text) else 0.15)


def focus_of(question: str) -> str:
    """The part that asks, without the instructions around it: the last clause with a question mark, else all."""
    asking = _ASKING.findall(question)
    if not asking:
        return question
    clause = str(asking[-1]).rpartition(": ")[2].strip()
    return clause if len(clause) > 12 or _WIDE.search(clause) else question


def _stops() -> frozenset[str]:
    global _stop_terms
    if not _stop_terms:
        _stop_terms = frozenset(analyse(_STOP_WORDS))
    return _stop_terms


_stop_terms: frozenset[str] = frozenset()
