"""Running answers of one process, in memory.

A stream is one growing list; a subscriber is a position in it. So a slow reader costs nothing and never holds up
the writer, and a late one starts anywhere. Streams that have ended are forgotten after a while, or earlier when
many of them pile up.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from rag.core.clock import Clock
from rag.core.errors import Conflict, NotFound
from rag.core.events import TERMINAL, DialogEvent, Spoken
from rag.eventlog.base import Batch, LoggedEvent

_MOST_KEPT_EVENTS = 200_000
"""Events of ended streams that are kept at the most: some 50 MB."""


class _Stream:
    """The events of one answer, and who waits for more of them."""

    __slots__ = ("dropped", "ended_at", "events", "waiting")

    def __init__(self) -> None:
        self.events: list[DialogEvent] = []
        self.ended_at: float | None = None
        self.dropped = False
        self.waiting: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        """Wake all who wait."""
        if self.waiting:
            waiting, self.waiting = self.waiting, []
            for waiter in waiting:
                _wake(waiter)

    async def change(self, loop: asyncio.AbstractEventLoop, idle_s: float | None) -> None:
        """Return at the next change, or after `idle_s` seconds."""
        waiter = loop.create_future()
        self.waiting.append(waiter)
        if idle_s is None:
            await waiter
            return
        timer = loop.call_later(idle_s, _wake, waiter)
        try:
            await waiter
        finally:
            timer.cancel()


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


class MemoryEventLog:
    """EventLog for a server of one process. Used on the loop only.

    Args:
        retention_s: Seconds the events of an ended stream stay readable.
        most_kept_events: Events of ended streams kept together; the oldest streams go first.
    """

    def __init__(self, clock: Clock, *, retention_s: float, most_kept_events: int = _MOST_KEPT_EVENTS) -> None:
        self._clock = clock
        self._retention_s = retention_s
        self._most_kept = most_kept_events
        self._open: dict[str, _Stream] = {}
        self._ended: OrderedDict[str, _Stream] = OrderedDict()
        self._kept = 0

    async def append(self, stream: str, event: DialogEvent) -> int:
        """Add an event and return its id, which is 1 for the first.

        Raises:
            Conflict: the stream has ended.
        """
        found = self._open.get(stream)
        if found is None:
            found = self._begin(stream)
        found.events.append(event)
        if isinstance(event, TERMINAL):
            self._end(stream, found)
        found.ring()
        return len(found.events)

    async def follow(self, stream: str, *, after: int = 0, idle_s: float | None = None) -> AsyncGenerator[Batch, None]:
        """Yield all events with an id above `after` by arrival, past ones first, and end after a terminal event.

        Raises:
            NotFound: no such stream, or it was dropped before it ended.
        """
        self._sweep()
        found = self._open.get(stream) or self._ended.get(stream)
        if found is None:
            raise NotFound("answer", stream)
        position = max(after, 0)
        events = found.events
        loop = asyncio.get_running_loop()  # Once: in Python 3.11 each look is a system call.
        while True:
            if position < len(events):
                batch = events[position:]
                yield Batch(first_id=position + 1, events=batch)
                position += len(batch)
            elif found.ended_at is not None:
                return
            elif found.dropped:
                raise NotFound("answer", stream)
            else:
                await found.change(loop, idle_s)
                if idle_s is not None and position >= len(events) and found.ended_at is None and not found.dropped:
                    yield Batch(first_id=position + 1, events=())

    async def subscribe(self, stream: str, *, after: int = 0) -> AsyncIterator[LoggedEvent]:
        """Yield the events of `follow` one by one.

        Raises:
            NotFound: as `follow`.
        """
        async with aclosing(self.follow(stream, after=after)) as batches:
            async for batch in batches:
                for event_id, event in enumerate(batch.events, batch.first_id):
                    yield LoggedEvent(event_id=event_id, event=event)

    async def drop(self, stream: str) -> None:
        """Forget the stream; who reads it gets what was there."""
        found = self._open.pop(stream, None)
        if found is not None:
            found.dropped = True
            found.ring()
        elif stream in self._ended:
            self._forget(stream)

    def _begin(self, stream: str) -> _Stream:
        self._sweep()
        if stream in self._ended:
            raise Conflict(f"The answer {stream!r} has ended.", id=stream)
        found = self._open[stream] = _Stream()
        return found

    def _end(self, stream: str, found: _Stream) -> None:
        found.ended_at = self._clock.monotonic()
        if any(type(event) is Spoken for event in found.events):
            # Who follows already holds the list as it was, and reads it to the end.
            found.events = [Spoken() if type(event) is Spoken else event for event in found.events]
        del self._open[stream]
        self._ended[stream] = found
        self._kept += len(found.events)
        self._sweep()

    def _sweep(self) -> None:
        """Forget what is too old or too much. Streams end in order, so the oldest come first."""
        limit = self._clock.monotonic() - self._retention_s
        while self._ended:
            oldest, found = next(iter(self._ended.items()))
            too_old = found.ended_at is not None and found.ended_at <= limit
            if not too_old and (self._kept <= self._most_kept or len(self._ended) == 1):
                return
            self._forget(oldest)

    def _forget(self, stream: str) -> None:
        self._kept -= len(self._ended.pop(stream).events)
