"""Questions far longer than anybody asks: read in a moment, as they hold the loop meanwhile."""

import time

import pytest

from rag.llm.question import focus_of, search_text, spoken_names


@pytest.mark.parametrize("question", ["word " * 40_000, "a." * 90_000, "a. " * 60_000, "word " * 40_000 + "?"])
def test_a_very_long_question_is_read_at_once(question: str) -> None:
    began = time.monotonic()
    assert search_text(question).startswith(question)
    assert time.monotonic() - began < 2


def test_the_part_that_asks_is_found() -> None:
    assert focus_of("Answer briefly. How large is v1.2 of the file?") == "How large is v1.2 of the file?"
    assert focus_of("No question here. None.") == "No question here. None."


@pytest.mark.parametrize(
    ("question", "focus"),
    [
        ("From the report, and the data: what is the cash?", "what is the cash?"),
        (
            "From the report, in dollars, how much cash was held?",
            "From the report, in dollars, how much cash was held?",
        ),
        ("In dollars, as the filing says,  how much is it?", "In dollars,how much is it?"),
    ],
)
def test_the_parts_that_name_a_source_before_the_question_are_left_out(question: str, focus: str) -> None:
    assert focus_of(question) == focus


def test_a_question_of_one_word_without_end_is_read_at_once() -> None:
    began = time.thread_time()
    focus_of("data " * 390 + "x?")
    assert time.thread_time() - began < 1


def test_of_very_many_names_the_first_are_looked_at() -> None:
    names = [f"Acme{chr(97 + number % 26)}{chr(97 + number // 26)}" for number in range(600)]
    spoken = spoken_names(" ".join(names))
    assert names[0].casefold() in spoken
    assert len(spoken) < 300
