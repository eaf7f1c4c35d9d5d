"""The last turn as a search text, without a model."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.core.types import Turn
from rag.nlp.refine import rewrite

BOEING = ("What did Boeing earn in 2022?", "Boeing earned 66.6 billion dollars [ID:0]. More was owed.")


def turns(*texts: str) -> list[Turn]:
    """The user's and the assistant's by turns, the user's last."""
    roles = ("user", "assistant")
    return [Turn(role=roles[(len(texts) - 1 - n) % 2], content=text) for n, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("said", "searched"),
    [
        # Pronoun, ellipsis, short question: the subject comes along, and names of what was answered.
        (("What is a webhook?", "A web request.", "How do I use it?"), "How do I use it? webhook"),
        ((*BOEING, "And in 2021?"), "And in 2021? Boeing earn 66.6"),
        ((*BOEING, "why?"), "why? Boeing earn 2022 66.6"),
        (("Are Lite plans available?", "Yes, in Dallas.", "Which ones?"), "Which ones? Lite plans available Dallas"),
        # What the question has already is not said twice.
        ((*BOEING, "How much did Boeing owe?"), "How much did Boeing owe? earn 2022 66.6"),
        # The turn before has no subject itself.
        (
            ("What is a webhook?", "A request.", "How do I use it?", "I do not know.", "Is it safe?"),
            "Is it safe? webhook",
        ),
        # A question that stands alone takes little with it.
        (
            ("Which insurance covers storm damage to barns?", "The policy of 2019.", "Who founded Watson Assistant?"),
            "Who founded Watson Assistant? insurance covers storm",
        ),
        # Chinese: the run without its small words.
        (("京都铁路什么时候建成的？", "1879年。", "它有多长？"), "它有多长？ 京都铁路 时候建成 1879年"),
    ],
)
def test_what_is_missing_is_carried_over(said: tuple[str, ...], searched: str) -> None:
    assert rewrite(turns(*said)) == searched


@pytest.mark.parametrize("text", ["thanks!", "OK, great", "👍👍", "?", "", "   ", "\x00\x1b[", "谢谢", "‏؟"])
def test_what_asks_nothing_takes_nothing_with_it(text: str) -> None:
    assert rewrite(turns(*BOEING, text)) == text


def test_the_first_turn_stays_as_it_is() -> None:
    assert rewrite(turns("How does it work?")) == "How does it work?"


def test_a_long_turn_says_itself_what_it_is_about() -> None:
    assert rewrite(turns(*BOEING, "it " * 200)) == "it " * 200


def test_a_refusal_tells_nothing() -> None:
    said = turns("What is Orion?", "Sorry, I do not have that. Perhaps Delta knows.", "Who made it?")
    assert rewrite(said) == "Who made it? Orion Perhaps Delta"


def test_system_turns_do_not_count() -> None:
    said = [Turn(role="system", content="You are Atlas."), *turns(*BOEING, "why?")]
    assert rewrite(said) == rewrite(said[1:])


@given(st.lists(st.text(max_size=120), min_size=1, max_size=7))
def test_the_turn_itself_stays_and_little_is_added(texts: list[str]) -> None:
    searched = rewrite(turns(*texts))
    assert searched.startswith(texts[-1])
    assert len(searched) <= len(texts[-1]) + 41 * (3 * 8 + 6)
    assert rewrite(turns(*texts)) == searched


@pytest.mark.parametrize(
    "piece", ["a", "it ", "👍", "م ", "\u202e\x00", "'", "a.", "?", "字", "\u0301", "ⅸ.", "[ID:1]"]
)
def test_hostile_turns_take_no_time(piece: str) -> None:
    long = piece * (1_000_000 // len(piece))
    rewrite(turns("warm", "up", "字 it"))
    began = time.process_time()
    for said in ((long, long, "how so?"), (*BOEING, long), (long, long, long[:400])):
        assert len(rewrite(turns(*said))) <= len(said[-1]) + 41 * 30
    assert time.process_time() - began < 0.1
