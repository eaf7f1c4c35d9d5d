"""What a text is about: its words without those that say little, as they stand there."""

import re
from collections import Counter
from collections.abc import Iterator

from rag.nlp.analysis import analyse
from rag.nlp.function_words import CHINESE, ENGLISH

TALK = "ah bye fine good great haha hello hey hi hmm nice oh ok okay perfect right sorry sure thank thanks wow yeah yes"
_WISHES = "get give got help information know like mean need see tell think understand want"
_CONTRACTED = re.compile(r".*(?:n['’]t|['’](?:s|d|m|ll|re|ve))", re.IGNORECASE)
WORD = re.compile(r"[^\W_]+(?:['’&.+-][^\W_]+)*[+#]{0,2}")
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
# Of the small words those that are seldom part of a name, as 都 is of 京都.
_WIDE_BREAK = re.compile("为什么|什么|哪些|多少|如何|怎么|请问|[的了是吗呢哪谁它他她]")
_LONGEST_WORD = 40
_NAME_WEIGHT = 2.0
_MOST_LETTERS = 12


def subject_words(text: str) -> Iterator[str]:
    """The words of `text` that say what it is about, in order, each as often as it stands there; of Chinese the runs
    between its small words. Longer ones are cut at 40 characters."""
    for word in WORD.findall(text):
        if _CONTRACTED.fullmatch(word):
            word = re.split("['’]", word, maxsplit=1)[0]
            if word.lower().endswith("n"):
                continue
        wide = _WIDE.search(word) is not None
        for piece in _WIDE_BREAK.split(word) if wide else [word]:
            if len(piece) > wide and subject_terms(piece):
                yield piece[:_LONGEST_WORD]


def subject_terms(text: str) -> set[str]:
    """The index terms of `text` without those of words that say little."""
    return set(analyse(text)) - _stops()


def heaviest_words(text: str, most: int) -> list[str]:
    """Up to `most` different words of `text`, those that tell the most about it, in their order.

    Without an index to ask how rare they are: long words, names and numbers weigh more, and so does what is repeated.
    """
    counts = Counter(subject_words(text))
    by_terms: dict[frozenset[str], str] = {}
    for word in counts:
        by_terms.setdefault(frozenset(analyse(word)), word)
    first = list(by_terms.values())

    def weight(word: str) -> float:
        named = word[0].isupper() or word[0].isdigit()
        return counts[word] * min(len(word), _MOST_LETTERS) * (_NAME_WEIGHT if named else 1.0)

    chosen = set(sorted(first, key=weight, reverse=True)[:most])
    return [word for word in first if word in chosen]


def _stops() -> frozenset[str]:
    global _stop_terms
    if not _stop_terms:
        _stop_terms = frozenset(analyse(" ".join((ENGLISH, CHINESE, TALK, _WISHES))))
    return _stop_terms


_stop_terms: frozenset[str] = frozenset()
