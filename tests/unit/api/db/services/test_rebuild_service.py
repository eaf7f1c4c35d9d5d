"""Rebuilding places from the rows, on a real SQLite file and an index in memory."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from api.db.services import rebuild_service
from api.db.services.index_follow import enqueue_delete, enqueue_renewal
from api.db.services.rebuild_claim import LEASE_S
from api.db.services.rebuild_drop import RebuildDrop
from api.db.services.rebuild_rows import next_place
from api.db.services.rebuild_service import Summary
from api.db.services.task_service import TaskService
from api.db.tables import (
    Chunk,
    Dataset,
    Document,
    DocumentVersion,
    IndexPlace,
    IndexRebuild,
    Outbox,
    RebuiltVersion,
    Task,
)
from rag.core.errors import Conflict, StoreError, StoreUnavailable
from rag.core.settings import IngestSettings
from rag.core.types import Matrix
from rag.ingest.base import Ended, Report
from rag.store.base import Entry, Place, Selector
from rag.store.memory import MemoryStore
from rag.testing.hash_embedder import HashEmbedder
from tests.unit.api.db.rows import Rows
from tests.unit.api.db.services.rebuild_bench import NEW, OLD, TIMES, Bench, Killed, seed


@pytest.fixture
def bench(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    # Small steps, so that a few rows make many.
    monkeypatch.setattr(rebuild_service, "_VERSIONS_AT_ONCE", 3)
    monkeypatch.setattr(rebuild_service, "_LOOK_S", 0.01)
    db = rows.database()
    db.open()
    yield Bench(db)
    db.close()


class TestARun:
    async def test_moves_all_that_lives(self, bench: Bench) -> None:
        seed(bench)
        assert await bench.run() == Summary(places=1, chunks=16)
        bench.settled()
        assert bench.store.held(NEW)["v_long/c003"].split()[0] == "long"
        last = bench.seen[-1]
        assert (last.stage, last.chunks_done, last.chunks_total, last.resumed) == ("done", 16, 16, False)

    async def test_entries_equal_those_of_ingestion(self, bench: Bench) -> None:
        bench.write(lambda: bench.add("a", "v", 1))
        await bench.run()
        entry = bench.store.entry(NEW, "v", "c000")
        expected = HashEmbedder(dim=8).encode(["a\nword0 of a"]).vectors[0]
        assert np.array_equal(entry.vector, expected)
        assert (entry.dataset_id, entry.available, entry.key.document_id) == ("ds", True, "a")

    async def test_every_place_of_every_tenant(self, bench: Bench) -> None:
        seed(bench)
        other = Place(name="t_y_g4", dim=8)
        bench.write(lambda: bench.add_dataset("other", other, tenant="y"))
        bench.write(lambda: bench.add("theirs", "v_theirs", 2, dataset="other"))
        assert await bench.run() == Summary(places=2, chunks=18)
        assert bench.read(lambda: sorted(row.name for row in IndexPlace.select())) == ["t_x_g2", "t_y_g5"]
        assert len(bench.store.held(Place(name="t_y_g5", dim=8))) == 2

    async def test_without_documents_it_moves_too(self, bench: Bench) -> None:
        assert await bench.run() == Summary(places=1, chunks=0)
        bench.settled()

    async def test_without_places_there_is_nothing_to_do(self, bench: Bench) -> None:
        bench.write(lambda: (IndexPlace.delete().execute(), Dataset.delete().execute()))
        assert await bench.run() == Summary(places=0, chunks=0)

    async def test_again_makes_the_next_generation(self, bench: Bench) -> None:
        seed(bench)
        await bench.run()
        await bench.run()
        bench.settled(Place(name="t_x_g3", dim=8))
        assert bench.store.held(NEW) == {}

    async def test_what_lies_in_the_new_place_from_another_time_goes(self, bench: Bench) -> None:
        seed(bench)
        bench.write(lambda: bench.add("gone", "v_gone", 1))
        await bench.run()
        (entry,) = [e for k, e in bench.store._places[NEW.name].items() if k.version_id == "v_gone"]
        await bench.run()
        bench.write(lambda: Document.delete().where(Document.id == "gone").execute())
        # As if the settings had named another index for a while.
        third = Place(name="t_x_g4", dim=8)
        await bench.store.upsert(third, [entry])
        await bench.run()
        bench.settled(third)

    async def test_generations_of_earlier_times_go(self, bench: Bench) -> None:
        """Those an index kept while the settings named another."""
        seed(bench)
        await bench.run()
        for generation in (1, 2):
            entries = list(bench.store._places[NEW.name].values())
            await bench.store.upsert(Place(name=f"t_x_g{generation}", dim=8), entries)
        await bench.run()
        bench.settled(Place(name="t_x_g3", dim=8))
        assert bench.store.held(NEW) == {}

    async def test_unavailable_chunks_stay_unavailable(self, bench: Bench) -> None:
        bench.write(lambda: bench.add("a", "v", 2))
        bench.write(lambda: Chunk.update(available=False).where(Chunk.chunk_id == "c001").execute())
        await bench.run()
        assert [bench.store.entry(NEW, "v", c).available for c in ("c000", "c001")] == [True, False]

    async def test_a_switched_off_document_keeps_its_entries(self, bench: Bench) -> None:
        bench.write(lambda: bench.add("off", "v", 2, enabled=False))
        bench.write(lambda: Chunk.update(available=False).execute())
        await bench.run()
        bench.settled()
        assert bench.store.entry(NEW, "v", "c000").available

    async def test_what_hides_and_what_waits_moves_along(self, bench: Bench) -> None:
        seed(bench)

        def write() -> None:
            row = {"document_id": "short1", "dataset_id": "ds", "place": OLD.name, **TIMES}
            DocumentVersion.create(id="w", state="writing", **row)
            DocumentVersion.create(id="d", state="dead", **row)
            enqueue_delete(OLD.name, 1, document_ids=["gone"])

        bench.write(write)
        await bench.run()
        assert bench.read(lambda: {row.place for row in DocumentVersion.select()}) == {NEW.name}
        assert bench.read(lambda: {row.place for row in Outbox.select()}) == {NEW.name}

    async def test_no_new_place_takes_the_name_meanwhile(self, bench: Bench) -> None:
        seed(bench)
        names: list[str] = []
        bench.store.hook = lambda number: names.append(bench.read(lambda: next_place("x")))
        await bench.run()
        assert set(names) == {"t_x_g3"}


class TestMeanwhile:
    """What happens while the new place is filled is in it at the end."""

    @staticmethod
    def during(bench: Bench, write: int, change: Callable[[], Any]) -> None:
        def hook(number: int) -> None:
            if number == write:
                bench.write(change)

        bench.store.hook = hook

    @pytest.mark.parametrize("write", [1, 2, 4, 5])
    async def test_a_document_went_live(self, bench: Bench, write: int) -> None:
        seed(bench)
        self.during(bench, write, lambda: bench.add("later", "v_later", 6))
        await bench.run()
        bench.settled()
        assert "v_later/c005" in bench.store.held(NEW)

    @pytest.mark.parametrize("write", [1, 2, 4, 5])
    async def test_a_document_was_deleted(self, bench: Bench, write: int) -> None:
        seed(bench)

        def delete() -> None:
            Chunk.delete().where(Chunk.document_id == "long").execute()
            Document.delete().where(Document.id == "long").execute()

        self.during(bench, write, delete)
        await bench.run()
        bench.settled()
        assert len(bench.store.held(NEW)) == 5

    @pytest.mark.parametrize("write", [1, 2, 4, 5])
    async def test_a_document_was_ingested_again(self, bench: Bench, write: int) -> None:
        seed(bench)

        def renew() -> None:
            bench.add_chunks("long", "v_long_2", 7)
            Document.update(live_version="v_long_2", chunk_count=7).where(Document.id == "long").execute()

        self.during(bench, write, renew)
        await bench.run()
        bench.settled()

    @pytest.mark.parametrize("write", [1, 2, 3, 4, 5])
    async def test_a_document_was_renamed(self, bench: Bench, write: int) -> None:
        seed(bench)

        def rename() -> None:
            Document.update(name="renamed.txt").where(Document.id == "long").execute()
            enqueue_renewal(OLD.name, "long", 1)

        self.during(bench, write, rename)
        await bench.run()
        bench.settled()
        assert {t.split()[0] for k, t in bench.store.held(NEW).items() if k.startswith("v_long/")} == {"renam"}

    async def test_a_chunk_of_a_changed_document_went(self, bench: Bench) -> None:
        seed(bench)

        def change() -> None:
            Chunk.delete().where(Chunk.version_id == "v_long", Chunk.chunk_id == "c001").execute()
            enqueue_renewal(OLD.name, "long", 1)

        self.during(bench, 4, change)
        await bench.run()
        bench.settled()

    async def test_a_dataset_was_deleted_and_another_made(self, bench: Bench) -> None:
        seed(bench)

        def change() -> None:
            for table in (Chunk, Document, Dataset):
                table.delete().execute()
            bench.add_dataset("second", OLD)
            bench.add("other", "v_other", 3, dataset="second")

        self.during(bench, 2, change)
        await bench.run()
        bench.settled()

    async def test_searches_go_on_in_the_old_place(self, bench: Bench) -> None:
        seed(bench)
        places: set[str] = set()
        bench.store.hook = lambda number: places.update(bench.read(lambda: [d.place for d in Dataset.select()]))
        await bench.run()
        assert places == {OLD.name}

    async def test_the_last_comparison_is_in_the_switch(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """A version goes live after all was filled, just before the transaction that moves the datasets."""
        seed(bench)
        switch = rebuild_service.rebuild_rows.switch
        found: list[int] = []

        def late(*args: Any, **more: Any) -> int:
            if not found:
                bench.add("late", "v_late", 2)
            found.append(switch(*args, **more))
            return found[-1]

        monkeypatch.setattr(rebuild_service.rebuild_rows, "switch", late)
        await bench.run()
        assert found == [1, 0]
        bench.settled()


class TestKilled:
    @pytest.mark.parametrize("write", [1, 2, 3, 4, 5])
    async def test_goes_on_where_it_was(self, bench: Bench, write: int) -> None:
        seed(bench)
        bench.kill_at(write)
        await bench.killed_run()
        before = len(bench.store.held(NEW))
        assert bench.read(lambda: {d.place for d in Dataset.select()}) == {OLD.name}
        bench.store.hook = lambda number: None
        summary = await bench.run(owner="folder:2")
        bench.settled()
        assert summary.chunks == 16 - before
        assert bench.seen[-1].resumed

    async def test_between_index_and_rows_only_a_step_is_done_again(self, bench: Bench) -> None:
        seed(bench)
        upsert = MemoryStore.upsert

        async def written_then_killed(place: Place, entries: Sequence[Entry], *, visible: bool) -> None:
            await upsert(bench.store, place, entries, visible=visible)
            raise Killed

        bench.store.upsert = written_then_killed  # type: ignore[method-assign]
        await bench.killed_run()
        del bench.store.upsert
        assert (await bench.run(owner="folder:2")).chunks == 16
        bench.settled()

    async def test_before_anything_was_written_the_new_place_is_emptied_by_the_next(self, bench: Bench) -> None:
        bench.write(lambda: bench.add("gone", "v_gone", 1))
        await bench.run()
        third = Place(name="t_x_g3", dim=8)
        await bench.store.upsert(third, list(bench.store._places[NEW.name].values()))
        bench.write(lambda: Document.delete().execute())
        seed(bench)
        drop = bench.store.drop

        async def killed(place: Place) -> None:
            raise Killed

        bench.store.drop = killed  # type: ignore[method-assign]
        await bench.killed_run()
        bench.store.drop = drop  # type: ignore[method-assign]
        await bench.run(owner="folder:2")
        bench.settled(third)

    async def test_after_the_switch_the_old_place_still_goes(self, bench: Bench) -> None:
        seed(bench)
        run = bench.run(grace_s=1000)
        await bench.until("dropping")
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        drop = RebuildDrop(bench.db, bench.clock, bench.store)
        assert await drop.tidy() == 0, "searches may still be in it"
        bench.clock.seconds += 1001
        assert await drop.tidy() == 1
        bench.settled()
        assert await drop.tidy() == 0

    async def test_the_next_run_only_ends_what_was_left_to_drop(self, bench: Bench) -> None:
        seed(bench)
        run = bench.run(grace_s=1000)
        await bench.until("dropping")
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        bench.clock.seconds += 1001
        assert await bench.run() == Summary(places=0, chunks=0)
        bench.settled()

    async def test_a_half_filled_place_nobody_went_on_with_goes_after_a_week(self, bench: Bench) -> None:
        seed(bench)
        bench.kill_at(3)
        await bench.killed_run()
        drop = RebuildDrop(bench.db, bench.clock, bench.store)
        bench.clock.seconds += 6 * 86_400
        assert await drop.tidy() == 0
        bench.clock.seconds += 2 * 86_400
        assert await drop.tidy() == 1
        assert bench.store.held(NEW) == {}
        assert bench.read(lambda: (IndexRebuild.select().count(), RebuiltVersion.select().count())) == (0, 0)

    async def test_entries_for_another_index_or_revision_are_begun_anew(self, bench: Bench) -> None:
        seed(bench)
        bench.kill_at(4)
        await bench.killed_run()
        bench.store.hook = lambda number: None
        assert (await bench.run(owner="folder:2", made_for="memory 2")).chunks == 16
        bench.settled()

    async def test_a_half_filled_place_that_was_deleted_is_begun_anew(self, bench: Bench) -> None:
        seed(bench)
        bench.kill_at(4)
        await bench.killed_run()
        await bench.store.drop(NEW)
        bench.store.hook = lambda number: None
        assert (await bench.run(owner="folder:2")).chunks == 16
        bench.settled()

    async def test_a_new_place_that_is_deleted_under_its_hands_is_filled_once_more(self, bench: Bench) -> None:
        seed(bench)
        bench.store.hook = lambda number: bench.store._places.pop(NEW.name, None) if number == 3 else None
        await bench.run()
        bench.settled()

    async def test_one_that_keeps_losing_entries_is_given_up(self, bench: Bench) -> None:
        seed(bench)
        bench.store.hook = lambda number: bench.store._places.pop(NEW.name, None)
        with pytest.raises(StoreError, match="keeps losing"):
            await bench.run()
        assert bench.read(lambda: {d.place for d in Dataset.select()}) == {OLD.name}

    async def test_an_index_out_of_reach_ends_the_run_and_frees_the_lease(self, bench: Bench) -> None:
        seed(bench)

        def away(number: int) -> None:
            raise StoreUnavailable("No answer.")

        bench.store.hook = away
        with pytest.raises(StoreUnavailable):
            await bench.run()
        bench.store.hook = lambda number: None
        await bench.run(owner="elsewhere:1")
        bench.settled()


class TestTwoAtOnce:
    async def test_the_second_says_so(self, bench: Bench) -> None:
        seed(bench)
        bench.kill_at(2)
        await bench.killed_run()
        with pytest.raises(Conflict, match="at work"):
            await bench.run(owner="elsewhere:1")
        bench.clock.seconds += LEASE_S + 1
        bench.store.hook = lambda number: None
        await bench.run(owner="elsewhere:1")
        bench.settled()

    async def test_one_that_lost_its_lease_writes_no_rows(self, bench: Bench) -> None:
        seed(bench)

        def taken(number: int) -> None:
            if number == 2:
                bench.write(lambda: IndexRebuild.update(lease_owner="elsewhere:1").execute())

        bench.store.hook = taken
        with pytest.raises(Conflict, match="took over"):
            await bench.run()
        assert bench.read(lambda: {d.place for d in Dataset.select()}) == {OLD.name}
        assert bench.read(lambda: IndexRebuild.get().lease_owner) == "elsewhere:1"

    async def test_the_lease_is_kept_up(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("api.db.services.rebuild_claim._HEARTBEAT_S", 0.01)
        bench.write(lambda: bench.add("a", "v", 1))
        go = asyncio.Event()

        async def slow(model: str, texts: Sequence[str]) -> Matrix:
            await go.wait()
            return HashEmbedder(dim=8).encode(texts).vectors

        bench.embed = slow  # type: ignore[method-assign]
        run = bench.run()
        while not await bench.db.run(lambda: RebuiltVersion.select().exists()):
            await asyncio.sleep(0.01)
        bench.clock.seconds += LEASE_S + 1
        await asyncio.sleep(0.1)
        with pytest.raises(Conflict, match="at work"):
            await bench.run(owner="elsewhere:1")
        bench.write(lambda: IndexRebuild.update(lease_owner="elsewhere:1").execute())
        with pytest.raises(Conflict, match="took over"):
            await run


class TestIngestionAcrossTheSwitch:
    @staticmethod
    def tasks(bench: Bench) -> TaskService:
        return TaskService(bench.db, bench.clock, IngestSettings(attempts=2, lease_s=30))

    @staticmethod
    def queue(document: str, version: str) -> None:
        row = {"id": f"t_{version}", "document_id": document, "dataset_id": "ds", "tenant_id": "x", "state": "queued"}
        Task.create(**row, version_id=version, **TIMES)

    async def test_nothing_begins_while_it_closes(self, bench: Bench) -> None:
        seed(bench)
        tasks = self.tasks(bench)
        bench.write(lambda: self.queue("new", "v_new"))
        run = bench.run(patience_s=1000)
        (job,) = await tasks.claim("w", small=1, large=1)
        await bench.until("closing")
        bench.write(lambda: self.queue("short1", "v1_2"))
        assert await tasks.claim("w", small=1, large=1) == []
        await asyncio.sleep(0.1)
        assert not run.done(), "it waits for what is being ingested"
        report = Report(job=job, stage="done", fraction=0.9, messages=())
        bench.write(lambda: bench.add_chunks("new", "v_new", 2))
        assert await tasks.finish([Ended(report=report, chunk_count=2, token_count=2)]) == frozenset()
        await run
        bench.settled()
        (job,) = await tasks.claim("w", small=1, large=1)
        assert job.place == NEW

    async def test_a_closing_rebuild_that_died_holds_nobody_back(self, bench: Bench) -> None:
        seed(bench)
        bench.kill_at(2)
        await bench.killed_run()
        bench.write(lambda: IndexRebuild.update(state="closing").execute())
        bench.write(lambda: self.queue("new", "v_new"))
        tasks = self.tasks(bench)
        assert await tasks.claim("w", small=1, large=1) == []
        bench.clock.seconds += LEASE_S + 1
        assert len(await tasks.claim("w", small=1, large=1)) == 1

    async def test_a_job_that_ends_after_the_switch_is_done_again(self, bench: Bench) -> None:
        seed(bench)
        tasks = self.tasks(bench)
        bench.write(lambda: self.queue("short1", "v1_2"))
        (job,) = await tasks.claim("w", small=1, large=1)
        await bench.run()
        report = Report(job=job, stage="done", fraction=0.9, messages=())
        ended = Ended(report=report, chunk_count=0, token_count=0)
        assert await tasks.write_chunks([(job, ())]) == {job.task_id}
        assert await tasks.finish([ended]) == {job.task_id}
        await tasks.abandon(job)
        assert bench.read(lambda: Document.get_by_id("short1").live_version) == "v1"
        assert await tasks.claim("w", small=1, large=1) == [], "its worker has to let go of it first"
        bench.clock.seconds += 3
        (again,) = await tasks.claim("w", small=1, large=1)
        assert (again.place, again.version_id, again.attempt) == (NEW, "v1_2", 1)
        report = Report(job=again, stage="done", fraction=0.9, messages=())
        assert await tasks.finish([Ended(report=report, chunk_count=0, token_count=0)]) == frozenset()


async def test_deleting_by_version_leaves_the_others(bench: Bench) -> None:
    """What a rebuild relies on when it takes stale and left-over versions out."""
    bench.write(lambda: (bench.add("a", "v1", 2), bench.add("b", "v2", 2)))
    await bench.run()
    await bench.store.delete(NEW, Selector(version_ids=("v1",)))
    assert set(bench.store.held(NEW)) == {"v2/c000", "v2/c001"}
