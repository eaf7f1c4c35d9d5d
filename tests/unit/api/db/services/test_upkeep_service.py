"""Sweeping, the outbox and garbage, on a real SQLite file and an index in memory."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from api.db.database import Database
from api.db.services import entry_renewal
from api.db.services.upkeep_service import OUTBOX_MS, SETTLE_MS, UpkeepService
from api.db.tables import Chunk, Dataset, Document, DocumentVersion, IndexPlace, Outbox, Task
from rag.blob.object_store import ObjectBlobStore
from rag.core.errors import StoreError, StoreUnavailable
from rag.core.types import Matrix
from rag.store.base import Entry, EntryKey, Filter, Place, SearchQuery, Selector
from rag.store.memory import MemoryStore
from rag.testing.hash_embedder import HashEmbedder
from tests.unit.api.db.rows import Rows
from tests.unit.api.db.services.test_task_service import HeldClock

PLACE = Place(name="t_x_g1", dim=8)
TIMES = {"create_time": 1, "update_time": 1}


class Bench:
    def __init__(self, db: Database, folder: Path) -> None:
        self.db = db
        self.clock = HeldClock()
        self.store = MemoryStore()
        blobs = ObjectBlobStore.in_folder(folder)
        self.upkeep = UpkeepService(db, self.clock, self.store, blobs, self.embed)
        self.db.write_blocking(
            lambda: IndexPlace.create(name=PLACE.name, tenant_id="x", embedding_model="hash", dim=8, **TIMES)
        )
        dataset = {"id": "ds", "tenant_id": "x", "created_by": "x", "name": "ds", "name_norm": "ds"}
        self.db.write_blocking(
            lambda: Dataset.create(**dataset, embedding_model="hash", parser_config={}, place=PLACE.name, **TIMES)
        )

    @staticmethod
    async def embed(model: str, texts: Sequence[str], tenant_id: str) -> Matrix:
        assert (model, tenant_id) == ("hash", "x")
        return HashEmbedder(dim=8).encode(texts).vectors

    @property
    def now(self) -> int:
        return int(self.clock.seconds * 1000)

    def document(self, name: str, *, live: str | None = None, enabled: bool = True) -> None:
        self.db.write_blocking(
            lambda: Document.create(
                id=name,
                dataset_id="ds",
                tenant_id="x",
                created_by="x",
                name=name,
                location=name,
                type="doc",
                size=1,
                sha256=name,
                blob_key=f"key-{name}",
                chunk_method="naive",
                parser_config={},
                meta_fields={},
                live_version=live,
                enabled=enabled,
                **TIMES,
            )
        )

    async def chunk(self, document: str, version: str, content: str, *, indexed: bool = True) -> None:
        self.db.write_blocking(
            lambda: Chunk.insert(
                document_id=document,
                version_id=version,
                chunk_id=content,
                dataset_id="ds",
                ordinal=0,
                content=content,
                heading_path=[],
                positions=[],
                important_keywords=[],
                questions=[],
                create_time=1,
            ).execute()
        )
        if indexed:
            key = EntryKey(document_id=document, version_id=version, chunk_id=content)
            vector = np.zeros(8, dtype=np.float32)
            await self.store.upsert(PLACE, [Entry(key=key, dataset_id="ds", tokens=content, vector=vector)])

    def version(self, version: str, state: str, updated: int) -> None:
        self.db.write_blocking(
            lambda: DocumentVersion.create(
                id=version,
                document_id="d",
                dataset_id="ds",
                place=PLACE.name,
                state=state,
                create_time=1,
                update_time=updated,
            )
        )

    def outbox(self, action: str, payload: dict[str, object], *, created: int = 0, place: str = PLACE.name) -> None:
        self.db.write_blocking(lambda: Outbox.create(place=place, action=action, payload=payload, create_time=created))

    async def entries(self) -> int:
        return (await self.store.optimise(PLACE)).entries

    def count(self, table: type[Chunk] | type[DocumentVersion] | type[Outbox]) -> int:
        return self.db.run_blocking(lambda: table.select().count())


@pytest.fixture
def bench(tmp_path: Path, rows: Rows) -> Iterator[Bench]:
    db = rows.database()
    db.open()
    yield Bench(db, tmp_path / "files")
    db.close()


class TestSweep:
    async def test_takes_dead_versions_from_rows_and_index(self, bench: Bench) -> None:
        await bench.chunk("d", "old", "x")
        await bench.chunk("d", "live", "y")
        bench.version("old", "dead", 0)
        assert await bench.upkeep.sweep() == 1
        assert (bench.count(Chunk), await bench.entries(), bench.count(DocumentVersion)) == (1, 1, 0)
        assert await bench.upkeep.sweep() == 0

    async def test_takes_all_of_them_at_once_however_many(self, bench: Bench) -> None:
        for number in range(450):
            bench.version(f"old{number}", "dead", 0)
        assert await bench.upkeep.sweep() == 450
        assert bench.count(DocumentVersion) == 0

    async def test_leaves_those_that_ended_a_moment_ago(self, bench: Bench) -> None:
        await bench.chunk("d", "stopped", "x")
        bench.version("stopped", "dead", bench.now)
        assert await bench.upkeep.sweep() == 0
        bench.clock.seconds += SETTLE_MS / 1000 + 1
        assert await bench.upkeep.sweep() == 1
        assert (bench.count(Chunk), await bench.entries()) == (0, 0)

    async def test_leaves_what_is_being_written(self, bench: Bench) -> None:
        bench.version("new", "writing", 0)
        assert await bench.upkeep.sweep() == 0

    async def test_an_index_out_of_reach_leaves_the_rows(self, bench: Bench) -> None:
        class Away(MemoryStore):
            async def delete(self, place: Place, selector: Selector) -> None:
                raise StoreUnavailable("No answer.")

        await bench.chunk("d", "old", "x")
        bench.version("old", "dead", 0)
        bench.upkeep._store = Away()
        with pytest.raises(StoreUnavailable):
            await bench.upkeep.sweep()
        assert (bench.count(Chunk), bench.count(DocumentVersion)) == (1, 1)

    async def test_versions_without_a_task_are_orphans(self, bench: Bench) -> None:
        bench.version("kept", "writing", 0)
        bench.version("lost", "writing", 0)
        bench.db.write_blocking(
            lambda: Task.create(
                id="t", document_id="d", dataset_id="ds", tenant_id="x", version_id="kept", state="queued", **TIMES
            )
        )
        assert await bench.upkeep.bury_orphans() == 1
        rows = bench.db.run_blocking(lambda: {v.id: v.state for v in DocumentVersion.select()})
        assert rows == {"kept": "writing", "lost": "dead"}


class TestOutbox:
    @pytest.mark.parametrize("kind", ["document_ids", "dataset_ids", "version_ids"])
    async def test_carries_deletions_out(self, bench: Bench, kind: str) -> None:
        await bench.chunk("d", "v", "x")
        value = {"document_ids": "d", "dataset_ids": "ds", "version_ids": "v"}[kind]
        bench.outbox("delete", {kind: [value]})
        assert await bench.upkeep.drain_outbox() == 1
        assert (await bench.entries(), bench.count(Outbox)) == (0, 0)

    async def test_leaves_young_changes_to_their_maker(self, bench: Bench) -> None:
        bench.outbox("delete", {"document_ids": ["d"]}, created=bench.now - OUTBOX_MS + 500)
        assert await bench.upkeep.drain_outbox() == 0
        bench.clock.seconds += 1
        assert await bench.upkeep.drain_outbox() == 1

    async def test_writes_the_index_anew_as_the_rows_are(self, bench: Bench) -> None:
        bench.document("d", live="v", enabled=False)
        await bench.chunk("d", "v", "x")
        await bench.chunk("d", "older", "z")
        found = SearchQuery(filter=Filter(dataset_ids=("ds",)), terms=("x",))
        assert (await bench.store.search(PLACE, found)).candidates
        bench.outbox("availability", {"document_id": "d", "available": False})
        assert await bench.upkeep.drain_outbox() == 1
        assert not (await bench.store.search(PLACE, found)).candidates
        assert await bench.entries() == 2

    async def test_a_place_or_document_that_is_gone_needs_nothing(self, bench: Bench) -> None:
        bench.outbox("delete", {"document_ids": ["d"]}, place="nowhere")
        bench.outbox("availability", {"document_id": "gone", "available": True})
        assert await bench.upkeep.drain_outbox() == 2
        assert bench.count(Outbox) == 0

    async def test_what_it_does_not_know_stays(self, bench: Bench) -> None:
        bench.outbox("dance", {})
        with pytest.raises(StoreError):
            await bench.upkeep.drain_outbox()
        assert bench.count(Outbox) == 1

    async def test_what_always_fails_waits_longer_each_time_and_lets_others_pass(self, bench: Bench) -> None:
        bench.outbox("dance", {})
        bench.outbox("delete", {"document_ids": ["d"]})
        with pytest.raises(StoreError):
            await bench.upkeep.drain_outbox()
        assert bench.count(Outbox) == 1
        assert await bench.upkeep.drain_outbox() == 0
        for wait in (2.1, 4.1):
            bench.clock.seconds += wait
            with pytest.raises(StoreError):
                await bench.upkeep.drain_outbox()
        bench.clock.seconds += 4.1
        bench.outbox("delete", {"document_ids": ["d"]})
        assert await bench.upkeep.drain_outbox() == 1

    async def test_an_index_out_of_reach_ends_the_round_and_puts_nothing_off(self, bench: Bench) -> None:
        store = Partly(away={"d", "e"})
        bench.upkeep._store = store
        bench.outbox("delete", {"document_ids": ["d"]})
        bench.outbox("delete", {"document_ids": ["e"]})
        for _ in range(12):
            with pytest.raises(StoreUnavailable):
                await bench.upkeep.drain_outbox()
        assert store.asked == ["d"] * 12
        store.away.clear()
        assert await bench.upkeep.drain_outbox() == 2
        assert bench.count(Outbox) == 0

    async def test_a_change_that_alone_is_not_answered_lets_others_pass(self, bench: Bench) -> None:
        store = Partly(away={"d"}, answers=True)
        bench.upkeep._store = store
        bench.outbox("delete", {"document_ids": ["d"]})
        bench.outbox("delete", {"document_ids": ["e"]})
        with pytest.raises(StoreUnavailable):
            await bench.upkeep.drain_outbox()
        assert await bench.upkeep.drain_outbox() == 1
        assert store.asked == ["d", "e"]


class Partly(MemoryStore):
    """Does not answer when it is to delete what is `away`; `answers` a look all the same."""

    def __init__(self, *, away: set[str], answers: bool = False) -> None:
        super().__init__()
        self.away = away
        self.answers = answers
        self.asked: list[str] = []

    async def delete(self, place: Place, selector: Selector) -> None:
        self.asked += selector.document_ids
        if self.away.intersection(selector.document_ids):
            raise StoreUnavailable("No answer.")

    async def check(self) -> str:
        if self.away and not self.answers:
            raise StoreUnavailable("No answer.")
        return "partly"


class TestRenewal:
    """A renewal while its document changes: five chunks in three parts."""

    @pytest.fixture
    async def renewing(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> "Renewing":
        monkeypatch.setattr(entry_renewal, "_AT_ONCE", 2)
        bench.document("d", live="v")
        for number in range(5):
            await bench.chunk("d", "v", f"c{number}", indexed=False)
        bench.outbox("renewal", {"document_id": "d"})
        store = Renewing()
        bench.upkeep = UpkeepService(bench.db, bench.clock, store, bench.upkeep._blobs, bench.embed)
        bench.store = store
        return store

    @staticmethod
    def replaced() -> None:
        Document.update(live_version="w").where(Document.id == "d").execute()

    @staticmethod
    def deleted() -> None:
        Document.delete().where(Document.id == "d").execute()
        Chunk.delete().where(Chunk.document_id == "d").execute()

    @staticmethod
    def dataset_deleted() -> None:
        TestRenewal.deleted()
        Dataset.delete().execute()

    async def test_all_parts_are_written(self, bench: Bench, renewing: "Renewing") -> None:
        await bench.upkeep.drain_outbox()
        assert (renewing.parts, await bench.entries(), bench.count(Outbox)) == (3, 5, 0)

    @pytest.mark.parametrize("part", [1, 2, 3])
    @pytest.mark.parametrize("change", ["replaced", "deleted", "dataset_deleted"])
    @pytest.mark.parametrize("when", ["before", "after"])
    async def test_what_no_longer_lives_is_not_left_behind(
        self, bench: Bench, renewing: "Renewing", part: int, change: str, when: str
    ) -> None:
        async def swept() -> None:
            await bench.db.write(getattr(self, change))
            await MemoryStore.delete(renewing, PLACE, Selector(document_ids=("d",)))

        renewing.hooks[when, part] = swept
        await bench.upkeep.drain_outbox()
        assert (await bench.entries(), bench.count(Outbox)) == (0, 0)
        assert renewing.parts == part

    @pytest.mark.parametrize("change", ["replaced", "deleted"])
    async def test_one_that_could_not_be_taken_out_goes_with_the_next_attempt(
        self, bench: Bench, renewing: "Renewing", change: str
    ) -> None:
        renewing.hooks["before", 2] = lambda: bench.db.write(getattr(self, change))
        renewing.away = True
        with pytest.raises(StoreError):
            await bench.upkeep.drain_outbox()
        assert await bench.entries() == 4
        renewing.away = False
        bench.clock.seconds += 10
        await bench.upkeep.drain_outbox()
        assert (await bench.entries(), bench.count(Outbox)) == (0, 0)

    async def test_a_place_that_was_left_is_left_alone(self, bench: Bench, renewing: "Renewing") -> None:
        """Searches that began in it go on until it is dropped."""
        renewing.hooks["after", 1] = lambda: bench.db.write(Dataset.update(place="t_x_g2").execute)
        await bench.upkeep.drain_outbox()
        assert (renewing.parts, await bench.entries(), bench.count(Outbox)) == (1, 2, 0)


class Renewing(MemoryStore):
    """Runs `hooks` before and after a part is written, and may refuse to delete."""

    def __init__(self) -> None:
        super().__init__()
        self.hooks: dict[tuple[str, int], Callable[[], Awaitable[object]]] = {}
        self.parts = 0
        self.away = False

    async def upsert(self, place: Place, entries: Sequence[Entry], *, visible: bool = True) -> None:
        self.parts += 1
        for when in ("before", "after"):
            if hook := self.hooks.get((when, self.parts)):
                await hook()
            if when == "before":
                await super().upsert(place, entries, visible=visible)

    async def delete(self, place: Place, selector: Selector) -> None:
        if self.away:
            raise StoreError("Not now.")
        await super().delete(place, selector)


async def test_places(bench: Bench) -> None:
    assert await bench.upkeep.places() == [PLACE]
