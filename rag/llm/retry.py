"""The one retry policy of model calls: before the first token only, and only where a second try may help."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from rag.core.errors import ModelError

T = TypeVar("T")
MAX_RETRY_AFTER_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """Waits between `attempts`: the first 4 to 8 seconds, later ones 8 to 10, each drawn anew, so that callers who
    failed together do not come back together. A longer Retry-After is honoured, with up to a tenth on top, up to a
    minute; one above that ends the tries. `sleep` and `draw` (0 to 1) are replaced in tests."""

    attempts: int = 3
    first_wait_s: float = 4.0
    longest_wait_s: float = 10.0
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep
    draw: Callable[[], float] = random.random

    def may_retry(self, error: BaseException) -> bool:
        if not isinstance(error, ModelError) or not error.retryable or error.facts.get("started"):
            return False
        return float(error.facts.get("retry_after_s") or 0.0) <= MAX_RETRY_AFTER_S

    def wait_s(self, attempt: int, error: BaseException | None = None) -> float:
        """Seconds to wait after failed attempt number `attempt`, which starts at 1."""
        longest = min(self.longest_wait_s, self.first_wait_s * 2.0**attempt)
        shortest = min(self.first_wait_s * 2.0 ** (attempt - 1), 0.8 * self.longest_wait_s, longest)
        facts = error.facts if isinstance(error, ModelError) else {}
        told = float(facts.get("retry_after_s") or 0.0)
        drawn = self.draw()
        return max(shortest + (longest - shortest) * drawn, told * (1 + 0.1 * drawn))

    def _retrying(self) -> AsyncRetrying:
        def wait(state: RetryCallState) -> float:
            return self.wait_s(state.attempt_number, state.outcome.exception() if state.outcome else None)

        return AsyncRetrying(
            stop=stop_after_attempt(self.attempts),
            wait=wait,
            retry=retry_if_exception(self.may_retry),
            sleep=self.sleep,
            reraise=True,
        )


class Attempts:
    """Counts the tries of one call."""

    def __init__(self) -> None:
        self.count = 0


async def call(function: Callable[[], Awaitable[T]], policy: RetryPolicy, attempts: Attempts) -> T:
    """Await `function()` until it succeeds or the policy gives up; its last error is raised unchanged."""
    attempts.count += 1
    try:
        return await function()
    except ModelError as error:
        first = error
    # Most calls have ended by now: setting tenacity up for each of them would be a good part of what they cost.
    async for attempt in policy._retrying():
        with attempt:
            if attempt.retry_state.attempt_number == 1:
                raise first
            attempts.count += 1
            return await function()
    raise AssertionError("tenacity ends with a result or an error")


async def stream(make: Callable[[], AsyncIterator[T]], policy: RetryPolicy, attempts: Attempts) -> AsyncIterator[T]:
    """Yield the items of `make()`, which is made again while it fails before its first item.

    The source is closed when this iterator is left, whatever the reason.
    """
    source, first = await call(lambda: _first(make), policy, attempts)
    try:
        for item in first:
            yield item
        async for item in source:
            yield item
    finally:
        await close(source)


async def close(source: AsyncIterator[T]) -> None:
    """End an async generator now, so that what it holds open is given back."""
    closing = getattr(source, "aclose", None)
    if closing is not None:
        with suppress(RuntimeError):  # It is running: the cancelled task that runs it closes it.
            await closing()


async def _first(make: Callable[[], AsyncIterator[T]]) -> tuple[AsyncIterator[T], list[T]]:
    source = make()
    try:
        return source, [await anext(source)]
    except StopAsyncIteration:
        return source, []
    except BaseException:
        await close(source)
        raise
