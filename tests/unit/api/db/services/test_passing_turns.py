import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest

from api.db.services.passing_turns import MOST_BEHIND, passing_turn
from rag.core.clock import SystemClock
from rag.core.errors import NotFound
from rag.core.events import DialogEvent, Done, Spoken, Started, Token
from rag.core.types import Reference
from rag.eventlog.memory import MemoryEventLog

DONE = Done(answer="ab", reference=Reference())
STARTED = Started(message_id="m", session_id="")


class Source:
    """Events of an answer; counts them, and tells when it is closed."""

    def __init__(self, *events: DialogEvent, hangs: bool = False, error: Exception | None = None) -> None:
        self._events = events
        self._hangs = hangs
        self._error = error
        self.given = 0
        self.closed = False

    async def run(self) -> AsyncGenerator[DialogEvent, None]:
        try:
            for event in self._events:
                self.given += 1
                yield event
            if self._hangs:
                await asyncio.Event().wait()
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True


@pytest.fixture
async def log() -> AsyncIterator[MemoryEventLog]:
    """A log that holds nothing of an answer that has passed; no task is left either."""
    made = MemoryEventLog(SystemClock(), retention_s=600)
    yield made
    with pytest.raises(NotFound):
        await anext(made.follow("m"))
    await asyncio.sleep(0)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "answer-m"]


async def test_events_come_by_arrival_without_the_first(log: MemoryEventLog) -> None:
    source = Source(STARTED, Token(text="a"), Token(text="b"), DONE)
    batches = [list(batch) async for batch in passing_turn(log, "m", source.run())]
    assert batches == [[Token(text="a"), Token(text="b"), DONE]]
    assert source.closed


async def test_what_is_said_after_the_end_comes_before_it(log: MemoryEventLog) -> None:
    said = Spoken(audio=b"One.")
    source = Source(STARTED, Token(text="a"), DONE, said)
    batches = [each async for batch in passing_turn(log, "m", source.run()) for each in batch]
    assert batches == [Token(text="a"), said, DONE]


async def test_leaving_ends_the_answer_before_it_returns(log: MemoryEventLog) -> None:
    source = Source(Token(text="a"), hangs=True)
    async with aclosing(passing_turn(log, "m", source.run())) as batches:
        assert await anext(batches) == [Token(text="a")]
        assert not source.closed
    assert source.closed


async def test_a_cancelled_reader_ends_the_answer(log: MemoryEventLog) -> None:
    source = Source(Token(text="a"), hangs=True)

    async def read() -> None:
        async with aclosing(passing_turn(log, "m", source.run())) as batches:
            async for _ in batches:
                pass

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert source.closed


async def test_an_error_comes_after_what_was_said(log: MemoryEventLog) -> None:
    source = Source(Token(text="a"), error=ValueError("a defect"))
    async with aclosing(passing_turn(log, "m", source.run())) as batches:
        assert await anext(batches) == [Token(text="a")]
        with pytest.raises(ValueError, match="a defect"):
            await anext(batches)


async def test_it_ends_when_the_server_stops(log: MemoryEventLog) -> None:
    stopping = asyncio.Event()
    source = Source(Token(text="a"), hangs=True)
    seen: list[DialogEvent] = []
    async with asyncio.timeout(5):
        async for batch in passing_turn(log, "m", source.run(), until=stopping):
            seen += batch
            stopping.set()
    assert seen == [Token(text="a")]
    assert source.closed


async def test_a_slow_reader_holds_the_answer_back(log: MemoryEventLog) -> None:
    words = [Token(text=f"w{number}") for number in range(5 * MOST_BEHIND)]
    source = Source(*words, DONE)
    seen: list[DialogEvent] = []
    async with aclosing(passing_turn(log, "m", source.run())) as batches:
        async for batch in batches:
            await asyncio.sleep(0.01)
            seen += batch
            assert source.given <= len(seen) + MOST_BEHIND
    assert seen == [*words, DONE]
