"""Questions far longer than anybody asks: read in a moment, as they hold the loop meanwhile."""

import time

import pytest

from rag.llm.question import focus_of, search_text


@pytest.mark.parametrize("question", ["word " * 40_000, "a." * 90_000, "a. " * 60_000, "word " * 40_000 + "?"])
def test_a_very_long_question_is_read_at_once(question: str) -> None:
    began = time.monotonic()
    assert search_text(question).startswith(question)
    assert time.monotonic() - began < 2


def test_the_part_that_asks_is_found() -> None:
    assert focus_of("Answer briefly. How large is v1.2 of the file?") == "How large is v1.2 of the file?"
    assert focus_of("No question here. None.") == "No question here. None."
