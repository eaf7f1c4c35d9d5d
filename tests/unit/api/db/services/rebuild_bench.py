"""What tests of rebuilding share: rows to fill, an index in memory with a hook, runs that are killed."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from api.db.database import Database
from api.db.services.rebuild_claim import LEASE_S, RebuildClaim
from api.db.services.rebuild_service import Progress, RebuildService, Summary
from api.db.tables import (
    Chunk,
    Dataset,
    Document,
    IndexPlace,
    IndexRebuild,
    RebuiltVersion,
)
from rag.core.types import Matrix
from rag.store.base import Entry, Place
from rag.store.memory import MemoryStore
from rag.testing.hash_embedder import HashEmbedder
from tests.unit.api.db.services.test_task_service import HeldClock

OLD, NEW = Place(name="t_x_g1", dim=8), Place(name="t_x_g2", dim=8)
TIMES = {"create_time": 1, "update_time": 1}


class Killed(BaseException):
    """Ends a run where it stands, as a kill does."""


class HookedStore(MemoryStore):
    """Calls `hook` before each write of entries, and knows what no search can see yet."""

    hook: Callable[[int], Any] = staticmethod(lambda number: None)
    writes = 0

    unseen: frozenset[str] = frozenset()

    async def upsert(self, place: Place, entries: Sequence[Entry], *, visible: bool = True) -> None:
        self.unseen = self.unseen - {place.name} if visible else self.unseen | {place.name}
        if entries:
            self.writes += 1
            self.hook(self.writes)
            await super().upsert(place, entries, visible=visible)

    def held(self, place: Place) -> dict[str, str]:
        """The tokens of each chunk in a place."""
        return {f"{k.version_id}/{k.chunk_id}": e.tokens for k, e in self._places.get(place.name, {}).items()}

    def entry(self, place: Place, version: str, chunk: str) -> Entry:
        return next(e for k, e in self._places[place.name].items() if (k.version_id, k.chunk_id) == (version, chunk))


class Bench:
    def __init__(self, db: Database) -> None:
        self.db = db
        self.clock = HeldClock()
        self.store = HookedStore()
        self.seen: list[Progress] = []
        self.write(lambda: self.add_dataset("ds", OLD))

    @staticmethod
    async def embed(model: str, texts: Sequence[str]) -> Matrix:
        assert model == "hash"
        return HashEmbedder(dim=8).encode(texts).vectors

    def write(self, fn: Callable[[], Any]) -> Any:
        return self.db.write_blocking(fn)

    def read(self, fn: Callable[[], Any]) -> Any:
        return self.db.run_blocking(fn)

    @staticmethod
    def add_dataset(dataset: str, place: Place, tenant: str = "x") -> None:
        if IndexPlace.get_or_none(IndexPlace.name == place.name) is None:
            IndexPlace.create(name=place.name, tenant_id=tenant, embedding_model="hash", dim=8, **TIMES)
        row = {"id": dataset, "tenant_id": tenant, "created_by": tenant, "name": dataset, "name_norm": dataset}
        Dataset.create(**row, embedding_model="hash", parser_config={}, place=place.name, **TIMES)

    @staticmethod
    def add(document: str, version: str | None, chunks: int = 1, *, dataset: str = "ds", enabled: bool = True) -> None:
        """A document with a live version; for use inside a write."""
        row = {"id": document, "dataset_id": dataset, "tenant_id": "x", "created_by": "x", "name": f"{document}.txt"}
        row |= {"location": document, "type": "doc", "size": 1, "sha256": document, "blob_key": document}
        row |= {
            "chunk_method": "naive",
            "parser_config": {},
            "meta_fields": {},
            "chunk_count": chunks,
            "enabled": enabled,
        }
        Document.create(**row, live_version=version, **TIMES)
        if version:
            Bench.add_chunks(document, version, chunks, dataset=dataset)

    @staticmethod
    def add_chunks(document: str, version: str, chunks: int, *, dataset: str = "ds") -> None:
        for number in range(chunks):
            row = {"document_id": document, "version_id": version, "chunk_id": f"c{number:03}", "dataset_id": dataset}
            row |= {"content": f"word{number} of {document}", "heading_path": [], "positions": [], "ordinal": number}
            Chunk.insert(**row, important_keywords=[], questions=[], create_time=1).execute()

    def run(self, *, owner: str = "folder:1", made_for: str = "memory 1", **more: Any) -> "asyncio.Task[Summary]":
        claim = RebuildClaim(self.db, self.clock, self.store, owner=owner, made_for=made_for)
        options = {"grace_s": 0, "patience_s": 0, "chunks_at_once": 4} | more
        service = RebuildService(self.db, self.clock, self.store, self.embed, claim, **options)
        return asyncio.ensure_future(service.run(self.seen.append))

    async def killed_run(self, **more: Any) -> None:
        """A run that is killed by the store's hook; unlike a real kill it gave its lease back, which is undone."""
        with pytest.raises(Killed):
            await self.run(**more)
        until = int(self.clock.seconds * 1000 + LEASE_S * 1000)
        self.write(lambda: IndexRebuild.update(lease_owner=more.get("owner", "folder:1"), lease_until=until).execute())

    def kill_at(self, write: int) -> None:
        def hook(number: int) -> None:
            if number == write:
                raise Killed

        self.store.hook = hook

    async def until(self, state: str) -> None:
        while not await self.db.run(lambda: IndexRebuild.select().where(IndexRebuild.state == state).exists()):
            await asyncio.sleep(0.01)

    def live(self) -> set[str]:
        """All chunks of live versions, as the index names them."""
        rows = Chunk.select().join(Document, on=(Document.live_version == Chunk.version_id))
        return self.read(lambda: {f"{row.version_id}/{row.chunk_id}" for row in rows})

    def settled(self, new: Place = NEW) -> None:
        """Nothing of the rebuild is left but its result, which searches see."""
        assert new.name not in self.store.unseen
        assert set(self.store.held(new)) == self.live()
        assert self.store.held(OLD) == {}
        assert self.read(lambda: {row.place for row in Dataset.select()}) == {new.name}
        assert self.read(lambda: [(row.name, row.embedding_model, row.dim) for row in IndexPlace.select()]) == [
            (new.name, "hash", 8)
        ]
        assert self.read(lambda: (IndexRebuild.select().count(), RebuiltVersion.select().count())) == (0, 0)


def seed(bench: Bench) -> None:
    """One long document, short ones, one without text, one that was never ingested."""

    def write() -> None:
        bench.add("long", "v_long", 11)
        for number in range(5):
            bench.add(f"short{number}", f"v{number}", 1)
        bench.add("blank", "v_blank", 0)
        bench.add("new", None, 0)

    bench.write(write)
