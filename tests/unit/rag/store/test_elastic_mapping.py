import json
import threading
from typing import Any
from unittest.mock import AsyncMock

import numpy as np
import pytest

from rag.core.clock import SystemClock
from rag.core.errors import InvalidInput, StoreUnavailable
from rag.core.settings import IndexSettings
from rag.store import elastic
from rag.store.base import EntryKey, Filter, Place
from rag.store.elastic import ElasticStore
from rag.store.elastic_mapping import Layout, bucket_of, id_of, index_lines
from rag.store.elastic_query import filter_clauses, is_long, one_of, search_body
from rag.testing.store_suite import PLACE, ask, entry, unit


def layout(**settings: object) -> Layout:
    return Layout(IndexSettings.model_validate({"url": "http://search:9200", **settings}))


def test_the_mapping_is_strict_and_carries_its_version() -> None:
    body = json.loads(layout(shards=3, replicas=2).create(PLACE))
    assert body["mappings"]["dynamic"] == "strict"
    assert body["mappings"]["_meta"]["parley"]["schema"] == layout().schema
    assert body["mappings"]["properties"]["vector"]["dims"] == PLACE.dim
    assert (body["settings"]["number_of_shards"], body["settings"]["number_of_replicas"]) == (3, 2)
    assert body["aliases"] == {f"parley.{PLACE.name}": {"is_write_index": True}}


def test_what_is_written_is_what_is_mapped() -> None:
    fields = json.loads(layout().create(PLACE))["mappings"]["properties"]
    written = json.loads(index_lines(PLACE, [entry("a")])[0].splitlines()[1])
    assert set(written) == set(fields)
    zero = json.loads(index_lines(PLACE, [entry("a", vector=np.zeros(8, dtype=np.float32))])[0].splitlines()[1])
    assert set(zero) == set(fields) - {"vector"}


def test_an_id_is_of_the_whole_key_and_the_place() -> None:
    key = EntryKey(document_id="d", version_id="v", chunk_id="c")
    others = [
        id_of(Place(name="t_other_g1", dim=8), key),
        id_of(PLACE, EntryKey(document_id="dv", version_id="", chunk_id="c")),
        id_of(PLACE, EntryKey(document_id='d","v', version_id="v", chunk_id="c")),
        id_of(PLACE, EntryKey(document_id="\ud800", version_id="v", chunk_id="c")),
    ]
    assert len({id_of(PLACE, key), *others}) == 5
    assert id_of(PLACE, key) == id_of(PLACE, key)


def test_the_sample_is_of_chunks_whatever_their_version() -> None:
    def bucket(version: str) -> int:
        return bucket_of(EntryKey(document_id="d", version_id=version, chunk_id="c"))

    assert bucket("v1") != bucket("v2")
    assert bucket("v1") >> 32 == bucket("v2") >> 32
    assert 0 <= bucket("v1") < 2**63


def test_vectors_that_are_not_of_unit_length_are_scaled_for_the_graph_only() -> None:
    written = json.loads(index_lines(PLACE, [entry("a", vector=unit(1.0) * np.float32(3.0))])[0].splitlines()[1])
    assert written["vector"][0] == pytest.approx(1.0)


def test_a_vector_that_is_not_finite_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not finite"):
        index_lines(PLACE, [entry("a", vector=np.full(8, np.inf, dtype=np.float32))])


def test_pooled_places_share_an_index() -> None:
    pooled = layout(pooled=True)
    assert pooled.index(PLACE) == "parley.pool-8.1"
    assert pooled.is_pool(pooled.index(PLACE))
    assert not layout().is_pool(layout().index(PLACE))
    alias = json.loads(pooled.join_pool(PLACE))["actions"][0]["add"]
    assert (alias["routing"], alias["filter"]) == (PLACE.name, {"term": {"place": PLACE.name}})


def test_clauses_stay_below_the_servers_limit() -> None:
    clause = one_of("document_id", (f"d{i}" for i in range(130_000)))
    parts = [part["terms"]["document_id"] for part in clause["bool"]["should"]]
    assert sum(map(len, parts)) == 130_000
    assert max(map(len, parts)) <= 65_536
    assert one_of("document_id", ()) == {"terms": {"document_id": []}}


def test_values_are_values() -> None:
    clauses = filter_clauses(Filter(dataset_ids=('x" OR *',), without_versions=("v",)))
    assert clauses[1] == {"terms": {"dataset_id": ['x" OR *']}}
    assert clauses[2] == {"bool": {"must_not": [{"terms": {"version_id": ["v"]}}]}}


def test_both_searches_have_all_conditions() -> None:
    query = ask("word", "\ud800", vector=unit(1.0), documents=("d1", "\ud800", "d1"), without=("v1",))
    lines = [json.loads(line) for line in search_body("alias", query, spread=False).splitlines()]
    conditions = lines[1]["query"]["bool"]["filter"]
    assert conditions == lines[3]["knn"]["filter"] == filter_clauses(query.filter)
    assert conditions[2] == {"terms": {"document_id": ["d1"]}}


async def test_many_ids_are_encoded_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[bool] = []

    def body(*args: Any, **options: Any) -> bytes:
        threads.append(threading.current_thread() is threading.main_thread())
        raise StoreUnavailable("Far enough.")

    monkeypatch.setattr(elastic, "search_body", body)
    store = ElasticStore(IndexSettings.model_validate({"url": "http://search:9200"}), clock=SystemClock())
    monkeypatch.setattr(store, "_index_of", AsyncMock(return_value="index"))
    for count in (10, 5_000):
        query = ask("word", documents=tuple(f"d{i}" for i in range(count)))
        assert is_long(query.filter) == (count == 5_000)
        with pytest.raises(StoreUnavailable):
            await store.search(PLACE, query)
    assert threads == [True, False]
