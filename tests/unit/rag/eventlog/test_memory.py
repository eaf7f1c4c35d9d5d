import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from rag.core.clock import SystemClock
from rag.core.errors import NotFound
from rag.core.events import Spoken
from rag.eventlog.base import EventLog
from rag.eventlog.memory import MemoryEventLog
from rag.testing.eventlog_suite import DONE, STARTED, EventLogSuite, read, words


@dataclass
class StillClock:
    time: float = 0.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time, UTC)

    def monotonic(self) -> float:
        return self.time


class TestMemoryEventLog(EventLogSuite):
    @asynccontextmanager
    async def logs(self) -> AsyncIterator[EventLog]:
        tasks = asyncio.all_tasks()
        yield MemoryEventLog(SystemClock(), retention_s=600)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == tasks


async def test_an_ended_stream_is_forgotten_after_its_time() -> None:
    clock = StillClock()
    log = MemoryEventLog(clock, retention_s=10)
    await log.append("old", DONE)
    clock.time = 5
    await log.append("young", DONE)
    clock.time = 9.9
    assert len(await read(log, "old")) == 1
    clock.time = 10
    with pytest.raises(NotFound):
        await read(log, "old")
    assert len(await read(log, "young")) == 1


async def test_a_running_stream_is_kept_however_long_it_takes() -> None:
    clock = StillClock()
    log = MemoryEventLog(clock, retention_s=10)
    await log.append("a", STARTED)
    clock.time = 1000
    await log.append("a", DONE)
    assert len(await read(log, "a")) == 2


async def test_many_ended_streams_do_not_pile_up() -> None:
    log = MemoryEventLog(StillClock(), retention_s=600, most_kept_events=100)
    for number in range(50):
        for event in [*words(9), DONE]:
            await log.append(f"s{number}", event)
    assert len(await read(log, "s49")) == 10
    assert len(await read(log, "s40")) == 10
    with pytest.raises(NotFound):
        await read(log, "s39")


async def test_one_long_stream_is_kept_though_it_is_above_the_limit() -> None:
    log = MemoryEventLog(StillClock(), retention_s=600, most_kept_events=10)
    for event in [*words(50), DONE]:
        await log.append("long", event)
    assert len(await read(log, "long")) == 51


async def test_a_reader_keeps_what_it_is_reading_when_its_time_is_over() -> None:
    clock = StillClock()
    log = MemoryEventLog(clock, retention_s=10)
    for event in [*words(3), DONE]:
        await log.append("a", event)
    events = log.subscribe("a")
    assert (await anext(events)).event_id == 1
    clock.time = 100
    await log.append("b", STARTED)
    assert [logged.event_id async for logged in events] == [2, 3, 4]


async def test_audio_is_forgotten_with_the_end_and_who_reads_already_gets_it() -> None:
    log = MemoryEventLog(SystemClock(), retention_s=600)
    await log.append("a", STARTED)
    reading = log.follow("a")
    await anext(reading)
    await log.append("a", Spoken(audio=b"mp3"))
    await log.append("a", DONE)
    (batch,) = [batch async for batch in reading]
    assert [type(event) for event in batch.events] == [Spoken, type(DONE)]
    assert batch.events[0] == Spoken(audio=b"mp3")
    assert [each.event for each in await read(log, "a")] == [STARTED, Spoken(), DONE]
