"""A LanceDB folder that is lost or damaged in each of its parts is made anew, and finds the same."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from api.db.database import Database
from api.db.services.index_state import advice, index_state
from api.db.services.rebuild_claim import RebuildClaim
from api.db.services.rebuild_service import RebuildService, Summary
from rag.store.base import Candidates, Filter, Place, SearchQuery
from rag.store.lance import LanceStore
from rag.testing.hash_embedder import HashEmbedder
from tests.unit.api.db.rows import Rows
from tests.unit.api.db.services.rebuild_bench import NEW, Bench, seed
from tests.unit.api.db.services.test_task_service import HeldClock

THIRD = Place(name="t_x_g3", dim=8)


class OnLance(Bench):
    """The bench of the unit tests on a real folder."""

    def __init__(self, db: Database, folder: Path) -> None:
        super().__init__(db)
        self.folder = folder

    async def rebuild(self) -> Summary:
        async with self.opened() as store:
            claim = RebuildClaim(self.db, self.clock, store, owner="folder:1", made_for="lance 1")
            options = {"grace_s": 0, "patience_s": 0, "chunks_at_once": 4}
            return await RebuildService(self.db, self.clock, store, self.embed, claim, **options).run(self.seen.append)

    async def advice(self) -> str:
        async with self.opened() as store:
            return advice(await index_state(self.db, store, self.clock))

    async def find(self, place: Place) -> Candidates:
        vector = HashEmbedder(dim=8).encode(["long word7 of long"]).vectors[0]
        query = SearchQuery(filter=Filter(dataset_ids=("ds",)), terms=("long", "word7"), vector=vector, limit=30)
        async with self.opened() as store:
            await store.optimise(place)
            return await store.search(place, query)

    def opened(self) -> "Opened":
        return Opened(self.folder, self.clock)


class Opened:
    """A store that reads the folder afresh, as another process does."""

    def __init__(self, folder: Path, clock: HeldClock) -> None:
        self.store = LanceStore(folder, clock=clock, cache_bytes=0)

    async def __aenter__(self) -> LanceStore:
        await self.store.open()
        return self.store

    async def __aexit__(self, *error: object) -> None:
        await self.store.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[OnLance]:
    db = Rows(str(tmp_path / "rows.sqlite")).database()
    db.open()
    yield OnLance(db, tmp_path / "index")
    db.close()


@pytest.mark.parametrize("lost", [".", "*.lance", "*.lance/data/*", "*.lance/_versions/*", "*.lance/_indices/*"])
async def test_what_was_lost_is_made_anew(bench: OnLance, lost: str) -> None:
    await asyncio.to_thread(seed, bench)
    assert "cannot find 16 of 16 chunks: run `parley index rebuild`" in await bench.advice()
    await bench.rebuild()
    assert await bench.advice() == ""
    before = await bench.find(NEW)
    assert len(before.candidates) == 16

    def lose() -> None:
        gone = [bench.folder] if lost == "." else list(bench.folder.glob(lost))
        assert gone
        for path in gone:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    await asyncio.to_thread(lose)
    assert "run `parley index rebuild`" in await bench.advice()
    assert (await bench.rebuild()).chunks == 16
    assert await bench.advice() == ""
    after = await bench.find(THIRD)
    assert [after.candidates[i] for i in after.lexical] == [before.candidates[i] for i in before.lexical]
    assert [after.candidates[i].key for i in after.vector] == [before.candidates[i].key for i in before.vector]
    assert np.array_equal(after.held, before.held)
    assert [path.name for path in bench.folder.iterdir()] == [f"{THIRD.name}.lance"], "nothing is left of the damage"
