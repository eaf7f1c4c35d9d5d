"""The last turn of a conversation as a search text that needs no conversation around it, by rule and without a model.

The turn stays as it was asked; what it leaves unsaid is put behind it: words of the question before, and names and
numbers of the first sentence of the last answer. How many depends on whether the turn leans on what was said.
"""

import re
from collections.abc import Iterable, Sequence

from rag.core.types import Turn
from rag.nlp.analysis import analyse
from rag.nlp.citation import without_marks
from rag.nlp.subject import TALK, WORD, subject_terms, subject_words

_SELF_CONTAINED_CHARS = 400
_READ_CHARS = 1000
_TURNS_BACK = 3
"""User turns in which a subject is looked for, the newest first, until one has a subject."""
_COMPARED_TURNS = 2
"""User turns, and the last answer, whose words tell whether the subject is still the same."""
_FROM_QUESTION = 8
_FROM_ANSWER = 6
_FROM_QUESTION_BEFORE = 3
"""Words carried over: the first two into a turn that leans on those before it, the last into any other one.

Chosen on one half of MTRAG-UN, see `bench/refinement.py`. From 6 to 16 words nDCG@5 differs by less than .01. The last
one weighs follow-ups that do not look like one (.88 with 0, .90 with 3, .90 with 4) against changes of the subject
(.88, .86, .83)."""
_SMALL_TALK = frozenset(f"{TALK} a i it no so that thx very much you 谢谢 好的 好 你好 再见".split())
_LEANS = re.compile(
    r"^\W{0,8}(?:and|or|but|so|then|also|what about|how about|why|how so|which one|even)\b|"
    r"\b(?:it|its|itself|they|them|their|theirs|this|that|these|those|he|she|him|her|hers|his|there|ones?|same|"
    r"others?|another|else|instead|too|both|either|neither|more|such|mean|meant|said|above|previous|again)\b|"
    r"[它他她这那其此该呢]|^\W{0,8}(?:还有|那么|为什么|怎么)",
    re.IGNORECASE,
)
_NO_ANSWER = re.compile(
    r"\b(?:sorry|unable|(?:do|does|did|can|could)(?: ?not|n['’]t) (?:have|know|find|answer|provide)|no information|"
    r"nothing in the documents)\b|抱歉|没有找到|不知道",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s|(?<=[。！？])|\n")
_YEAR = re.compile(r"(?:19|20)\d{2}")


def rewrite(turns: Sequence[Turn]) -> str:
    """The last turn, and behind it the subject words of those before it that it does not have; as asked where
    nothing is missing.

    Pure. Of earlier turns the last few are looked at, 1,000 characters of each. A turn of more than 400 characters,
    and one that asks nothing (thanks, emoji), stay as they are.

    Args:
        turns: The latest turns, the user's one last, at least one; system turns do not count.
    """
    asked = turns[-1].content
    if len(asked) > _SELF_CONTAINED_CHARS or _asks_nothing(asked):
        return asked
    questions, answer = _said(turns[-2 * _TURNS_BACK - 1 : -1])
    leans = _leans(asked, " ".join((*questions[:_COMPARED_TURNS], answer)))
    missing = _Missing(asked)
    for question in questions:
        if missing.take(subject_words(question), _FROM_QUESTION if leans else _FROM_QUESTION_BEFORE) > 1:
            break
    if leans:
        missing.take((word for word in subject_words(answer) if word[0].isupper() or word[0].isdigit()), _FROM_ANSWER)
    return " ".join((asked, *missing.words))


class _Missing:
    """Words that are not in the question yet."""

    def __init__(self, question: str) -> None:
        self.words: list[str] = []
        self._seen = set(analyse(question))
        self._has_year = _YEAR.search(question) is not None

    def take(self, words: Iterable[str], most: int) -> int:
        """Add up to `most` of `words`; returns how many were new. A year gives way to the question's own."""
        count = 0
        for word in words:
            terms = set(analyse(word))
            if count < most and not terms <= self._seen and not (self._has_year and _YEAR.fullmatch(word)):
                self._seen |= terms
                self.words.append(word)
                count += 1
        return count


def _asks_nothing(text: str) -> bool:
    return all(word.casefold() in _SMALL_TALK for word in WORD.findall(text))


def _leans(asked: str, told: str) -> bool:
    """Whether a question cannot be understood alone, or is about what was said before."""
    own = subject_terms(asked)
    return not own or bool(own & subject_terms(told)) or _LEANS.search(asked) is not None


def _said(turns: Sequence[Turn]) -> tuple[list[str], str]:
    """The starts of the last user turns, the newest first, and the first sentence of the last answer that says
    something; empty where there is none."""
    questions = [turn.content[:_READ_CHARS] for turn in turns if turn.role == "user"][: -_TURNS_BACK - 1 : -1]
    answers = [turn.content[:_READ_CHARS] for turn in turns if turn.role == "assistant"]
    sentences = _SENTENCE_END.split(without_marks(answers[-1])) if answers else []
    return questions, next((one for one in sentences if one.strip() and not _NO_ANSWER.search(one)), "")
