"""The contract of `rag.eventlog.base.EventLog`. Subclass it and give `logs()`."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import cast

import pytest

from rag.core.errors import Conflict, NotFound
from rag.core.events import DialogEvent, Done, Failed, Started, Stopped, Token
from rag.core.types import Reference
from rag.eventlog.base import Batch, EventLog, LoggedEvent

DONE = Done(answer="all", reference=Reference())
STARTED = Started(message_id="m", session_id="s")


async def read(log: EventLog, stream: str, *, after: int = 0) -> list[LoggedEvent]:
    """All events of a stream that ends."""
    return [logged async for logged in log.subscribe(stream, after=after)]


def words(count: int) -> list[DialogEvent]:
    return [Token(text=f"w{number} ") for number in range(count)]


class EventLogSuite:
    """Tests that every log passes."""

    def logs(self) -> AbstractAsyncContextManager[EventLog]:
        """A fresh log."""
        raise NotImplementedError

    async def test_events_are_numbered_from_one_and_come_in_order(self) -> None:
        async with self.logs() as log:
            events = [STARTED, *words(5), DONE]
            assert [await log.append("a", event) for event in events] == [1, 2, 3, 4, 5, 6, 7]
            read_back = await read(log, "a")
            assert [logged.event_id for logged in read_back] == [1, 2, 3, 4, 5, 6, 7]
            assert [logged.event for logged in read_back] == events

    async def test_a_late_reader_begins_after_any_event(self) -> None:
        async with self.logs() as log:
            for event in [*words(4), DONE]:
                await log.append("a", event)
            for after in range(5):
                assert [logged.event_id for logged in await read(log, "a", after=after)] == list(range(after + 1, 6))

    async def test_after_the_last_event_there_is_nothing_and_it_ends(self) -> None:
        async with self.logs() as log:
            await log.append("a", DONE)
            assert await read(log, "a", after=1) == []
            assert await read(log, "a", after=99) == []

    async def test_a_reader_gets_past_and_live_events_without_gap_or_double(self) -> None:
        async with self.logs() as log:
            await log.append("a", Token(text="past"))
            reading = asyncio.create_task(read(log, "a"))
            for event in words(50):
                await log.append("a", event)
                await asyncio.sleep(0)
            await log.append("a", DONE)
            assert [logged.event_id for logged in await reading] == list(range(1, 53))

    @pytest.mark.parametrize(
        "end", [DONE, Failed(code="internal", message="no"), Stopped(answer="x")], ids=["done", "failed", "stopped"]
    )
    async def test_nothing_comes_after_the_end(self, end: DialogEvent) -> None:
        async with self.logs() as log:
            await log.append("a", end)
            with pytest.raises(Conflict):
                await log.append("a", Token(text="more"))
            assert [logged.event for logged in await read(log, "a")] == [end]

    async def test_many_readers_read_the_same(self) -> None:
        async with self.logs() as log:
            await log.append("a", STARTED)
            reading = [asyncio.create_task(read(log, "a")) for _ in range(100)]
            await asyncio.sleep(0)
            for event in [*words(20), DONE]:
                await log.append("a", event)
            first, *others = await asyncio.gather(*reading)
            assert len(first) == 22
            assert all(other == first for other in others)

    async def test_a_reader_that_stands_still_holds_up_nobody(self) -> None:
        async with self.logs() as log:
            await log.append("a", STARTED)
            slow = cast(AsyncGenerator[LoggedEvent, None], log.subscribe("a"))
            async with aclosing(slow):
                assert (await anext(slow)).event_id == 1
                async with asyncio.timeout(10):
                    for event in words(2000):
                        await log.append("a", event)
                    await log.append("a", DONE)
                    assert len(await read(log, "a")) == 2002
                assert [logged.event_id async for logged in slow] == list(range(2, 2003))

    async def test_a_reader_that_leaves_changes_nothing(self) -> None:
        async with self.logs() as log:
            await log.append("a", STARTED)
            leaving = asyncio.create_task(read(log, "a"))
            staying = asyncio.create_task(read(log, "a"))
            await asyncio.sleep(0.01)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            await log.append("a", DONE)
            assert len(await staying) == 2

    async def test_a_reader_can_come_back_many_times(self) -> None:
        async with self.logs() as log:
            seen: list[int] = []
            for event in words(50):
                await log.append("a", event)
                events = cast(AsyncGenerator[LoggedEvent, None], log.subscribe("a", after=len(seen)))
                async with aclosing(events):
                    seen.append((await anext(events)).event_id)
            assert seen == list(range(1, 51))

    async def test_streams_do_not_mix(self) -> None:
        async with self.logs() as log:
            for number in range(20):
                for stream in ("a", "b"):
                    await log.append(stream, Token(text=f"{stream}{number}"))
            await log.append("b", DONE)
            texts = [logged.event.text for logged in await read(log, "b") if isinstance(logged.event, Token)]
            assert texts == [f"b{number}" for number in range(20)]

    async def test_an_unknown_stream_is_not_found(self) -> None:
        async with self.logs() as log:
            with pytest.raises(NotFound):
                await read(log, "never")

    async def test_a_dropped_stream_is_forgotten(self) -> None:
        async with self.logs() as log:
            await log.append("a", DONE)
            await log.drop("a")
            await log.drop("a")
            with pytest.raises(NotFound):
                await read(log, "a")

    async def test_who_reads_a_stream_that_is_dropped_does_not_wait_for_ever(self) -> None:
        async with self.logs() as log:
            await log.append("a", STARTED)
            reading = asyncio.create_task(read(log, "a"))
            await asyncio.sleep(0.01)
            await log.drop("a")
            with pytest.raises(NotFound):
                await asyncio.wait_for(reading, 5)

    async def test_what_arrived_together_comes_together(self) -> None:
        async with self.logs() as log:
            for event in [STARTED, *words(2)]:
                await log.append("a", event)
            async with aclosing(log.follow("a", after=1)) as batches:
                assert await anext(batches) == Batch(first_id=2, events=words(2))
                later = asyncio.ensure_future(anext(batches))
                await asyncio.sleep(0)
                for event in [*words(3), DONE]:
                    await log.append("a", event)
                assert await later == Batch(first_id=4, events=[*words(3), DONE])
                assert [batch async for batch in batches] == []

    async def test_silence_gives_empty_batches(self) -> None:
        async with self.logs() as log:
            await log.append("a", STARTED)
            async with aclosing(log.follow("a", after=1, idle_s=0.01)) as batches:
                assert await anext(batches) == Batch(first_id=2, events=())
                assert await anext(batches) == Batch(first_id=2, events=())
                await log.append("a", DONE)
                assert [batch.events async for batch in batches if batch.events] == [[DONE]]
