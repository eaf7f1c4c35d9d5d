"""The question: what it asks for, and of what kind; the words that say little, and what reports call its things."""

import re
from itertools import islice

from rag.nlp.analysis import analyse
from rag.nlp.function_words import CHINESE, ENGLISH

_STOP_WORDS = f"""
    {ENGLISH} {CHINESE}
    fy fiscal year usd million millions billion billions dollar dollars amount amounts end units unit
    spend spent hold held january february march april may june july august september october november december
"""
# What reports call what questions ask for; a unit that holds all words of one name holds the thing.
ALSO_CALLED: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), names)
    for pattern, names in (
        (
            r"\bcap(?:ital )?ex(?:penditures?)?\b|\bcapital spending\b",
            ("purchases of property plant equipment", "additions to property and equipment", "capital spending"),
        ),
        (r"\bpp&?n?e\b", ("property plant equipment", "property and equipment")),
        (r"\brevenues?\b", ("net sales",)),
        (r"\bsales\b", ("revenues",)),
        (r"\bcogs\b", ("cost of sales", "cost of goods sold", "cost of revenue")),
        (r"\bprofits?\b", ("income", "earnings")),
        (r"\bR&D\b", ("research development",)),
        (r"\bSG&A\b", ("selling general administrative",)),
        (r"\bEPS\b", ("earnings per share",)),
        (r"\b(?:FCF|free cash ?flow)\b", ("net cash provided by operating activities",)),
        (r"\bemployees?\b", ("employed people", "we employed")),
        (r"\bgross margins?\b", ("gross profit",)),
        (r"\boperating margins?\b", ("operating income",)),
    )
)
_LETTER = re.compile(r"[^\W\d_]")
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
YEAR_TERM = re.compile(r"fy(?:\d{2}|\d{4})")
# Begins where a clause can begin and nowhere else: tried from each letter of a long text, it took minutes.
_ASKING = re.compile(r"(?:^|(?<=[?!。？！])|(?<=\.)(?!\w))[^.?!。？！]*+(?:\.(?=\w)[^.?!。？！]*+)*+[?？]")
_LONGEST_CLAUSE = 2000
NUMBER_ASKED = re.compile(
    r"\bhow (?:much|many|long|old|far|large|big|high|often)\b|\b(?:amount|ratio|rate|percent(?:age)?|number|total|"
    r"margin|cost|price|value|size|population|pay|paid|spend|spent|revenues?|income|earnings|expenditures?|sales)\b|多少|几|多大|多长",
    re.IGNORECASE,
)
TIME_ASKED = re.compile(
    r"\bwhen\b|\bwhat (?:year|date|day|month|time)\b|\bwhich year\b|何时|什么时候|哪一?年", re.IGNORECASE
)
REASON_ASKED = re.compile(
    r"\bwhy\b|\bwhat (?:caused?|drove|drives|led|explains?)\b|\breasons?\b|\bhow come\b|为什么|为何", re.IGNORECASE
)
# `According to the data, how ...`: one part after the other; as one pattern it took cubic time.
_PART = re.compile(r"[^,:]*+[,:]")
_SOURCE = re.compile(
    r"\b(?:details?|information|statements?|sheet|data|items?|figures?|report|document|filing)\b", re.IGNORECASE
)
_ASKING_WORD = re.compile(
    r"\s++(?=(?:how|what|which|who|when|where|why|did|does|do|is|are|was|were|has|have)\b)", re.IGNORECASE
)
_MOST_NAMES = 64
"""Names of a question that are looked at, and as many pairs."""
WHO_ASKED = re.compile(r"\bwho(?:m|se)?\b|谁", re.IGNORECASE)


def search_text(question: str) -> str:
    """The question, with the names that reports have for what it asks for."""
    focus = focus_of(question)
    names = [first for pattern, (first, *_) in ALSO_CALLED if pattern.search(focus)]
    return " ".join((question, *names))


def focus_of(question: str) -> str:
    """The part that asks, without the instructions around it: the last clause with a question mark, else all."""
    asking = _ASKING.findall(question)
    if not asking or len(asking[-1]) > _LONGEST_CLAUSE:
        return question
    clause = _without_leading(str(asking[-1]).rpartition(": ")[2].strip())
    return clause if len(clause) > 12 or _WIDE.search(clause) else question


def _without_leading(clause: str) -> str:
    """The clause without the parts that name a source right before a word that asks."""
    kept, place = list[str](), 0
    while part := _PART.match(clause, place):
        asking = _ASKING_WORD.match(clause, part.end())
        if asking and _SOURCE.search(part[0]):
            place = asking.end()
        else:
            kept.append(part[0])
            place = part.end()
    return "".join((*kept, clause[place:]))


def spoken_names(question: str) -> dict[str, set[str]]:
    """The question's capitalised words, and pairs as one (`Best Buy` names BESTBUY), with their terms; the first 64
    of either."""
    words = [word for word in re.findall(r"[\w&]+", question) if _LETTER.search(word)]
    single = ((word,) for word in words if _is_name(word))
    double = (pair for pair in zip(words, words[1:], strict=False) if _is_name(pair[0]))
    spoken = {}
    for group in (*islice(single, _MOST_NAMES), *islice(double, _MOST_NAMES)):
        terms = set(analyse(" ".join(group))) - stops()
        joined = "".join(group).casefold()
        if terms or group[0][0].isdigit():
            spoken[joined] = terms
            for term in terms if len(group) == 1 else ():
                spoken[term] = terms
    return spoken


def _is_name(word: str) -> bool:
    return word[0].isupper() or word[0].isdigit()


def stops() -> frozenset[str]:
    """The terms of the words that say little."""
    global _stop_terms
    if not _stop_terms:
        _stop_terms = frozenset(analyse(_STOP_WORDS))
    return _stop_terms


_stop_terms: frozenset[str] = frozenset()
