import asyncio
import copy
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from rag.core.errors import StoreUnavailable
from rag.core.settings import RetrievalSettings
from rag.core.types import ChunkText, Retrieved, Vector
from rag.nlp.analysis import index_tokens
from rag.retrieve.retriever import Retriever
from rag.store.base import Candidates, Entry, EntryKey, Place, Sample, SearchQuery, View
from rag.store.memory import MemoryStore

PLACE = Place(name="t_test_g1", dim=4)
TEXTS = {
    "capital": "Capital expenditure of 1,577 in fiscal 2018",
    "revenue": "Revenue grew in every segment",
    "weather": "The weather was fine and mild",
    "leases": "Operating leases of aircraft",
}


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.now_s


class FakeChunks:
    def __init__(self) -> None:
        self.hidden: tuple[str, ...] = ()
        self.gone: set[str] = set()
        self.asked: list[list[EntryKey]] = []

    async def texts(self, keys: Sequence[EntryKey]) -> dict[EntryKey, ChunkText]:
        self.asked.append(list(keys))
        return {
            key: ChunkText(
                chunk_id=key.chunk_id,
                document_id=key.document_id,
                version_id=key.version_id,
                dataset_id="set1",
                document_name="a.txt",
                ordinal=0,
                content=TEXTS.get(key.chunk_id, key.chunk_id),
            )
            for key in keys
            if key.chunk_id not in self.gone
        }

    async def hidden_versions(self, place: str) -> tuple[str, ...]:
        assert place == PLACE.name
        return self.hidden


class CountingStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.samples = 0
        self.queries: list[SearchQuery] = []
        self.broken = False
        self.given_view: View | None = None

    async def view(self, place: Place) -> View | None:
        return self.given_view

    async def sample(self, place: Place, dataset_ids: tuple[str, ...]) -> Sample:
        self.samples += 1
        if self.broken:
            raise StoreUnavailable("gone")
        return await super().sample(place, dataset_ids)

    async def search(self, place: Place, query: SearchQuery) -> Candidates:
        self.queries.append(query)
        return await super().search(place, query)


class World:
    def __init__(self) -> None:
        self.store, self.chunks, self.clock = CountingStore(), FakeChunks(), FakeClock()
        self.vector: Vector = np.array([1, 0, 0, 0], dtype=np.float32)
        self.retriever = self.make()

    def make(self, **settings: Any) -> Retriever:
        known = RetrievalSettings.model_validate(settings)
        return Retriever(store=self.store, chunks=self.chunks, settings=known, clock=self.clock)

    async def fill(self, texts: dict[str, str], **fields: Any) -> None:
        await self.store.upsert(
            PLACE,
            [
                Entry(
                    key=EntryKey(document_id=fields.get("document_id", "d1"), version_id="v1", chunk_id=name),
                    dataset_id=fields.get("dataset_id", "set1"),
                    tokens=index_tokens(text),
                    vector=np.eye(4, dtype=np.float32)[number % 4],
                )
                for number, (name, text) in enumerate(texts.items())
            ],
        )

    async def embed(self, question: str) -> Vector:
        return self.vector

    async def ask(self, question: str, **options: Any) -> Retrieved:
        options = {"dataset_ids": ("set1",), "embed": self.embed, "threshold": 0.0, **options}
        return await self.retriever.retrieve(PLACE, question=question, **options)


@pytest.fixture
async def world() -> World:
    world = World()
    await world.fill(TEXTS)
    return world


def names(found: Retrieved) -> list[str]:
    return [hit.chunk.chunk_id for hit in found.hits]


async def test_hits_carry_both_scores_and_their_texts(world: World) -> None:
    found = await world.ask("capital expenditure")
    best = found.hits[0]
    assert (best.chunk.chunk_id, best.rank) == ("capital", 1)
    assert best.vector_similarity == pytest.approx(1.0)
    assert best.term_similarity == pytest.approx(1.0)
    assert best.similarity == pytest.approx(1.0)
    assert best.chunk.content == TEXTS["capital"]
    assert set(found.timings_ms) == {"embed", "statistics", "search", "fuse", "texts", "total"}


async def test_the_threshold_is_absolute(world: World) -> None:
    world.vector = np.array([0, 0, 1, 0], dtype=np.float32)
    found = await world.ask("revenue gibberish", threshold=0.2)
    assert sorted(names(found)) == ["revenue", "weather"]
    assert found.total == 2
    by_name = {hit.chunk.chunk_id: hit for hit in found.hits}
    assert by_name["weather"].similarity == pytest.approx(0.3)
    assert 0.0 < by_name["revenue"].term_similarity < 0.5
    assert (await world.ask("revenue gibberish", threshold=0.5)).hits == ()


async def test_weight_moves_the_absolute_score_and_the_order(world: World) -> None:
    world.vector = np.array([0, 0, 1, 0], dtype=np.float32)
    words = await world.ask("operating leases", weight=0.0)
    vectors = await world.ask("operating leases", weight=1.0)
    assert names(words)[0] == "leases"
    assert names(vectors)[0] == "weather"
    assert words.hits[0].similarity == pytest.approx(1.0)
    assert vectors.hits[0].similarity == pytest.approx(1.0)
    await world.ask("operating leases", weight=10.0)


async def test_pages_are_slices_of_one_ranking(world: World) -> None:
    await world.fill({f"c{i:02}": f"capital note {i}" for i in range(20)}, document_id="d2")
    whole = await world.ask("capital note", page_size=100)
    assert len(whole.hits) == whole.total == 24
    paged: list[str] = []
    for page in range(1, 7):
        found = await world.ask("capital note", page=page, page_size=5)
        assert found.total == 24
        assert [hit.rank for hit in found.hits] == list(range((page - 1) * 5 + 1, (page - 1) * 5 + 1 + len(found.hits)))
        paged += names(found)
    assert paged == names(whole)
    assert len((await world.ask("capital note", page=2, page_size=20)).hits) == 4


async def test_only_the_texts_of_the_page_are_read(world: World) -> None:
    await world.ask("capital", page=2, page_size=1)
    assert [len(keys) for keys in world.chunks.asked] == [1]


async def test_a_chunk_that_died_meanwhile_is_as_if_never_found(world: World) -> None:
    world.chunks.gone = {"capital"}
    found = await world.ask("capital expenditure", page_size=2)
    assert "capital" not in names(found)
    assert (len(found.hits), found.total, found.hits[0].rank) == (2, 3, 1)


async def test_filters_reach_the_search(world: World) -> None:
    world.chunks.hidden = ("v9",)
    await world.ask("capital", document_ids=("d1",), top_k=7)
    sent = world.store.queries[-1]
    assert sent.filter.document_ids == ("d1",)
    assert sent.filter.without_versions == ("v9",)
    assert sent.limit == 7
    world.chunks.hidden = ("v1",)
    assert (await world.ask("capital")).hits == ()


@pytest.mark.parametrize("options", [{"question": " \n"}, {"dataset_ids": ()}, {"document_ids": ()}])
async def test_nothing_to_ask_finds_nothing(world: World, options: dict[str, Any]) -> None:
    assert await world.ask(options.pop("question", "capital"), **options) == Retrieved(hits=(), total=0)
    assert world.store.queries == []


async def test_a_question_without_words_searches_by_vector(world: World) -> None:
    assert len((await world.ask("???")).hits) == 4


async def test_a_question_without_a_vector_searches_by_words(world: World) -> None:
    world.vector = np.zeros(4, dtype=np.float32)
    assert names(await world.ask("aircraft")) == ["leases"]


async def test_of_a_very_long_question_the_rarest_words_are_asked(world: World) -> None:
    await world.fill({f"f{i}": " ".join(f"filler{j}x" for j in range(300)) for i in range(9)}, document_id="d2")
    question = " ".join(f"filler{j}x" for j in range(300)) + " aircraft"
    found = await world.ask(question, weight=0.0)
    assert len(world.store.queries[-1].terms) == 256
    assert "leases" in names(found)


@pytest.mark.parametrize("fusion", ["standout", "rrf"])
async def test_an_empty_place_finds_nothing(world: World, fusion: str) -> None:
    world.retriever = world.make(fusion=fusion)
    assert await world.ask("capital", dataset_ids=("other",)) == replace(
        await world.ask("capital", dataset_ids=("other",)),
        timings_ms=(await world.ask("x", dataset_ids=("other",))).timings_ms,
    )


async def test_statistics_are_kept_and_refreshed_beside_searches(world: World) -> None:
    for _ in range(3):
        await world.ask("capital")
    assert world.store.samples == 1
    world.clock.now_s = 6.0
    await world.fill({"new": "aircraft aircraft"}, document_id="d3")
    await world.ask("capital")
    await asyncio.sleep(0.05)
    assert world.store.samples == 2
    world.store.broken = True
    world.clock.now_s = 12.0
    await world.ask("capital")
    await asyncio.sleep(0)
    world.store.broken = False
    assert names(await world.ask("aircraft"))


async def test_searches_that_begin_together_read_the_statistics_once(world: World) -> None:
    searches = [asyncio.create_task(world.ask("capital")) for _ in range(8)]
    await asyncio.sleep(0)
    searches[0].cancel()
    assert all(names(found)[0] == "capital" for found in await asyncio.gather(*searches[1:]))
    assert world.store.samples == 1
    world.store.broken = True
    failed = await asyncio.gather(*(world.ask("x", dataset_ids=("other",)) for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in failed] == [StoreUnavailable] * 3
    world.store.broken = False
    assert (await world.ask("x", dataset_ids=("other",))).hits == ()


async def test_old_statistics_of_a_small_dataset_are_read_again_first(world: World) -> None:
    await world.ask("capital", dataset_ids=("set2",))
    await world.fill({"capital": TEXTS["capital"]}, dataset_id="set2", document_id="d2")
    world.clock.now_s = 100.0
    assert names(await world.ask("capital", dataset_ids=("set2",))) == ["capital"]
    assert world.store.samples == 2


class OldView:
    """What a place held at one moment."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = copy.deepcopy(store)

    def search(self, query: SearchQuery) -> Candidates:
        searching = self._store.search(PLACE, query)
        try:
            searching.send(None)
        except StopIteration as end:
            found: Candidates = end.value
            return found
        raise AssertionError("the memory store waited")


@pytest.mark.parametrize("with_view", [False, True])
async def test_a_version_that_went_live_since_the_caller_looked_is_found(world: World, with_view: bool) -> None:
    world.store.given_view = OldView(world.store) if with_view else None
    new = [
        Entry(
            key=EntryKey(document_id="d1", version_id="v2", chunk_id=f"{name}2"),
            dataset_id="set1",
            tokens=index_tokens(text),
            vector=np.eye(4, dtype=np.float32)[number],
        )
        for number, (name, text) in enumerate(TEXTS.items())
    ]
    await world.store.upsert(PLACE, new)
    world.chunks.gone = set(TEXTS)  # the rows say: v2 is live, v1 dead
    world.chunks.hidden = ("v1",)
    found = await world.ask("capital expenditure", without_versions=("v2",))
    assert sorted(names(found)) == sorted(f"{name}2" for name in TEXTS)
    assert names(found)[0] == "capital2"
