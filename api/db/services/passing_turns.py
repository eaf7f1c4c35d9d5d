"""Answers that nobody keeps: calls without a stored session.

They go through the event log as all answers do, for as long as their one reader stays. When it leaves, the model's
work ends and the log forgets them.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from rag.core.errors import NotFound
from rag.core.events import TERMINAL, DialogEvent, Started
from rag.eventlog.base import EventLog

MOST_BEHIND = 1024
"""Events the reader may lag behind before the answer waits for it."""


async def passing_turn(
    log: EventLog,
    stream: str,
    events: AsyncGenerator[DialogEvent, None],
    *,
    until: asyncio.Event | None = None,
) -> AsyncGenerator[Sequence[DialogEvent], None]:
    """Run an answer and yield its events by arrival, `Started` left out. Ends early once `until` is set.

    Leaving the loop, or being cancelled, ends `events` before this returns. An exception of `events` is raised here,
    after what came before it.

    Args:
        stream: A new message id; names the answer in the log.
    """
    await log.append(stream, Started(message_id=stream, session_id=""))
    turn = _Passing(log, stream, events)
    producer = asyncio.create_task(turn.produce(), name=f"answer-{stream}")
    waker = asyncio.ensure_future(until.wait()) if until is not None else None
    if waker is not None:
        waker.add_done_callback(lambda _: producer.cancel())
    try:
        async with aclosing(log.follow(stream, after=1)) as batches:
            async for batch in batches:
                yield batch.events
                turn.read(len(batch.events))
    except NotFound:
        # The answer ended without a last event: stopped from outside, or by an error, which is raised here.
        await asyncio.wait({producer})
        if not producer.cancelled():
            producer.result()
    finally:
        if waker is not None:
            waker.cancel()
        producer.cancel()
        await asyncio.wait({producer})


class _Passing:
    """An answer on its way, and how far behind its reader is."""

    def __init__(self, log: EventLog, stream: str, events: AsyncGenerator[DialogEvent, None]) -> None:
        self._log = log
        self._stream = stream
        self._events = events
        self._unread = 0
        self._room: asyncio.Future[None] | None = None

    async def produce(self) -> None:
        end: DialogEvent | None = None
        try:
            async with aclosing(self._events) as events:
                async for event in events:
                    if isinstance(event, Started):
                        continue
                    if isinstance(event, TERMINAL):
                        end = event  # Closes the log: what is still being said of the answer comes before it.
                        continue
                    await self._log.append(self._stream, event)
                    self._unread += 1
                    if self._unread >= MOST_BEHIND:
                        self._room = asyncio.get_running_loop().create_future()
                        await self._room
            if end is not None:
                await self._log.append(self._stream, end)
        finally:
            await self._log.drop(self._stream)

    def read(self, count: int) -> None:
        """The reader has taken `count` events."""
        self._unread -= count
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
