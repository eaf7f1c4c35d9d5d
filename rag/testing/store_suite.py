"""The contract of `SearchStore`, run on every implementation.

Subclass `StoreSuite` and give it a `store` fixture; `StoreProcessSuite` for stores that several processes share.
"""

import asyncio
import multiprocessing
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np
import pytest

from rag.core.errors import InvalidInput
from rag.core.types import Vector
from rag.store.base import Candidates, Entry, EntryKey, Filter, Place, SearchQuery, SearchStore, Selector

PLACE = Place(name="t_suite_g1", dim=8)
NASTY = (
    "x' OR 1=1 --",
    'say "hi"',
    "a''b",
    "back\\slash",
    "semi;colon",
    "100%_",
    "ünï文字",
    "(",
    "new\nline",
    "\u2028",
)


def unit(*numbers: float) -> Vector:
    """A unit vector of 8 numbers that begins with these."""
    vector = np.zeros(8, dtype=np.float32)
    vector[: len(numbers)] = numbers
    return vector / np.float32(np.linalg.norm(vector) or 1.0)


def entry(
    chunk_id: str,
    tokens: str = "word",
    vector: Vector | None = None,
    *,
    document_id: str = "doc1",
    version_id: str = "v1",
    dataset_id: str = "set1",
    available: bool = True,
) -> Entry:
    return Entry(
        key=EntryKey(document_id=document_id, version_id=version_id, chunk_id=chunk_id),
        dataset_id=dataset_id,
        tokens=tokens,
        vector=unit(1.0) if vector is None else vector,
        available=available,
    )


def ask(
    *terms: str,
    vector: Vector | None = None,
    datasets: tuple[str, ...] = ("set1",),
    documents: tuple[str, ...] | None = None,
    without: tuple[str, ...] = (),
    limit: int = 128,
) -> SearchQuery:
    wanted = Filter(dataset_ids=datasets, document_ids=documents, without_versions=without)
    return SearchQuery(filter=wanted, terms=terms, vector=vector, limit=limit)


def ids(found: Candidates, which: Sequence[int] | None = None) -> list[str]:
    return [found.candidates[i].key.chunk_id for i in (range(len(found.candidates)) if which is None else which)]


def assert_equal(one: Candidates, other: Candidates) -> None:
    assert (one.candidates, one.lexical, one.vector) == (other.candidates, other.lexical, other.vector)
    assert np.array_equal(one.held, other.held)


class StoreSuite:
    """What every search store does."""

    gives_views = False
    """Whether small places can be searched in memory once they were asked for."""

    @pytest.fixture
    def store(self) -> SearchStore:
        raise NotImplementedError("give the store to be tested")

    async def test_finds_by_words_and_by_vector_at_once(self, store: SearchStore) -> None:
        await store.upsert(
            PLACE,
            [
                entry("a", "apple pear", unit(1.0, 0.0)),
                entry("b", "plum cherry", unit(0.8, 0.6)),
                entry("c", "apple apple apple", unit(0.0, 1.0)),
            ],
        )
        found = await store.search(PLACE, ask("apple", vector=unit(1.0, 0.0)))
        assert ids(found, found.lexical) == ["c", "a"]
        assert ids(found, found.vector) == ["a", "b", "c"]
        by_id = {c.key.chunk_id: c for c in found.candidates}
        assert by_id["b"].bm25 == 0.0
        assert by_id["c"].bm25 > by_id["a"].bm25 > 0.0
        assert by_id["b"].cosine == pytest.approx(0.8, abs=1e-5)
        assert by_id["c"].cosine == pytest.approx(0.0, abs=1e-5)

    async def test_tells_which_terms_a_candidate_holds(self, store: SearchStore) -> None:
        await store.upsert(PLACE, [entry("a", "x y y z"), entry("b", "y"), entry("c", "xy"), entry("d", "")])
        for _ in range(2):
            found = await store.search(PLACE, ask("x", "unknown", "y", vector=unit(1.0)))
            held = {c.key.chunk_id: row.tolist() for c, row in zip(found.candidates, found.held, strict=True)}
            assert held == {
                "a": [True, False, True],
                "b": [False, False, True],
                "c": [False, False, False],
                "d": [False, False, False],
            }
            assert found.held.dtype == np.bool_
            await asyncio.sleep(0.3)
        assert (await store.search(PLACE, ask(vector=unit(1.0)))).held.shape == (4, 0)

    async def test_bm25_has_the_usual_constants(self, store: SearchStore) -> None:
        await store.upsert(PLACE, [entry("a", "x y y z"), entry("b", "y"), entry("c", "z z")])
        await store.optimise(PLACE)
        found = await store.search(PLACE, ask("x"))
        # ln(1 + 2.5/1.5) * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 4 / (7/3)))
        assert found.candidates[0].bm25 == pytest.approx(0.7598, abs=2e-3)

    async def test_cosine_is_exact_for_what_only_words_found(self, store: SearchStore) -> None:
        await store.upsert(PLACE, [entry(f"n{i:03}", "other", unit(1.0, 0.001 * i)) for i in range(60)])
        await store.upsert(PLACE, [entry("far", "needle", unit(0.6, -0.8))])
        found = await store.search(PLACE, ask("needle", vector=unit(1.0), limit=8))
        far = next(c for c in found.candidates if c.key.chunk_id == "far")
        assert far.cosine == pytest.approx(0.6, abs=1e-5)
        assert len(found.vector) == 8
        assert ids(found, found.lexical) == ["far"]

    async def test_a_known_key_is_replaced(self, store: SearchStore) -> None:
        await store.upsert(PLACE, [entry("a", "old"), entry("b", "old")])
        await store.upsert(PLACE, [entry("a", "new", unit(0.0, 1.0)), entry("a", "newest", unit(0.0, 1.0))])
        assert ids(await store.search(PLACE, ask("old"))) == ["b"]
        assert ids(await store.search(PLACE, ask("new"))) == []
        assert ids(await store.search(PLACE, ask("newest"))) == ["a"]
        assert (await store.optimise(PLACE)).entries == 2

    async def test_the_whole_key_counts(self, store: SearchStore) -> None:
        await store.upsert(PLACE, [entry("a", version_id="v1"), entry("a", version_id="v2")])
        await store.upsert(PLACE, [entry("a", version_id="v1", document_id="doc2")])
        assert len((await store.search(PLACE, ask("word"))).candidates) == 3

    async def test_deletes_by_version_document_and_dataset(self, store: SearchStore) -> None:
        entries = [
            entry("a", version_id="v1"),
            entry("b", version_id="v2"),
            entry("c", version_id="v3", document_id="doc2"),
            entry("d", version_id="v4", document_id="doc3", dataset_id="set2"),
        ]
        await store.upsert(PLACE, entries)
        both = ("set1", "set2")
        await store.delete(PLACE, Selector(version_ids=("v1", "unknown")))
        assert sorted(ids(await store.search(PLACE, ask("word", datasets=both)))) == ["b", "c", "d"]
        await store.delete(PLACE, Selector(document_ids=("doc2",)))
        assert sorted(ids(await store.search(PLACE, ask("word", datasets=both)))) == ["b", "d"]
        await store.delete(PLACE, Selector(dataset_ids=("set2",)))
        assert ids(await store.search(PLACE, ask("word", datasets=both))) == ["b"]
        await store.delete(PLACE, Selector())
        assert ids(await store.search(PLACE, ask(vector=unit(1.0), datasets=both))) == ["b"]

    async def test_filters(self, store: SearchStore) -> None:
        await store.upsert(
            PLACE,
            [
                entry("a"),
                entry("b", document_id="doc2", version_id="v2"),
                entry("c", dataset_id="set2", document_id="doc3", version_id="v3"),
                entry("off", available=False),
            ],
        )
        for query in ({"terms": ("word",)}, {"terms": (), "vector": unit(1.0)}):
            terms: tuple[str, ...] = query["terms"]  # type: ignore[assignment]
            vector: Any = query.get("vector")

            async def found(terms: tuple[str, ...] = terms, vector: Any = vector, **wanted: Any) -> list[str]:
                return sorted(ids(await store.search(PLACE, ask(*terms, vector=vector, **wanted))))

            assert await found() == ["a", "b"]
            assert await found(datasets=("set1", "set2")) == ["a", "b", "c"]
            assert await found(datasets=()) == []
            assert await found(documents=("doc2", "doc3")) == ["b"]
            assert await found(documents=()) == []
            assert await found(without=("v2",)) == ["a"]
            assert await found(without=("v1", "v2")) == []

    async def test_an_entry_can_be_hidden_and_shown_again(self, store: SearchStore) -> None:
        await store.upsert(PLACE, [entry("a", available=False)])
        assert ids(await store.search(PLACE, ask("word", vector=unit(1.0)))) == []
        await store.upsert(PLACE, [entry("a")])
        assert ids(await store.search(PLACE, ask("word", vector=unit(1.0)))) == ["a"]

    @pytest.mark.parametrize("nasty", NASTY)
    async def test_ids_are_values_never_query_language(self, store: SearchStore, nasty: str) -> None:
        mine = entry("mine", document_id=nasty, version_id=nasty, dataset_id=nasty)
        await store.upsert(PLACE, [mine, entry("other")])
        for _ in range(2):
            found = await store.search(PLACE, ask("word", vector=unit(1.0), datasets=(nasty,), documents=(nasty,)))
            assert ids(found) == ["mine"]
            assert found.candidates[0].key == mine.key
            await store.upsert(PLACE, [mine])
        assert ids(await store.search(PLACE, ask("word", datasets=("set1", nasty), without=(nasty,)))) == ["other"]
        await store.delete(PLACE, Selector(version_ids=(nasty,)))
        assert ids(await store.search(PLACE, ask("word", datasets=("set1", nasty)))) == ["other"]

    async def test_a_place_never_written_is_empty(self, store: SearchStore) -> None:
        nowhere = Place(name="t_nowhere_g1", dim=8)
        found = await store.search(nowhere, ask("word", vector=unit(1.0)))
        assert (found.candidates, found.lexical, found.vector) == ((), (), ())
        await store.delete(nowhere, Selector(version_ids=("v1",)))
        await store.drop(nowhere)
        await store.upsert(nowhere, [])
        sample = await store.sample(nowhere, ("set1",))
        assert (sample.total, sample.tokens, sample.vectors.shape) == (0, (), (0, 8))
        assert (await store.optimise(nowhere)).entries == 0

    async def test_a_dropped_place_can_be_filled_again(self, store: SearchStore) -> None:
        await store.upsert(PLACE, [entry("a")])
        await store.drop(PLACE)
        assert ids(await store.search(PLACE, ask("word", vector=unit(1.0)))) == []
        await store.upsert(PLACE, [entry("b")])
        assert ids(await store.search(PLACE, ask("word", vector=unit(1.0)))) == ["b"]

    async def test_places_do_not_see_each_other(self, store: SearchStore) -> None:
        other = Place(name="t_other_g1", dim=4)
        await store.upsert(PLACE, [entry("a")])
        await store.upsert(other, [entry("b", vector=np.array([1, 0, 0, 0], dtype=np.float32))])
        assert ids(await store.search(PLACE, ask("word"))) == ["a"]
        assert ids(await store.search(other, ask("word"))) == ["b"]

    async def test_refuses_vectors_of_another_length(self, store: SearchStore) -> None:
        wrong = np.ones(9, dtype=np.float32)
        with pytest.raises(InvalidInput):
            await store.upsert(PLACE, [entry("ok"), entry("a", vector=wrong)])
        await store.upsert(PLACE, [entry("b")])
        with pytest.raises(InvalidInput):
            await store.search(PLACE, ask("word", vector=wrong))
        assert ids(await store.search(PLACE, ask("word"))) == ["b"]

    async def test_takes_ten_thousand_filter_values(self, store: SearchStore) -> None:
        await store.upsert(PLACE, [entry("a", document_id="doc9999"), entry("b", document_id="else")])
        many = tuple(f"doc{i}" for i in range(10_000))
        found = await store.search(PLACE, ask("word", vector=unit(1.0), documents=many, without=many))
        assert ids(found) == ["a"]

    async def test_an_empty_question_finds_nothing(self, store: SearchStore) -> None:
        await store.upsert(PLACE, [entry("a")])
        assert ids(await store.search(PLACE, ask())) == []

    async def test_no_words_searches_by_vector_alone(self, store: SearchStore) -> None:
        await store.upsert(PLACE, [entry("a")])
        found = await store.search(PLACE, ask(vector=unit(1.0)))
        assert found.lexical == ()
        assert ids(found, found.vector) == ["a"]

    async def test_a_question_of_thousands_of_words(self, store: SearchStore) -> None:
        await store.upsert(PLACE, [entry("a", "w3"), entry("b", "w4999")])
        found = await store.search(PLACE, ask(*(f"w{i}" for i in range(5_000))))
        assert ids(found) == ["a"], "words beyond the 256th are not used"

    @pytest.mark.parametrize(
        "token", ["AND", "a-b", "v1.2", "*", "na\u00efve", "the", "Case", "\u9ed1\u8c79", "x" * 64]
    )
    async def test_tokens_are_matched_as_they_are(self, store: SearchStore, token: str) -> None:
        await store.upsert(PLACE, [entry("a", f"before {token} after"), entry("b", "before after")])
        await store.optimise(PLACE)
        assert ids(await store.search(PLACE, ask(token))) == ["a"]
        assert ids(await store.search(PLACE, ask(token[:-1] + "q"))) == []

    async def test_a_zero_vector_is_similar_to_nothing(self, store: SearchStore) -> None:
        zero = np.zeros(8, dtype=np.float32)
        await store.upsert(PLACE, [entry("zero", vector=zero), entry("a")])
        found = await store.search(PLACE, ask("word", vector=unit(1.0)))
        assert {c.key.chunk_id: c.cosine for c in found.candidates} == {"a": pytest.approx(1.0), "zero": 0.0}

    async def test_limit_holds_for_each_list(self, store: SearchStore) -> None:
        await store.upsert(PLACE, [entry(f"c{i}") for i in range(30)])
        found = await store.search(PLACE, ask("word", vector=unit(1.0), limit=7))
        assert (len(found.lexical), len(found.vector)) == (7, 7)
        assert len(set(found.lexical)) == len(set(found.vector)) == 7

    async def test_the_same_search_gives_the_same_answer(self, store: SearchStore) -> None:
        await store.upsert(PLACE, [entry(f"c{i:02}", f"word w{i}", unit(1.0, i / 40)) for i in range(40)])
        query = ask("word", "w7", vector=unit(1.0, 0.4))
        first = await store.search(PLACE, query)
        await asyncio.sleep(0.3)
        for _ in range(3):
            again = await store.search(PLACE, query)
            assert [ids(again, again.lexical)[:1], ids(again, again.vector)] == [
                ids(first, first.lexical)[:1],
                ids(first, first.vector),
            ]
        await store.optimise(PLACE)
        after = await store.search(PLACE, query)
        assert ids(after, after.vector) == ids(first, first.vector)

    async def test_a_view_finds_what_a_search_finds(self, store: SearchStore) -> None:
        await store.upsert(PLACE, [entry(f"c{i:02}", f"word w{i}", unit(1.0, i / 40)) for i in range(40)])
        query = ask("word", "w7", vector=unit(1.0, 0.4))
        await store.search(PLACE, query)
        for _ in range(100 if self.gives_views else 1):  # A store may copy a place that is asked for.
            await asyncio.sleep(0.05)
            if (view := await store.view(PLACE)) is not None:
                break
        assert (view is not None) == self.gives_views
        if view is None:
            return
        assert_equal(view.search(query), await store.search(PLACE, query))
        with pytest.raises(InvalidInput):
            view.search(ask(vector=np.ones(9, dtype=np.float32)))
        await store.upsert(PLACE, [entry("new", "word")])
        later = await store.view(PLACE)
        assert later is None or "new" in ids(later.search(query))
        assert "new" not in ids(view.search(query))

    async def test_a_write_is_visible_when_it_returns(self, store: SearchStore) -> None:
        for i in range(8):
            await store.upsert(PLACE, [entry(f"c{i}", f"word only{i}")])
            found = await store.search(PLACE, ask(f"only{i}", vector=unit(1.0)))
            assert len(found.vector) == i + 1
            assert ids(found, found.lexical) == [f"c{i}"]
            await asyncio.sleep(0.02)

    async def test_writes_that_nobody_waits_for_are_visible_with_the_next_that_somebody_does(
        self, store: SearchStore
    ) -> None:
        await store.upsert(PLACE, [], visible=True)
        await store.upsert(PLACE, [entry(f"a{i}") for i in range(300)], visible=False)
        await store.upsert(PLACE, [entry("b")])
        assert len(ids(await store.search(PLACE, ask("word", limit=1_024)))) == 301
        await store.upsert(PLACE, [entry("c")], visible=False)
        await store.upsert(PLACE, [], visible=True)
        assert "c" in ids(await store.search(PLACE, ask("word", limit=1_024)))

    async def test_a_delete_finds_writes_that_nobody_waited_for(self, store: SearchStore) -> None:
        await store.upsert(PLACE, [entry("a", version_id="v1"), entry("b", version_id="v2")], visible=False)
        await store.delete(PLACE, Selector(version_ids=("v1",)))
        assert ids(await store.search(PLACE, ask("word"))) == ["b"]

    async def test_the_sample_is_all_of_a_small_dataset(self, store: SearchStore) -> None:
        await store.upsert(
            PLACE,
            [entry("a", "one two", unit(0.0, 1.0)), entry("b", dataset_id="set2"), entry("off", available=False)],
        )
        sample = await store.sample(PLACE, ("set1",))
        assert (sample.total, sample.tokens) == (1, ("one two",))
        assert sample.vectors == pytest.approx(unit(0.0, 1.0)[None, :])
        assert (await store.sample(PLACE, ("set1", "set2"))).total == 2
        assert (await store.sample(PLACE, ())).total == 0

    async def test_the_sample_of_a_large_dataset_is_fixed(self, store: SearchStore) -> None:
        await store.upsert(PLACE, [entry(f"c{i}", f"w{i}") for i in range(1_500)])
        first = await store.sample(PLACE, ("set1",))
        assert first.total == 1_500
        assert len(first.tokens) == len(set(first.tokens)) == len(first.vectors) == 1_000
        await store.optimise(PLACE)
        assert (await store.sample(PLACE, ("set1",))).tokens == first.tokens

    async def test_optimise_leaves_nothing_unindexed(self, store: SearchStore) -> None:
        for i in range(4):
            await store.upsert(PLACE, [entry(f"c{i}-{j}") for j in range(10)])
        await store.delete(PLACE, Selector(version_ids=("none",)))
        stats = await store.optimise(PLACE)
        assert (stats.entries, stats.unindexed) == (40, 0)
        assert (await store.optimise(PLACE)).entries == 40
        assert len((await store.search(PLACE, ask("word", vector=unit(1.0)))).candidates) == 40

    async def test_searches_go_on_beside_writes(self, store: SearchStore) -> None:
        await store.upsert(PLACE, [entry("fixed", "fixed", version_id="live")])

        async def write() -> None:
            for i in range(10):
                await store.upsert(PLACE, [entry(f"c{i}-{j}", version_id=f"v{i}") for j in range(20)])
                if i % 2:
                    await store.delete(PLACE, Selector(version_ids=(f"v{i}",)))
            await store.optimise(PLACE)

        writing = asyncio.create_task(write())
        while not writing.done():
            found = await store.search(PLACE, ask("fixed", vector=unit(1.0), limit=512))
            assert ids(found, found.lexical) == ["fixed"]
            assert len(set(ids(found))) == len(found.candidates)
            await asyncio.sleep(0)
        await writing
        assert (await store.optimise(PLACE)).entries == 101

    async def test_check_names_the_backend(self, store: SearchStore) -> None:
        assert await store.check()


Opener = Callable[[str], Coroutine[Any, Any, SearchStore]]


def _write_many(opener: Opener, where: str, writer: int) -> None:
    async def work() -> None:
        store = await opener(where)
        for batch in range(5):
            for _ in range(2):  # Each batch twice: a repeated step changes nothing.
                await store.upsert(
                    PLACE,
                    [entry(f"w{writer}-{batch}-{i}", f"word by{writer}", version_id=f"v{writer}") for i in range(50)],
                )
            await store.upsert(
                PLACE, [entry("shared", "word"), entry(f"dead{writer}", version_id=f"dead{writer}-{batch}")]
            )
            await store.delete(PLACE, Selector(version_ids=(f"dead{writer}-{batch}",)))

    asyncio.run(work())


class StoreProcessSuite:
    """What a store does that several processes share. `opener` must be importable by a fresh process."""

    @pytest.fixture
    def opener(self) -> Opener:
        raise NotImplementedError("give an async function that opens the store")

    @pytest.fixture
    def where(self) -> str:
        raise NotImplementedError("give what the opener takes")

    async def test_two_processes_write_while_a_third_searches(self, opener: Opener, where: str) -> None:
        context = multiprocessing.get_context("spawn")
        writers = [context.Process(target=_write_many, args=(opener, where, n)) for n in range(2)]
        for writer in writers:
            writer.start()
        store = await opener(where)
        while any(writer.is_alive() for writer in writers):
            found = await store.search(PLACE, ask("word", vector=unit(1.0), limit=1_024))
            assert len({c.key for c in found.candidates}) == len(found.candidates)
            await store.optimise(PLACE)
            await asyncio.sleep(0.05)
        for writer in writers:
            writer.join()
            assert writer.exitcode == 0
        found = await store.search(PLACE, ask("word", vector=unit(1.0), limit=1_024))
        assert len(found.vector) == len(found.lexical) == 501
        assert (await store.optimise(PLACE)).entries == 501
