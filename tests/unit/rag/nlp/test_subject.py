"""What a text is about."""

import pytest

from rag.nlp.subject import heaviest_words, subject_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What's the difference between Market Cap and NAV?", ["difference", "between", "Market", "Cap", "NAV"]),
        ("Isn't the hummingbird's wing part of C++ v1.2?", ["hummingbird", "wing", "part", "C++", "v1.2"]),
        ("How do I tell them?", []),
        ("京都的铁路是什么时候建成的", ["京都", "铁路", "时候建成"]),
        ("x" * 50, ["x" * 40]),
        ("", []),
    ],
)
def test_words_that_say_little_are_left_out(text: str, words: list[str]) -> None:
    assert list(subject_words(text)) == words


def test_the_heaviest_words_keep_their_order() -> None:
    question = "What was the capital expenditure of Boeing in 2021, and how did capital expenditures change at all?"
    assert heaviest_words(question, 4) == ["capital", "expenditure", "Boeing", "2021"]
    assert heaviest_words(question, 100) == ["capital", "expenditure", "Boeing", "2021", "change"]
    assert heaviest_words("?", 4) == []
