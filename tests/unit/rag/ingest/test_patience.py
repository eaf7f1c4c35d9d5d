"""Writes that find rows or index away wait for them, where they are on servers."""

import asyncio
from collections.abc import Sequence
from functools import partial

import pytest

from rag.core.clock import SystemClock
from rag.core.errors import StoreError, StoreUnavailable
from rag.ingest import grouping
from rag.ingest.base import Ended
from rag.ingest.grouping import WriteGroup
from rag.store.base import Entry, Place
from rag.store.memory import MemoryStore
from rag.testing.memory_ingest import MemoryTasks
from tests.unit.rag.ingest.test_grouping import end_of, job, part


class Away(MemoryStore):
    """An index on a server that is down."""

    def __init__(self) -> None:
        super().__init__()
        self.away = True
        self.tried = 0

    async def upsert(self, place: Place, entries: Sequence[Entry], **options: bool) -> None:
        self.tried += 1
        if self.away:
            raise StoreUnavailable("It is down.")
        await super().upsert(place, entries, **options)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "_FIRST_PAUSE_S", 0.01)


async def test_a_write_waits_until_the_index_is_back_and_is_made_once() -> None:
    tasks, store = MemoryTasks(), Away()
    one = job(1)
    tasks.running = {one.task_id: one}
    writes = WriteGroup(tasks, store, SystemClock(), patient=True)
    told: list[str] = []
    done = writes.submit(one, *part(one, 2), end=lambda: end_of(one, 2), tell=told.append)
    while store.tried < 3:
        await asyncio.sleep(0.005)
    assert not done.done()
    assert not tasks.done
    store.away = False
    await asyncio.wait_for(done, 5)
    assert set(tasks.done) == {one.task_id}
    assert writes.grown().total() == 2
    assert len(told) == 1
    assert told[0].startswith("[WARN]It is down.")


async def test_a_write_that_nobody_waits_for_any_more_is_given_up() -> None:
    tasks, store = MemoryTasks(), Away()
    one = job(1)
    tasks.running = {one.task_id: one}
    writes = WriteGroup(tasks, store, SystemClock(), patient=True)
    done = writes.submit(one, *part(one, 2))
    while store.tried < 2:
        await asyncio.sleep(0.005)
    done.cancel()
    await asyncio.sleep(0.1)
    tried = store.tried
    await asyncio.sleep(0.2)
    assert store.tried == tried


async def test_a_document_says_once_that_it_has_ended() -> None:
    class Forgetful(MemoryTasks):
        faults = 2

        async def finish(self, ended: Sequence[Ended]) -> frozenset[str]:
            self.faults -= 1
            if self.faults >= 0:
                raise StoreUnavailable("The rows are away.")
            return await super().finish(ended)

    tasks = Forgetful()
    one = job(1)
    tasks.running = {one.task_id: one}
    writes = WriteGroup(tasks, MemoryStore(), SystemClock(), patient=True)
    said: list[str] = []

    def end() -> Ended:
        said.append("Indexing done")
        return end_of(one, 2)

    await asyncio.wait_for(writes.submit(one, *part(one, 2), end=end), 5)
    assert said == ["Indexing done"]
    assert set(tasks.done) == {one.task_id}


class Picky(MemoryStore):
    """Cannot write documents of these names, for whatever reason."""

    def __init__(self, **errors: StoreError) -> None:
        super().__init__()
        self.errors = errors

    async def upsert(self, place: Place, entries: Sequence[Entry], **options: bool) -> None:
        for entry in entries:
            if entry.key.document_id in self.errors:
                raise self.errors[entry.key.document_id]
        await super().upsert(place, entries, **options)


async def test_a_document_that_finds_the_index_away_waits_when_another_is_refused() -> None:
    tasks, store = MemoryTasks(), Picky(d1=StoreError("No."), d2=StoreUnavailable("Away."))
    jobs = [job(1), job(2)]
    tasks.running = {one.task_id: one for one in jobs}
    writes = WriteGroup(tasks, store, SystemClock(), patient=True)
    with writes.upstream():
        refused, waits = (writes.submit(one, *part(one, 1), end=partial(end_of, one, 1)) for one in jobs)
    with pytest.raises(StoreError, match="No"):
        await asyncio.wait_for(refused, 5)
    await asyncio.sleep(0.1)
    assert not waits.done()
    store.errors.clear()
    await asyncio.wait_for(waits, 5)
    assert set(tasks.done) == {"t2"}


@pytest.mark.parametrize("bad", ["d0", "d2", "d5"])
async def test_one_document_that_cannot_be_written_does_not_hold_up_the_others(bad: str) -> None:
    tasks, store = MemoryTasks(), Picky(**{bad: StoreUnavailable("An item failed (500).")})
    jobs = [job(number) for number in range(6)]
    tasks.running = {one.task_id: one for one in jobs}
    writes = WriteGroup(tasks, store, SystemClock(), patient=True)
    with writes.upstream():
        parts = [writes.submit(one, *part(one, 1), end=partial(end_of, one, 1)) for one in jobs]
    others = [write for write, one in zip(parts, jobs, strict=True) if one.document_id != bad]
    await asyncio.wait_for(asyncio.gather(*others), 5)
    late = job(7)
    tasks.running[late.task_id] = late
    await asyncio.wait_for(writes.submit(late, *part(late, 1), end=lambda: end_of(late, 1)), 5)
    (left,) = set(parts) - set(others)
    with pytest.raises(StoreUnavailable, match="An item failed"):
        await asyncio.wait_for(left, 5)
    assert len(tasks.done) == 6


async def test_documents_written_one_by_one_all_get_through_a_longer_outage() -> None:
    tasks, store = MemoryTasks(), Away()
    jobs = [job(number) for number in range(8)]
    tasks.running = {one.task_id: one for one in jobs}
    writes = WriteGroup(tasks, store, SystemClock(), patient=True, max_chunks=3)
    told: list[str] = []

    def tell(number: int, text: str) -> None:
        told.append(f"{number} {text}")

    ways = [partial(tell, number) for number in range(8)]
    parts = [
        writes.submit(one, *part(one, 1), end=partial(end_of, one, 1), tell=way)
        for one, way in zip(jobs, ways, strict=True)
    ]
    while store.tried < 10:
        await asyncio.sleep(0.005)
    store.away = False
    await asyncio.wait_for(asyncio.gather(*parts), 5)
    assert len(tasks.done) == 8
    assert len(told) == len(set(told)) == 8, "each says once that it waits"
