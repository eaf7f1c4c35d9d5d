"""Deadlines of a streamed reply: for its first piece, each later piece, and the whole.

Providers' own timeouts are per read or do not fire, so ours are the ones that count.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TypeVar

from rag.core.errors import ModelTimeout
from rag.llm.lazy_timeout import LazyTimeout

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Deadlines:
    first_token_s: float = 60.0
    next_token_s: float = 60.0
    answer_s: float = 600.0


class Watch:
    """Limits each wait of one reply. Make it when the call begins; `await watch.next(source)` per piece."""

    def __init__(self, deadlines: Deadlines, *, model: str) -> None:
        self._deadlines = deadlines
        self._model = model
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._end = now + deadlines.answer_s
        self._first_end = now + deadlines.first_token_s
        self._limit = min(self._first_end, self._end)
        self._timeout = LazyTimeout()
        self.started = False

    async def next(self, source: AsyncIterator[T]) -> T:
        """The next item of `source`.

        Raises:
            StopAsyncIteration: it has ended.
            ModelTimeout: a deadline passed; the caller closes the source.
        """
        try:
            with self.limit():
                return await anext(source)
        except TimeoutError as error:
            raise self.late() from error

    def limit(self, *, again: bool = False) -> LazyTimeout:
        """A timeout for the next wait; turn its TimeoutError into `late()`. One wait at a time. `again`: the last one
        brought nothing but a sign of life, and its deadline stays."""
        if not again:
            next_end = self._loop.time() + self._deadlines.next_token_s if self.started else self._first_end
            self._limit = min(next_end, self._end)
        return self._timeout.at(self._limit)

    def close(self) -> None:
        """There will be no more waits."""
        self._timeout.close()

    def limit_whole(self) -> asyncio.Timeout:
        """A timeout for a reply that comes in one piece."""
        return asyncio.timeout_at(self._end)

    def late(self) -> ModelTimeout:
        """The error that says which deadline passed."""
        if self._loop.time() >= self._end:
            what = f"did not finish within {self._deadlines.answer_s:g} s"
        elif self.started:
            what = f"sent nothing for {self._deadlines.next_token_s:g} s"
        else:
            what = f"sent nothing within {self._deadlines.first_token_s:g} s"
        return ModelTimeout(
            f"The model {self._model!r} {what}. Try again, or choose another model.",
            model=self._model,
            started=self.started,
        )
