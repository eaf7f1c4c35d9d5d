from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.core.errors import ModelError, ModelOverloaded, ModelRefused, ModelTimeout
from rag.llm import retry
from rag.llm.retry import Attempts, RetryPolicy


class Waits:
    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)


async def tried(*errors: ModelError | None) -> tuple[list[str], list[float], int, ModelError | None]:
    """What a source that fails so in turn gives: items, waits, attempts, the error."""
    waits, attempts, left = Waits(), Attempts(), list(errors)

    async def source() -> AsyncIterator[str]:
        error = left.pop(0)
        if error is not None and not error.facts.get("started"):
            raise error
        yield "a"
        if error is not None:
            raise error
        yield "b"

    items: list[str] = []
    try:
        async for item in retry.stream(source, RetryPolicy(sleep=waits.sleep, draw=lambda: 0.0), attempts):
            items.append(item)  # What came before the error is wanted.
    except ModelError as error:
        return items, waits.seconds, attempts.count, error
    return items, waits.seconds, attempts.count, None


async def test_success_needs_one_attempt() -> None:
    assert await tried(None) == (["a", "b"], [], 1, None)


async def test_three_attempts_with_growing_waits() -> None:
    errors = [ModelOverloaded("1"), ModelTimeout("2"), ModelOverloaded("3")]
    assert await tried(*errors) == ([], [4.0, 8.0], 3, errors[2])


async def test_a_later_attempt_may_succeed() -> None:
    assert await tried(ModelOverloaded("1"), None) == (["a", "b"], [4.0], 2, None)


async def test_retry_after_is_honoured() -> None:
    assert (await tried(ModelOverloaded("1", retry_after_s=17.0), None))[1] == [17.0]
    assert (await tried(ModelOverloaded("1", retry_after_s=1.0), None))[1] == [4.0]


async def test_a_long_retry_after_ends_the_tries() -> None:
    error = ModelOverloaded("1", retry_after_s=3600.0)
    assert await tried(error) == ([], [], 1, error)


async def test_a_refusal_is_not_tried_again() -> None:
    error = ModelRefused("no")
    assert await tried(error) == ([], [], 1, error)


async def test_nothing_is_tried_again_after_the_first_piece() -> None:
    error = ModelOverloaded("1", started=True)
    assert await tried(error) == (["a"], [], 1, error)


@given(attempt=st.integers(1, 50), drawn=st.floats(0, 1))
def test_waits_lie_between_four_and_ten_seconds(attempt: int, drawn: float) -> None:
    assert 4.0 <= RetryPolicy(draw=lambda: drawn).wait_s(attempt) <= 10.0


@pytest.mark.parametrize(("attempt", "shortest", "longest"), [(1, 4, 8), (2, 8, 10), (3, 8, 10), (9, 8, 10)])
def test_waits_grow_and_are_spread(attempt: int, shortest: float, longest: float) -> None:
    assert RetryPolicy(draw=lambda: 0.0).wait_s(attempt) == shortest
    assert RetryPolicy(draw=lambda: 1.0).wait_s(attempt) == longest
    assert len({RetryPolicy().wait_s(attempt) for _ in range(20)}) > 10


@given(told=st.floats(0, 60), drawn=st.floats(0, 1))
def test_nobody_comes_back_before_they_were_told(told: float, drawn: float) -> None:
    wait = RetryPolicy(draw=lambda: drawn).wait_s(1, ModelOverloaded("1", retry_after_s=told))
    assert told <= wait <= max(10.0, told * 1.1)


async def test_the_source_is_closed_when_left() -> None:
    closed = []

    async def source() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    stream = retry.stream(source, RetryPolicy(), Attempts())
    assert await anext(stream) == 1
    await stream.aclose()  # type: ignore[attr-defined]
    assert closed == [True]
