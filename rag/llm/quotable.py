"""What of the passages answers a question: preselection by words, and the choice among the embedded few."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag.core.types import ChunkText
from rag.llm.question import (
    ALSO_CALLED,
    NUMBER_ASKED,
    REASON_ASKED,
    TIME_ASKED,
    WHO_ASKED,
    YEAR_TERM,
    focus_of,
    spoken_names,
    stops,
)
from rag.llm.quote_text import readable, row_text
from rag.nlp.analysis import analyse
from rag.nlp.sentences import Unit, units
from rag.nlp.tables import is_figure, split_figures

_NAMED_SHARE = 0.9
_SCOPE_WEIGHT = 0.2
_ASIDE_WEIGHT = 0.15
_LEANS = re.compile(
    r"(?:(?:it|its|they|their|them|he|his|she|her|this|these|those|that|such|both|neither|the (?:latter|former|same)|"
    r"however|therefore|thus|hence|consequently|moreover|furthermore|additionally|in addition|as a result|"
    r"accordingly|instead|otherwise|also|conversely|similarly|likewise|nevertheless|for example|for instance|"
    r"in contrast|by contrast|then|but|and|or|so)\b|"
    r"(?:他|她|它|这|那|其|此|该|因此|所以|然而|但是|但|此外|另外|同时|不过|于是))",
    re.IGNORECASE,
)
_REASON = re.compile(
    r"\b(?:because|due to|driven by|caused by|result(?:ed|s)? (?:of|from|in)|owing to|attributable to|reflecting|"
    r"led to|thanks to|as a result)\b|因为|由于",
    re.IGNORECASE,
)
_WHOLE_TABLE = re.compile(r"\bconsolidated (?:statement|balance)", re.IGNORECASE)
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
_VAGUE = re.compile(r"(?:total|other|net|basic|diluted|other, net|amount|subtotal)", re.IGNORECASE)
_SINGLE_WIDE_WEIGHT = 0.25
_CONTEXT_WEIGHT = 0.5
_MEASURE = re.compile(
    r"[$€£¥]\s?\d|\d\s?%|\b\d{1,3}(?:,\d{3})+|\d (?:percent|per cent|million|billion|thousand|hundred)\b", re.IGNORECASE
)
_SCALE = re.compile(r"\bin (thousands|millions|billions)\b|^\((Thousands|Millions|Billions)\)", re.IGNORECASE)
_PER_SHARE = re.compile(r"\bper\b|%|\brates?\b|\bmargin|\bshares\b", re.IGNORECASE)
_CAPITAL = re.compile(r"(?<=[\w,] )[A-Z][\w&-]+")
_MAX_PART_CHARS = 60
_MAX_SCALE_CHARS = 240
# What follows is set by hand on 54 questions to nine annual reports, not fitted; only `ENOUGH` has a larger basis.
_FOREIGN = 0.35
"""What a passage of another document loses when the question names one."""
_LABEL_ENOUGH = 0.5
"""The share of the question's weight that a row's own label must hold."""
_EXACT = 0.35
"""What a row gains whose label is what is asked for."""
_WHOLE = 0.08
_PROSE = 0.04
_MAX_EMBEDDED_CHARS = 200
_MIN_CHARS = 12
_MAX_QUESTION_CHARS = 400
_MOST_NAMES = 64
_MAX_FIGURE_CHARS = 40
"""Where a figure at the end of a text is looked for: from each digit of a long row of them it takes quadratic time."""
_FIGURE_END = re.compile(r"\d[\d,.]*\)?%?$")
_FIGURE_WORD = re.compile(r"(?<!\S)[$(]*\d[\d,.]*\)?%?(?!\S)|N/A")
_ENDS = ".!?。！？;；\"'”"
MAX_QUOTES = 3
_LEAST_OF_BEST = 0.6
"""The share of the best one's coverage that a further quotation must have."""
_AT_HOME = 0.06
"""How much less is asked for in a document that the question names: its name is no longer counted as a word."""
_STRANGER = 0.08
"""How much more is asked for where no passage knows a name of the question."""
_COVERED_AT_HOME = 0.55
"""The share of the question that a figure's sentence must hold in a document that the question names, where nothing is
known of the search."""
MARGIN = 0.1
"""How far below the best score a further quotation may lie."""
_AT_HOME_LIMITS = (4, 0.4, 0.2)
"""Instead of these three, most quotations, `MARGIN` and `_LEAST_OF_BEST`, in a document that the question names and the
search found: its passages are much alike, and the answer is often not in the one that repeats the question's words.
Chosen on FinanceBench's 40 questions, so no more than a sign."""
SAME = 0.9
"""Cosine from which two units say the same."""
ENOUGH = 0.36
ENOUGH_WIDE = 0.275
"""Fitted on XQuAD, English and Chinese: questions against their own paragraphs and against those of other articles;
95 % (89 % in Chinese) of either kind fall on the right side."""
_OWN_SHARE = 0.4
ENOUGH_EVIDENCE = 0.44
"""Where the search tells what it found: the share was fitted on one half of MTRAG-UN, questions with an answer in the
set against those without; `make bench ARGS=refusals` tells both halves. The bound keeps 95 % of XQuAD's questions and
93 % of MTRAG-UN's; .47 keeps 93 % and 90 %."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A unit that may be quoted; `place` is its index among the units of its passage."""

    passage: int
    place: int
    unit: Unit
    caption: str
    coverage: float
    label: float
    exact: float
    lexical: float

    def text_to_embed(self) -> str:
        """The unit; of a row its label and its table's caption, because figures blur what it is about."""
        text = self.unit.text
        if self.unit.kind == "row":
            label = next((cell for cell in self.unit.cells if _LETTER.search(cell)), text)
            year = next((head for head in self.unit.header if _YEAR.search(head)), "")
            text = " ".join(part for part in (label, self.unit.section, year, self.caption) if part)
        return text[:_MAX_EMBEDDED_CHARS]


@dataclass(frozen=True, slots=True)
class Quote:
    """What is quoted of one passage, in one go."""

    passage: int
    text: str
    score: float


class Selection:
    """The units of all passages, and the question's terms with their weights.

    The terms that name the documents (a company, its years) say which passages are meant, not which sentence: they
    weigh little as words, and passages of documents that have such a name are preferred.
    """

    def __init__(self, question: str, passages: Sequence[ChunkText]) -> None:
        self.question = question
        self.focus = focus_of(question)
        self._wanted = set(analyse(self.focus))
        self.years = set(_YEAR.findall(question))
        self.reason = bool(REASON_ASKED.search(self.focus))
        self.wide = bool(_WIDE.search(question))
        self._units = [units(passage.content) for passage in passages]
        self._terms = [[set(analyse(unit.text)) for unit in part] for part in self._units]
        self._headings = [set(analyse(" ".join(passage.heading_path))) for passage in passages]
        self._names = [set(analyse(passage.document_name.replace("_", " "))) for passage in passages]
        self._statements = [bool(_WHOLE_TABLE.search(passage.content)) for passage in passages]
        self._asked_names = spoken_names(question)
        self._scopes = [self._scope(names) for names in self._names]
        self.weights = self._weigh(question)
        self._whole = sum(self.weights.values()) or 1.0
        self._called = self._other_names()
        # Known before the units are looked at: question and passages may both be long.
        naming = set().union(*self._scopes)
        self._place = {term: place for place, term in enumerate(self.weights)}
        self._content = {t: w for t, w in self.weights.items() if t not in naming and not _YEAR.fullmatch(t)}
        self._content_whole = sum(self._content.values()) or 1.0
        wanted = self.weights.keys() & self._wanted
        self._asked = {t for t in wanted if t not in naming and not t.isdigit()} - stops()
        self._when = bool(TIME_ASKED.search(question))
        self._who = bool(WHO_ASKED.search(question))
        self.asks_number = bool(NUMBER_ASKED.search(self.focus))

    def _scope(self, names: set[str]) -> frozenset[str]:
        """The question's terms that name this passage's document."""
        found = set()
        for spoken, terms in self._asked_names.items():
            if any(name == spoken or (len(spoken) > 3 and name.startswith(spoken)) for name in names):
                found |= terms
        return frozenset(found)

    def _weigh(self, question: str) -> dict[str, float]:
        """Terms of the question with their weights: rare ones more, those beside the point less."""
        frequency = Counter(term for part in self._terms for unit in part for term in unit)
        count = sum(len(part) for part in self._terms)
        wanted = self._wanted
        naming = set().union(*self._scopes)
        everything = list(dict.fromkeys(analyse(question)))
        asked = [term for term in everything if term not in stops() and not YEAR_TERM.fullmatch(term)]
        weights: dict[str, float] = {}
        for term in asked or everything:
            weight = math.log(1 + (count + 1) / (frequency[term] + 0.5))
            if len(term) == 1 and _WIDE.match(term):
                weight *= _SINGLE_WIDE_WEIGHT
            if term in naming or _YEAR.fullmatch(term):
                weight *= _SCOPE_WEIGHT
            weights[term] = weight if term in wanted else weight * _ASIDE_WEIGHT
        return weights

    def _other_names(self) -> list[tuple[set[str], list[set[str]]]]:
        """Per thing asked for that has other names: the question's terms for it, and the terms of each name."""
        found = []
        for pattern, names in ALSO_CALLED:
            match = pattern.search(self.focus)
            if match:
                terms = set(analyse(match[0])) & self.weights.keys()
                found.append((terms, [_name_terms(name) for name in names]))
        return found

    def _meant(self, terms: set[str]) -> set[str]:
        """The question's terms that a unit holds by another name."""
        meant: set[str] = set()
        for asked, names in self._called:
            if any(name <= terms for name in names):
                meant |= asked
        return meant - terms

    def text_to_embed(self) -> str:
        """The question's point, with the names that reports have for it."""
        names = [first for pattern, (first, *_) in ALSO_CALLED if pattern.search(self.focus)]
        return " ".join((self.focus[:_MAX_QUESTION_CHARS], *names))

    def candidates(self, limit: int) -> list[Candidate]:
        """The best `limit` units by words, each of the first three passages with one at least."""
        everything = (candidate for passage in range(len(self._units)) for candidate in self._of(passage))
        found = [candidate for candidate in everything if candidate.label >= _LABEL_ENOUGH]
        found.sort(key=lambda c: c.lexical, reverse=True)
        chosen = found[:limit]
        missing = {0, 1, 2} - {candidate.passage for candidate in chosen}
        spare = [next((c for c in found if c.passage == passage), None) for passage in sorted(missing)]
        extra = [candidate for candidate in spare if candidate is not None]
        return chosen[: limit - len(extra)] + extra

    def passages(self, keep: int) -> list[int]:
        """The `keep` passages most worth reading, in their order: half for their rank, half for their best unit."""
        first = range(min(len(self._units), -(-keep // 2)))
        best = {
            passage: max((c.lexical for c in self._of(passage)), default=0.0) for passage in range(len(self._units))
        }
        rest = sorted(best.keys() - set(first), key=lambda passage: best[passage], reverse=True)
        return sorted([*first, *rest[: keep - len(first)]])

    def _of(self, passage: int) -> list[Candidate]:
        result: list[Candidate] = []
        caption, above = "", set[str]()
        near: dict[tuple[str, ...], set[str]] = {}
        total = len(self._units)
        beside = self._headings[passage] | self._names[passage] | self._scopes[passage]
        for place, (unit, terms) in enumerate(zip(self._units[passage], self._terms[passage], strict=True)):
            if unit.kind == "heading" or _is_title(unit):
                caption, above = unit.text, terms
                continue
            if not _quotable(unit):
                continue
            table = (unit.section, *unit.header)
            if table not in near:
                near[table] = set(analyse(" ".join(table)))
            around = beside | above | near[table]
            if place and _LEANS.match(unit.text):
                around |= self._terms[passage][place - 1]
            coverage, label = self._coverage(terms, around), self._label(unit, terms, near[table])
            whole = _WHOLE if unit.kind == "row" and self._statements[passage] else 0.0
            exact = self._exact(unit) if label >= _LABEL_ENOUGH and unit.kind == "row" else 0.0
            lexical = (
                coverage
                + whole
                + 0.4 * exact
                + 0.3 * self.fit(unit)
                + self.belongs(passage)
                + 0.1 * (1 - passage / total)
            )
            result.append(Candidate(passage, place, unit, caption, coverage, label, exact, lexical - _penalty(unit)))
        return result

    def _coverage(self, terms: set[str], around: set[str]) -> float:
        """The share of the question's weight that a unit holds, what stands around it counted half."""
        meant = self._meant(terms)
        total = 0.0
        for term in self._in_order(self.weights.keys() & (terms | meant | around)):
            share = 1.0 if term in terms else _NAMED_SHARE if term in meant else _CONTEXT_WEIGHT
            total += share * self.weights[term]
        return min(1.0, total / self._whole)

    def _in_order(self, terms: set[str]) -> list[str]:
        """Terms of the question as they stand there: sums of the same weights are equal to the last digit."""
        return sorted(terms, key=self._place.__getitem__)

    def _label(self, unit: Unit, terms: set[str], near: set[str]) -> float:
        """Of a row, how much of the question's weight its label and heads hold, names and years apart."""
        if unit.kind != "row":
            return 1.0
        content = self._content
        held = terms | self._meant(terms)
        own = sum(content[term] for term in self._in_order(content.keys() & held))
        lent = sum(content[term] for term in self._in_order(content.keys() & (near - held)))
        return (own + 0.5 * lent) / self._content_whole if own else 0.0

    def _exact(self, unit: Unit) -> float:
        """Of a row, how nearly its label says what is asked for and nothing else."""
        if self.reason or not any(is_figure(cell) for cell in unit.cells[1:]):
            return 0.0
        label = set(analyse(unit.cells[0])) - stops()
        asked = self._asked
        names = [name for _, every in self._called for name in every if name <= label]
        best = max(_likeness(label, name) for name in (asked, *names))
        meant = self._meant(label) | (label & asked)
        muddled = any(len(split_figures(cell)) > 1 for cell in unit.cells[1:])
        return max(best, len(meant) / len(asked) * 0.8 if asked and meant else 0.0) * (0.3 if muddled else 1.0)

    def belongs(self, passage: int) -> float:
        """Less than 0 for a passage of another document than those the question names."""
        named = max((len(scope) for scope in self._scopes), default=0)
        return -_FOREIGN * (1 - len(self._scopes[passage]) / named) if named else 0.0

    def at_home(self, passage: int) -> bool:
        """Whether the question names this passage's document."""
        return bool(self._scopes[passage])

    def whole(self, candidate: Candidate) -> bool:
        """Whether a row stands in a statement of the whole, not of a part."""
        return candidate.unit.kind == "row" and self._statements[candidate.passage]

    def fit(self, unit: Unit) -> float:
        """0 to 1: whether the unit holds the kind of thing that is asked for, and of the year asked for."""
        text = unit.text
        fits = 0.0
        if self.reason:
            return 0.5 if unit.kind == "sentence" and _REASON.search(text) else 0.0
        if self._when:
            fits = 0.6 if _DATE.search(text) else 0.0
        elif self._who:
            fits = 0.4 if _NAME.search(text) else 0.0
        elif self.asks_number:
            if unit.kind == "row":
                heads = set(_YEAR.findall(" ".join(unit.header)))
                return 0.8 if self.years & heads else 0.1 if self.years and heads else 0.5
            fits = 0.7 if _MEASURE.search(text) else 0.4 if _COUNT.search(_YEAR.sub("", text)) else 0.0
        elif unit.kind == "row":
            return 0.0
        if fits and self.years:
            stated = set(_YEAR.findall(text))
            fits += 0.2 if self.years & stated else -0.5 if stated else 0.0
        return fits

    def names_unknown(self) -> bool:
        """Whether the question has names, and no passage knows any of them."""
        names = [set(analyse(name)) - stops() for name in _CAPITAL.findall(self.focus)[:_MOST_NAMES]]
        known = set().union(*self._names, *(unit for part in self._terms for unit in part))
        return any(names) and all(terms.isdisjoint(known) for terms in names)

    def is_prose(self, passage: int, first: int, last: int) -> bool:
        """Whether the units `first` to `last` are sentences."""
        return all(unit.kind == "sentence" for unit in self._units[passage][first : last + 1])

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
        return " ".join(self._shown(unit, passage) for unit in part)

    def _shown(self, unit: Unit, passage: int) -> str:
        if unit.kind == "row":
            return row_text(unit, self._asked_columns(unit), self._scale(unit, passage), self._part(unit))
        return readable(unit.text)

    def _part(self, unit: Unit) -> str:
        """The section of a row, where it says more of what is asked for than the label."""
        beyond = set(analyse(unit.section)) - set(analyse(unit.cells[0]))
        vague = _VAGUE.fullmatch(unit.cells[0].rstrip(": "))
        said = (beyond & self._wanted & self.weights.keys() or vague) and len(unit.section) < _MAX_PART_CHARS
        return unit.section if said and not _YEAR.search(unit.section) else ""

    def _scale(self, unit: Unit, passage: int) -> str:
        """`millions`, where the table's head or the lines above it say so."""
        above: list[str] = []
        for other in self._units[passage]:
            if other is unit:
                break
            if other.kind == "sentence" and len(other.text) < _MAX_SCALE_CHARS:
                above.append(other.text)
        for text in (" ".join(unit.header), *reversed(above)):
            found = _SCALE.search(text)
            if found and not _PER_SHARE.search(unit.text):
                return str(found[1] or found[2]).lower()
        return ""

    def _asked_columns(self, unit: Unit) -> tuple[int, ...]:
        """Columns whose head the question names, where it names some but not all."""
        named = [
            index
            for index, head in enumerate(unit.header)
            if index
            and unit.cells[index]
            and (self.years & set(_YEAR.findall(head)) if self.years else self._names_head(head))
        ]
        return tuple(named)

    def _names_head(self, head: str) -> bool:
        terms = [term for term in analyse(head) if term not in stops()]
        return bool(terms) and all(term in self.weights for term in terms)


@dataclass(frozen=True, slots=True)
class Weighed:
    """Candidates with the cosine of each with the question, shape (n,), and with each other, shape (n, n); and what the
    search says of its best hits, 0 to 1, None if that is not known."""

    found: Sequence[Candidate]
    cosines: NDArray[np.float32]
    alike: NDArray[np.float32]
    evidence: float | None = None

    def scores(self, selection: Selection) -> list[float]:
        """How well each candidate answers; only to rank them."""
        # The embedding model reads English; for other scripts words decide.
        by_meaning = 0.2 if selection.wide else 0.55
        return [
            by_meaning * float(self.cosines[i]) + (1 - by_meaning) * c.coverage + 0.25 * selection.fit(c.unit)
            + 0.04 * (1 - c.passage / 12) + selection.belongs(c.passage) - _penalty(c.unit)
            + _EXACT * c.exact + (_WHOLE if selection.whole(c) else 0.0)
            + (_PROSE if c.unit.kind == "sentence" else 0.0)
            for i, c in enumerate(self.found)
        ]  # fmt: skip


def choose(selection: Selection, weighed: Weighed) -> list[Quote]:
    """The quotations that answer, best first; empty if none does."""
    found, scores = weighed.found, weighed.scores(selection)
    order = sorted(range(len(found)), key=lambda i: scores[i], reverse=True)
    if not order or _trust(selection, found[order[0]], float(weighed.cosines[order[0]]), weighed.evidence) < 0:
        return []
    first = found[order[0]]
    at_home = weighed.evidence is not None and selection.at_home(first.passage)
    most, margin, share = _AT_HOME_LIMITS if at_home else (MAX_QUOTES, MARGIN, _LEAST_OF_BEST)
    taken: list[int] = []
    for index in order:
        if len(taken) == most or scores[index] < scores[order[0]] - margin:
            break
        other = found[index]
        if other.coverage < share * first.coverage or other.exact < share * first.exact:
            continue
        if all(weighed.alike[index, each] < SAME and found[index].unit.text != found[each].unit.text for each in taken):
            taken.append(index)
    return _merged(selection, [(found[i], scores[i]) for i in taken])


def trust(selection: Selection, weighed: Weighed) -> float:
    """By how much the best candidate is worth an answer; below 0 it is not, and `choose` returns nothing."""
    scores = weighed.scores(selection)
    best = max(range(len(scores)), key=lambda i: scores[i])
    return _trust(selection, weighed.found[best], float(weighed.cosines[best]), weighed.evidence)


def _trust(selection: Selection, best: Candidate, cosine: float, evidence: float | None) -> float:
    if selection.wide:
        return 0.2 * cosine + 0.8 * best.coverage - ENOUGH_WIDE
    # The embedding model makes little of a row's label; that its table has the year asked for counts instead.
    fit = 0.1 * selection.fit(best.unit) if best.unit.kind == "row" else 0.0
    own = 0.5 * cosine + 0.5 * best.coverage + fit + 0.2 * best.exact + selection.belongs(best.passage) / 2
    if selection.names_unknown():
        own -= _STRANGER
    elif selection.at_home(best.passage):
        number = selection.asks_number and not selection.reason
        if evidence is None and number and best.coverage < _COVERED_AT_HOME:
            return -1.0
        return own - ENOUGH + _AT_HOME
    # Passages of a document that the question names are all alike to the search; of others it knows more than a quote.
    return own - ENOUGH if evidence is None else evidence + _OWN_SHARE * own - ENOUGH_EVIDENCE


def _merged(selection: Selection, taken: Sequence[tuple[Candidate, float]]) -> list[Quote]:
    """Quotations with overlapping or touching ones of a passage made one, in the order of the best of each."""
    spans: list[tuple[int, int, int, float]] = []
    for candidate, score in taken:
        first, last = selection.quote(candidate)
        for index, (passage, start, end, best) in enumerate(spans):
            near = first <= end + 1 and last >= start - 1 and candidate.unit.kind == "sentence"
            if passage == candidate.passage and near and selection.is_prose(passage, start, end):
                spans[index] = (passage, min(first, start), max(last, end), best)
                break
        else:
            spans.append((candidate.passage, first, last, score))
    return [Quote(passage, selection.text(passage, first, last), score) for passage, first, last, score in spans]


def _quotable(unit: Unit) -> bool:
    """Whether the unit says something on its own: no stump, no line of figures, no line of a table without them."""
    if unit.kind == "row":
        return bool(_LETTER.search(unit.text)) and (len(unit.cells) == 1 or any(unit.cells[1:]))
    if len(unit.text) < _MIN_CHARS and not _WIDE.search(unit.text):
        return False
    return bool(_LETTER.search(unit.text))


def _name_terms(name: str) -> set[str]:
    """The terms of a name; small words only where one term would be left of several (`capital spending`)."""
    terms = set(analyse(name))
    telling = terms - stops()
    return telling if len(telling) > 1 or len(terms) == 1 else terms


def _likeness(one: set[str], other: set[str]) -> float:
    """The share of the terms of both that they have in common."""
    common = len(one & other)
    return common / (len(one) + len(other) - common or 1)


def _is_title(unit: Unit) -> bool:
    """A short line without an end: a caption, a running head, a lone field."""
    text = unit.text
    return unit.kind == "sentence" and len(text) < 70 and text[-1] not in _ENDS and not _DIGIT.search(text)


def _penalty(unit: Unit) -> float:
    """Long sentences quote badly; lines without an end are captions more often than statements, others are halves."""
    too_long = 0.1 * min(1.0, max(0.0, (len(unit.text) - 240) / 600))
    if unit.kind == "row":
        muddled = any(len(split_figures(cell)) > 1 for cell in unit.cells[1:])
        return too_long + (0.2 if muddled else 0.0) if any(unit.cells[1:]) else 0.3
    figures = len(_FIGURE_WORD.findall(unit.text))
    if figures > 4 and figures * 3 > unit.text.count(" "):
        too_long += 0.3
    ended = unit.text[-1] in _ENDS or bool(_FIGURE_END.search(unit.text[-_MAX_FIGURE_CHARS:]))
    halved = unit.text[0].islower() or unit.text[0] in ",;)"
    return too_long + (0.0 if ended else 0.2) + (0.15 if halved else 0.0)


def worth_reading(question: str, passages: Sequence[ChunkText], keep: int) -> list[int]:
    """Which `keep` of the passages a search found to quote from, in their order."""
    return list(range(len(passages))) if len(passages) <= keep else Selection(question, passages).passages(keep)
