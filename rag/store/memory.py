"""An exact index in memory: the fake of tests, and the reference the real stores are compared with."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import xxhash

from rag.core.errors import InvalidInput
from rag.core.types import Matrix, Vector
from rag.store.base import (
    Candidate,
    Candidates,
    Entry,
    EntryKey,
    Filter,
    Place,
    PlaceStats,
    Sample,
    SearchQuery,
    Selector,
    View,
    held_terms,
)

K1, B = 1.2, 0.75
_MAX_TERMS = 256


class MemoryStore:
    """SearchStore without a file. Word statistics are those of the whole place, as the real stores have them."""

    def __init__(self, *, sample_size: int = 1000) -> None:
        self._sample_size = sample_size
        self._places: dict[str, dict[EntryKey, Entry]] = {}

    async def upsert(self, place: Place, entries: Sequence[Entry], *, visible: bool = True) -> None:
        for entry in entries:
            _check_dim(place, entry.vector)
        rows = self._places.setdefault(place.name, {})
        rows.update({entry.key: entry for entry in entries})

    async def delete(self, place: Place, selector: Selector) -> None:
        rows = self._places.get(place.name, {})
        for key in [key for key, entry in rows.items() if _selected(entry, selector)]:
            del rows[key]

    async def search(self, place: Place, query: SearchQuery) -> Candidates:
        if query.vector is not None:
            _check_dim(place, query.vector)
        rows = self._places.get(place.name, {})
        seen = [entry for entry in rows.values() if _visible(entry, query.filter)]
        scores = _bm25(list(rows.values()), seen, query.terms[:_MAX_TERMS])
        lexical = _best({e.key: s for e, s in zip(seen, scores, strict=True) if s > 0.0}, query.limit)
        cosines: dict[EntryKey, float] = {}
        if query.vector is not None:
            cosines = {entry.key: _cosine(entry.vector, query.vector) for entry in seen}
        nearest = _best(cosines, query.limit)
        order = {key: index for index, key in enumerate(dict.fromkeys((*lexical, *nearest)))}
        return Candidates.of(
            [Candidate(key=key, bm25=lexical.get(key, 0.0), cosine=cosines.get(key, 0.0)) for key in order],
            lexical=(order[key] for key in lexical),
            vector=(order[key] for key in nearest),
            held=held_terms(query.terms, [rows[key].tokens for key in order]),
        )

    async def view(self, place: Place) -> View | None:
        return None

    async def sample(self, place: Place, dataset_ids: tuple[str, ...]) -> Sample:
        wanted = [
            entry
            for entry in self._places.get(place.name, {}).values()
            if entry.available and entry.dataset_id in dataset_ids
        ]
        chosen = sorted(wanted, key=lambda entry: (_bucket(entry.key), entry.key.version_id, entry.key.chunk_id))
        chosen = chosen[: self._sample_size]
        vectors: Matrix = np.zeros((len(chosen), place.dim), dtype=np.float32)
        for index, entry in enumerate(chosen):
            vectors[index] = entry.vector
        return Sample(total=len(wanted), tokens=tuple(entry.tokens for entry in chosen), vectors=vectors)

    async def optimise(self, place: Place) -> PlaceStats:
        return PlaceStats(entries=len(self._places.get(place.name, {})), unindexed=0)

    async def drop(self, place: Place) -> None:
        self._places.pop(place.name, None)

    async def check(self) -> str:
        return "memory"


def _check_dim(place: Place, vector: Vector) -> None:
    if vector.shape != (place.dim,):
        raise InvalidInput(
            f"A vector of shape {vector.shape} does not fit {place.name!r}, which holds {place.dim} numbers a vector."
        )


def _selected(entry: Entry, selector: Selector) -> bool:
    return (
        entry.key.version_id in selector.version_ids
        or entry.key.document_id in selector.document_ids
        or entry.dataset_id in selector.dataset_ids
    )


def _visible(entry: Entry, wanted: Filter) -> bool:
    return (
        entry.available
        and entry.dataset_id in wanted.dataset_ids
        and (wanted.document_ids is None or entry.key.document_id in wanted.document_ids)
        and entry.key.version_id not in wanted.without_versions
    )


def _cosine(left: Vector, right: Vector) -> float:
    return float(np.clip(left @ right, -1.0, 1.0))


def _bucket(key: EntryKey) -> int:
    return xxhash.xxh32_intdigest(f"{key.document_id}/{key.chunk_id}".encode()) & 0x7FFFFFFF


def _best(scores: dict[EntryKey, float], limit: int) -> dict[EntryKey, float]:
    def place(item: tuple[EntryKey, float]) -> tuple[float, str, str, str]:
        key, score = item
        return (-score, key.document_id, key.version_id, key.chunk_id)

    return dict(sorted(scores.items(), key=place)[:limit])


def _bm25(everything: list[Entry], seen: list[Entry], terms: tuple[str, ...]) -> list[float]:
    """BM25 with ln(1 + (N - n + .5) / (n + .5)) as the weight of a term. Source: Robertson and Zaragoza 2009."""
    if not terms or not everything:
        return [0.0] * len(seen)
    counts = {entry.key: Counter(entry.tokens.split()) for entry in everything}
    lengths = {key: count.total() for key, count in counts.items()}
    mean = sum(lengths.values()) / len(lengths) or 1.0
    total = len(everything)
    weights = {}
    for term in dict.fromkeys(terms):
        holders = sum(1 for count in counts.values() if term in count)
        weights[term] = math.log(1 + (total - holders + 0.5) / (holders + 0.5))
    scores = []
    for entry in seen:
        count, norm = counts[entry.key], K1 * (1 - B + B * lengths[entry.key] / mean)
        scores.append(sum(w * count[t] * (K1 + 1) / (count[t] + norm) for t, w in weights.items() if t in count))
    return scores
