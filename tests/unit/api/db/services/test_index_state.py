"""What of the rows the index lacks, and what is said about it."""

from collections.abc import Iterator

import numpy as np
import pytest

from api.db.services.index_state import PlaceState, RebuildState, advice, index_state
from api.db.tables import Chunk, Document, IndexRebuild
from rag.core.errors import StoreUnavailable
from rag.store.base import Entry, EntryKey, Place, Sample, Selector
from tests.unit.api.db.rows import Rows
from tests.unit.api.db.services.rebuild_bench import NEW, Bench, seed


@pytest.fixture
def bench(rows: Rows) -> Iterator[Bench]:
    db = rows.database()
    db.open()
    made = Bench(db)
    seed(made)
    yield made
    db.close()


async def state(bench: Bench) -> PlaceState:
    (found,) = await index_state(bench.db, bench.store, bench.clock)
    return found


async def test_an_index_without_the_place(bench: Bench) -> None:
    found = await state(bench)
    assert (found.name, found.datasets, found.documents, found.chunks, found.entries) == ("t_x_g1", 1, 7, 16, 0)
    assert found.missing == 16
    assert advice([found]) == (
        "1 place is not in this index, or not in full: searches cannot find 16 of 16 chunks: "
        "run `parley index rebuild`."
    )


async def test_after_a_rebuild_nothing_is_missing(bench: Bench) -> None:
    await bench.run()
    found = await state(bench)
    assert (found.name, found.entries, found.missing) == (NEW.name, 16, 0)
    assert advice([found]) == ""


async def test_a_part_is_missing(bench: Bench) -> None:
    await bench.run()
    await bench.store.delete(NEW, Selector(version_ids=("v1", "v2")))
    assert (await state(bench)).missing == 2


async def test_what_no_search_may_find_is_not_missing(bench: Bench) -> None:
    await bench.run()
    bench.write(lambda: Document.update(enabled=False).where(Document.id == "short1").execute())
    bench.write(lambda: Chunk.update(available=False).where(Chunk.chunk_id == "c005").execute())
    await bench.store.delete(NEW, Selector(version_ids=("v1",)))
    entry = bench.store.entry(NEW, "v_long", "c005")
    del bench.store._places[NEW.name][entry.key]
    assert (await state(bench)).missing == 0


async def test_what_goes_live_between_two_looks_is_not_missing(bench: Bench) -> None:
    await bench.run()
    bench.write(lambda: Chunk.update(available=False).where(Chunk.chunk_id == "c005").execute())
    del bench.store._places[NEW.name][bench.store.entry(NEW, "v_long", "c005").key]
    count, looks = bench.store.sample, []

    async def sample(place: Place, dataset_ids: tuple[str, ...]) -> Sample:
        looks.append(place)
        found = await count(place, dataset_ids)
        if len(looks) == 1:
            key = EntryKey(document_id="later", version_id="v_later", chunk_id="c000")
            vector = np.zeros(8, dtype=np.float32)
            await bench.store.upsert(NEW, [Entry(key=key, dataset_id="ds", tokens="x", vector=vector)])
            bench.write(lambda: bench.add("later", "v_later", 1))
        return found

    bench.store.sample = sample  # type: ignore[method-assign]
    found = await state(bench)
    assert (found.chunks, found.entries, found.missing) == (16, 16, 0)


async def test_a_place_that_cannot_be_read_is_damaged(bench: Bench) -> None:
    async def broken(place: Place, dataset_ids: tuple[str, ...]) -> Sample:
        raise StoreUnavailable("A file is gone.")

    bench.store.sample = broken  # type: ignore[method-assign]
    found = await state(bench)
    assert (found.damage, found.missing) == ("A file is gone.", 16)


async def test_an_index_that_is_away_says_nothing(bench: Bench) -> None:
    async def away() -> str:
        raise StoreUnavailable("No answer.")

    bench.store.check = away  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        await state(bench)


async def test_a_rebuild_is_shown_while_it_runs_and_after_a_kill(bench: Bench) -> None:
    bench.kill_at(3)
    await bench.killed_run()
    found = await state(bench)
    assert found.rebuild == RebuildState(state="filling", chunks_done=8, chunks_total=16, running=True)
    assert "`parley index rebuild` is at it: 8 of 16 chunks." in advice([found])
    bench.write(lambda: IndexRebuild.update(lease_until=0).execute())
    found = await state(bench)
    assert found.rebuild is not None
    assert not found.rebuild.running
    assert "run `parley index rebuild`" in advice([found])


def test_advice_on_many_places() -> None:
    row = {"embedding_model": "m", "datasets": 1, "documents": 1}
    lost = [PlaceState(name=f"p{n}", chunks=1500, entries=0, **row) for n in range(2)]  # type: ignore[arg-type]
    well = PlaceState(name="p3", chunks=5, entries=9, **row)  # type: ignore[arg-type]
    assert advice([*lost, well]).startswith(
        "2 places are not in this index, or not in full: searches cannot find 3,000"
    )
