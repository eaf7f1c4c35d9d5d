"""Questions as Elasticsearch's bodies, and its replies as candidates, samples and keys.

Replies carry no `_id` and no `_source`: reading them takes three times as long as the search itself. Keys come from
doc values. The vector list brings exact scores, as the server rescores it with the unquantised vectors; entries found
by words bring their vectors as base64. Which terms an entry holds is told by named queries, without its text.
"""

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from rag.core.types import Matrix, Vector
from rag.store.base import Candidate, Candidates, EntryKey, Filter, SearchQuery, Selector

MAX_TERMS = 256
DELETE_AT_ONCE = 2_000
_CLAUSE_VALUES = 60_000
"""Values of one `terms` clause; a server takes 65,536 by default."""
_LONG_IDS = 2_000
_LEAST_CANDIDATES = 200
_KEY_FIELDS = ("document_id", "version_id", "chunk_id")
_NOTHING_STORED: dict[str, Any] = {"_source": False, "stored_fields": "_none_", "track_total_hits": False}


def finds_nothing(query: SearchQuery) -> bool:
    """Whether no entry can be found, so that nobody need be asked."""
    wanted = query.filter
    return not wanted.dataset_ids or wanted.document_ids == () or (query.vector is None and not query.terms)


def is_long(wanted: Filter) -> bool:
    """Whether the conditions name so many ids that encoding them would hold up the event loop."""
    return len(wanted.dataset_ids) + len(wanted.document_ids or ()) + len(wanted.without_versions) > _LONG_IDS


def search_body(alias: str, query: SearchQuery, *, spread: bool) -> bytes:
    """One `_msearch`: the lexical search where there are terms, then the vector search where there is a vector.

    Args:
        spread: Whether the index has several shards, so that word statistics must be gathered first.
    """
    terms = tuple(dict.fromkeys(query.terms[:MAX_TERMS]))
    # Encoded once for both searches.
    conditions = orjson.Fragment(encoded(filter_clauses(query.filter)))
    # Copies of a shard may count deleted entries differently: one question asks the same copies each time.
    preference = xxhash.xxh64_hexdigest(" ".join(terms).encode("utf-8", "replace"))
    header = {"index": alias, "allow_partial_search_results": False, "preference": preference}
    lines: list[Any] = []
    if terms:
        lines.append(header | ({"search_type": "dfs_query_then_fetch"} if spread else {}))
        lines.append(_lexical(terms, conditions, query))
    if query.vector is not None:
        lines += [header, _nearest(terms, conditions, query, query.vector)]
    return b"".join(encoded(line) + b"\n" for line in lines)


def _lexical(terms: tuple[str, ...], conditions: orjson.Fragment, query: SearchQuery) -> dict[str, Any]:
    fields = [*_KEY_FIELDS] + (["exact"] if query.vector is not None else [])
    # Required as a whole: beside the conditions, optional terms would all be scored, which takes twice as long.
    words = {"bool": {"filter": conditions, "must": {"bool": {"should": _named(terms)}}}}
    return {"query": words, "size": query.limit, "docvalue_fields": fields, **_NOTHING_STORED}


def _nearest(terms: tuple[str, ...], conditions: orjson.Fragment, query: SearchQuery, vector: Vector) -> dict[str, Any]:
    knn = {
        "field": "vector",
        "query_vector": vector / np.float32(np.linalg.norm(vector) or 1.0),
        "k": query.limit,
        "num_candidates": max(query.limit * 3 // 2, _LEAST_CANDIDATES),
        "filter": conditions,
        "rescore_vector": {"oversample": 1.0},
    }
    body = {"knn": knn, "size": query.limit, "docvalue_fields": _KEY_FIELDS, **_NOTHING_STORED}
    if terms:
        body["post_filter"] = {"bool": {"should": [{"match_all": {}}, *_named(terms)]}}
    return body


def _named(terms: tuple[str, ...]) -> list[Any]:
    return [{"term": {"tokens": {"value": term, "_name": str(number)}}} for number, term in enumerate(terms)]


def filter_clauses(wanted: Filter) -> list[Any]:
    """The conditions of a search."""
    clauses: list[Any] = [{"term": {"available": True}}, one_of("dataset_id", wanted.dataset_ids)]
    if wanted.document_ids is not None:
        clauses.append(one_of("document_id", wanted.document_ids))
    if wanted.without_versions:
        clauses.append({"bool": {"must_not": [one_of("version_id", wanted.without_versions)]}})
    return clauses


def selector_clause(selector: Selector) -> Any:
    """The query of a delete; None where nothing is selected."""
    named = {
        "version_id": selector.version_ids,
        "document_id": selector.document_ids,
        "dataset_id": selector.dataset_ids,
    }
    clauses = [one_of(field, values) for field, values in named.items() if values]
    return {"bool": {"should": clauses, "minimum_should_match": 1}} if clauses else None


def one_of(field: str, values: Iterable[str]) -> Any:
    """`field` is one of `values`, however many they are."""
    # Not sorted: that is one call of tens of milliseconds, in which no other thread of ours can go on.
    listed = list(dict.fromkeys(value for value in values if _can_be_stored(value)))
    parts = [listed[start : start + _CLAUSE_VALUES] for start in range(0, len(listed), _CLAUSE_VALUES)]
    clauses = [{"terms": {field: part}} for part in parts or [[]]]
    return clauses[0] if len(clauses) == 1 else {"bool": {"should": clauses, "minimum_should_match": 1}}


def _can_be_stored(value: str) -> bool:
    """A lone half of a pair of surrogates is in no stored id."""
    return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)


def sample_body(dataset_ids: tuple[str, ...], *, size: int, after: Sequence[Any] | None) -> bytes:
    """A page of the sample, in the order of its buckets."""
    body: dict[str, Any] = {
        "query": {"bool": {"filter": filter_clauses(Filter(dataset_ids=dataset_ids))}},
        "size": size,
        "sort": [{"bucket": "asc"}],
        "_source": ["tokens"],
        "docvalue_fields": ["exact"],
        "track_total_hits": after is None,
    }
    return encoded(body if after is None else body | {"search_after": list(after)})


def delete_body(clause: Any, pit: str, after: Sequence[Any] | None) -> bytes:
    """A page of the keys to delete."""
    body = {
        "query": {"bool": {"filter": [clause]}},
        "pit": {"id": pit, "keep_alive": "2m"},
        "sort": [{"_shard_doc": "asc"}],
        "size": DELETE_AT_ONCE,
        "docvalue_fields": list(_KEY_FIELDS),
        **_NOTHING_STORED,
    }
    return encoded(body if after is None else body | {"search_after": list(after)})


def encoded(body: Any) -> bytes:
    """`body` as JSON; what is no Unicode in a term cannot be found, and becomes a mark for that."""
    try:
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:
        return orjson.dumps(_mended(body), option=orjson.OPT_SERIALIZE_NUMPY)


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {name: _mended(each) for name, each in value.items()}
    return [_mended(each) for each in value] if isinstance(value, list) else value


def candidates_of(query: SearchQuery, replies: Sequence[Any], dim: int) -> Candidates:
    """Both lists of the two parts of a reply."""
    hits = [reply["hits"]["hits"] for reply in replies]
    by_words = hits[0] if query.terms else []
    nearest = hits[-1] if query.vector is not None else []
    keys = [key_of(hit) for hit in (*by_words, *nearest)]
    bm25 = {key: float(hit["_score"]) for key, hit in zip(keys, by_words, strict=False)}
    cosines = dict(zip(keys[: len(by_words)], _cosines(by_words, query.vector, dim), strict=True))
    cosines.update(zip(keys[len(by_words) :], _rescored(nearest, query.vector), strict=True))
    number: dict[EntryKey, int] = {}
    found: list[Candidate] = []
    first: list[Any] = []
    for key, hit in zip(keys, (*by_words, *nearest), strict=True):
        if key not in number:
            number[key] = len(found)
            first.append(hit)
            found.append(Candidate(key=key, bm25=bm25.get(key, 0.0), cosine=cosines[key]))
    lexical = sorted((number[key] for key in keys[: len(by_words)]), key=lambda i: (-found[i].bm25, *_order(found[i])))
    vector = sorted((number[key] for key in keys[len(by_words) :]), key=lambda i: (-found[i].cosine, *_order(found[i])))
    return Candidates.of(found, lexical=lexical, vector=vector, held=_held(query.terms, first))


def _order(candidate: Candidate) -> tuple[str, str]:
    return candidate.key.document_id, candidate.key.chunk_id


def _held(terms: tuple[str, ...], hits: Sequence[Any]) -> NDArray[np.bool_]:
    held = np.zeros((len(hits), len(terms)), dtype=np.bool_)
    # Names count unique terms.
    columns: dict[str, list[int]] = {}
    for column, term in enumerate(terms[:MAX_TERMS]):
        columns.setdefault(term, []).append(column)
    named = list(columns.values())
    cells = [
        (row, column)
        for row, hit in enumerate(hits)
        for name in hit.get("matched_queries", ())
        for column in named[int(name)]
    ]
    if cells:
        held[tuple(np.array(cells).T)] = True
    return held


def _rescored(hits: Sequence[Any], vector: Vector | None) -> list[float]:
    """Cosines of the vector list: the server's score is (1 + cosine) / 2 of unit vectors."""
    if vector is None:
        return []
    scores = np.array([hit["_score"] for hit in hits], dtype=np.float64)
    cosines: list[float] = np.clip((2.0 * scores - 1.0) * np.linalg.norm(vector), -1.0, 1.0).tolist()
    return cosines


def _cosines(hits: Sequence[Any], vector: Vector | None, dim: int) -> list[float]:
    if vector is None:
        return [0.0] * len(hits)
    cosines: list[float] = np.clip(matrix_of(hits, dim) @ vector, -1.0, 1.0).tolist()
    return cosines


def matrix_of(hits: Sequence[Any], dim: int) -> Matrix:
    """The vectors of hits that were asked for `exact`."""
    packed = b"".join(base64.b64decode(hit["fields"]["exact"][0]) for hit in hits)
    return np.frombuffer(packed, dtype="<f4").astype(np.float32, copy=False).reshape(len(hits), dim)


def key_of(hit: Any) -> EntryKey:
    """The key of a hit that was asked for its doc values."""
    fields = hit["fields"]
    return EntryKey(
        document_id=fields["document_id"][0], version_id=fields["version_id"][0], chunk_id=fields["chunk_id"][0]
    )
