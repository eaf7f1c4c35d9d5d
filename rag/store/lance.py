"""The embedded index: LanceDB, one table per place in one folder.

Several processes may read and write the folder at once: every read looks for the newest version of a table.
LanceDB's calls block, so all of them run on the INDEX lane.
"""

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xxhash

from rag.core.blocking import Lane, run_in
from rag.core.clock import Clock
from rag.core.errors import InvalidInput, StoreError, StoreUnavailable
from rag.core.types import Matrix, Vector
from rag.store.base import (
    NOTHING_FOUND,
    Candidate,
    Candidates,
    Entry,
    EntryKey,
    Place,
    PlaceStats,
    Sample,
    SearchQuery,
    Selector,
    View,
    held_terms,
)
from rag.store.lance_filter import NOTHING, of_filter, of_selector, one_of
from rag.store.lance_snapshot import COLUMNS, Mark, Snapshot, Snapshots, mark_of, matrix_of

_KEY = ("document_id", "version_id", "chunk_id")
_MAX_TERMS = 256
_TOKENS_INDEX = "tokens_idx"
_KEEP_VERSIONS = timedelta(hours=1)
_CLEAN_AGAIN_S = 600.0
_WRITE_ATTEMPTS = 12
_ANN_FROM_ROWS = 100_000
_VIEW_NUMBERS = 2_000_000
"""Numbers in the vectors of a place that is searched on the event loop: 5,200 chunks of 384 dimensions take 2 ms."""

T = TypeVar("T")


class LanceStore:
    """SearchStore on a folder. Vector search is exact below 100,000 entries, then an index (IVF-HNSW, refined).

    Args:
        folder: Made if it is absent.
        clock: Paces clean-up and the copies in memory.
        sample_size: Entries in a sample.
        cache_bytes: Bound of the copies of small places kept in memory (128 MB hold about 40,000 chunks of 350
            words); 0 keeps none. A search of 2,500 chunks takes 1 ms in a copy and 40 ms in a folder that is not
            optimised yet.
    """

    def __init__(self, folder: Path, *, clock: Clock, sample_size: int = 1000, cache_bytes: int = 128 << 20) -> None:
        self._folder = folder
        self._clock = clock
        self._sample_size = sample_size
        self._snapshots = Snapshots(cache_bytes)
        self._lock = threading.RLock()
        self._connection: Any = None
        self._tables: dict[str, Any] = {}
        self._cleaned: dict[str, tuple[int, float]] = {}
        self._loads: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Import LanceDB and connect; the first call does it otherwise."""
        await run_in(Lane.INDEX, self._connect)

    async def close(self) -> None:
        """Let go of tables and memory; waits for a copy that is being read."""
        await asyncio.gather(*self._loads, return_exceptions=True)
        with self._lock:
            self._tables.clear()
            self._connection = None
        self._snapshots.clear()

    async def upsert(self, place: Place, entries: Sequence[Entry], *, visible: bool = True) -> None:
        # Every write is visible at once here.
        for entry in entries:
            _check_dim(place, entry.vector)
        if entries:
            await run_in(Lane.INDEX, self._upsert, place, {entry.key: entry for entry in entries})

    async def delete(self, place: Place, selector: Selector) -> None:
        condition = of_selector(selector)
        if condition != NOTHING:
            await run_in(Lane.INDEX, self._delete, place, condition)

    async def search(self, place: Place, query: SearchQuery) -> Candidates:
        if query.vector is not None:
            _check_dim(place, query.vector)
        condition = of_filter(query.filter)
        if condition == NOTHING or (query.vector is None and not query.terms):
            return NOTHING_FOUND
        found, stale = await run_in(Lane.INDEX, self._search, place, query, condition)
        if stale and self._snapshots.begin_load(place.name, self._clock.monotonic()):
            load = asyncio.ensure_future(run_in(Lane.INDEX, self._load_snapshot, place))
            self._loads.add(load)
            load.add_done_callback(self._loads.discard)
        return found

    async def view(self, place: Place) -> View | None:
        snapshot = await run_in(Lane.INDEX, self._current, place)
        return _SmallView(place, snapshot) if snapshot and snapshot.vectors.size <= _VIEW_NUMBERS else None

    async def sample(self, place: Place, dataset_ids: tuple[str, ...]) -> Sample:
        if not dataset_ids:
            return _empty_sample(place)
        return await run_in(Lane.INDEX, self._sample, place, dataset_ids)

    async def optimise(self, place: Place) -> PlaceStats:
        return await run_in(Lane.INDEX, self._optimise, place)

    async def drop(self, place: Place) -> None:
        await run_in(Lane.INDEX, self._drop, place)

    async def check(self) -> str:
        await run_in(Lane.INDEX, self._connect)
        return f"lancedb {await run_in(Lane.INDEX, package_version, 'lancedb')}"

    # What follows runs in a thread of the INDEX lane.

    def _connect(self) -> Any:
        with self._lock:
            if self._connection is None:
                # Imported here: 1 s and 130 MB that a process pays only when it first asks the index.
                import lancedb

                with _translated():
                    self._folder.mkdir(parents=True, exist_ok=True)
                    self._connection = lancedb.connect(self._folder, read_consistency_interval=timedelta(0))
            return self._connection

    def _path(self, place: Place) -> Path:
        return self._folder / f"{place.name}.lance"

    def _exists(self, place: Place) -> bool:
        # Not the folder: a table is there once its first manifest has its name, and another process may be at it.
        return next(self._path(place).glob("_versions/*.manifest"), None) is not None

    def _table(self, place: Place, *, create: bool = False) -> Any:
        """The table of a place, or None where it was never written (or was dropped by another process)."""
        connection = self._connect()
        with self._lock:
            if not self._exists(place):
                self._tables.pop(place.name, None)
                self._snapshots.forget(place.name)
                if not create:
                    return None
            if place.name not in self._tables:
                with _translated():
                    table = _create(connection, place) if create else connection.open_table(place.name)
                    _index(table)
                self._tables[place.name] = table
            return self._tables[place.name]

    def _upsert(self, place: Place, entries: dict[EntryKey, Entry]) -> None:
        rows = _rows(list(entries.values()), place.dim)

        def write() -> None:
            table = self._table(place, create=True)
            builder = table.merge_insert(list(_KEY)).when_matched_update_all().when_not_matched_insert_all()
            builder.execute(rows)

        _written(write)

    def _delete(self, place: Place, condition: str) -> None:
        table = self._table(place)
        if table is not None:
            _written(lambda: table.delete(condition))

    def _search(self, place: Place, query: SearchQuery, condition: str) -> tuple[Candidates, bool]:
        snapshot = self._current(place)
        if snapshot is not None:
            return snapshot.search(query), False
        table = self._table(place)
        if table is None:
            return NOTHING_FOUND, False
        with _translated():
            return _search_folder(table, query, condition, place.dim), True

    def _current(self, place: Place) -> Snapshot | None:
        """The copy in memory, if no process has written to the place since it was made."""
        mark = mark_of(self._path(place))
        return self._snapshots.current(place.name, mark) if mark else None

    def _load_snapshot(self, place: Place) -> None:
        def mark() -> Mark | None:
            return mark_of(self._path(place))

        with _translated():
            self._snapshots.load(place.name, self._table(place), place.dim, mark)

    def _sample(self, place: Place, dataset_ids: tuple[str, ...]) -> Sample:
        table = self._table(place)
        if table is None:
            return _empty_sample(place)
        condition = f"available = true AND {one_of('dataset_id', dataset_ids)}"
        with _translated():
            buckets = table.search().select(["bucket"]).where(condition).to_arrow()["bucket"].to_numpy()
            total, highest = len(buckets), 0
            if total > self._sample_size:
                highest = int(np.partition(buckets, self._sample_size - 1)[self._sample_size - 1])
                condition += f" AND bucket <= {highest}"
            chosen = table.search().select([*COLUMNS, "bucket", "vector"]).where(condition).to_arrow()
        order = [("bucket", "ascending"), ("version_id", "ascending"), ("chunk_id", "ascending")]
        chosen = chosen.sort_by(order).slice(0, self._sample_size)
        return Sample(
            total=total, tokens=tuple(chosen["tokens"].to_pylist()), vectors=matrix_of(chosen["vector"], place.dim)
        )

    def _optimise(self, place: Place) -> PlaceStats:
        table = self._table(place)
        if table is None:
            return PlaceStats(entries=0, unindexed=0)
        now = self._clock.monotonic()
        with _translated():
            version, cleaned_at = self._cleaned.get(place.name, (-1, 0.0))
            if table.version != version or now - cleaned_at > _CLEAN_AGAIN_S:
                _index(table)
                if table.count_rows() >= _ANN_FROM_ROWS:
                    _index_vectors(table)
                _written(lambda: table.optimize(cleanup_older_than=_KEEP_VERSIONS))
                self._cleaned[place.name] = (table.version, now)
            stats = table.index_stats(_TOKENS_INDEX)
            return PlaceStats(entries=table.count_rows(), unindexed=stats.num_unindexed_rows if stats else 0)

    def _drop(self, place: Place) -> None:
        connection = self._connect()
        with self._lock:
            self._tables.pop(place.name, None)
            self._snapshots.forget(place.name)
            if self._exists(place):
                with _translated():
                    connection.drop_table(place.name, ignore_missing=True)
            # What has lost its manifests is no table any more.
            shutil.rmtree(self._path(place), ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _SmallView:
    place: Place
    snapshot: Snapshot

    def search(self, query: SearchQuery) -> Candidates:
        if query.vector is not None:
            _check_dim(self.place, query.vector)
        return self.snapshot.search(query)


def _check_dim(place: Place, vector: Vector) -> None:
    if vector.shape != (place.dim,):
        raise InvalidInput(
            f"A vector of shape {vector.shape} does not fit {place.name!r}, which holds {place.dim} numbers a vector."
        )


def _empty_sample(place: Place) -> Sample:
    return Sample(total=0, tokens=(), vectors=np.zeros((0, place.dim), dtype=np.float32))


@contextmanager
def _translated() -> Iterator[None]:
    """LanceDB raises bare built-in errors; those of a lost or full disk and of conflicts may pass."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise StoreUnavailable(f"The search index did not answer: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"The search index refused a call: {error}") from error


def _written(write: Callable[[], T]) -> T:
    """Run a write again while other processes' writes get in its way."""
    for attempt in range(1, _WRITE_ATTEMPTS + 1):
        try:
            return write()
        except (RuntimeError, OSError, ValueError) as error:
            if attempt == _WRITE_ATTEMPTS or not _is_conflict(error):
                raise StoreUnavailable(f"The search index could not be written: {error}") from error
            time.sleep(0.01 * attempt * (1 + threading.get_ident() % 7 / 7))
    raise AssertionError("unreachable")


def _is_conflict(error: Exception) -> bool:
    text = str(error).lower()
    return any(word in text for word in ("conflict", "concurrent", "already exists", "retry"))


def _schema(dim: int) -> Any:
    import pyarrow as pa  # Loaded with LanceDB, never before.

    return pa.schema(
        [
            *(pa.field(name, pa.string(), nullable=False, metadata=_key_mark(name)) for name in COLUMNS),
            pa.field("vector", pa.list_(pa.float32(), dim), nullable=False),
            pa.field("available", pa.bool_(), nullable=False),
            pa.field("bucket", pa.int32(), nullable=False),
        ]
    )


def _key_mark(column: str) -> dict[str, str] | None:
    """Tells Lance which columns are the key: only then do two merges that insert the same new key at the same time
    conflict, and the later one is repeated; without it both rows stay."""
    return {"lance-schema:unenforced-primary-key": "true"} if column in _KEY else None


def _rows(entries: list[Entry], dim: int) -> Any:
    import pyarrow as pa  # Loaded with LanceDB, never before.

    vectors = np.ascontiguousarray([entry.vector for entry in entries], dtype=np.float32).ravel()
    return pa.table(
        {
            "document_id": [entry.key.document_id for entry in entries],
            "version_id": [entry.key.version_id for entry in entries],
            "chunk_id": [entry.key.chunk_id for entry in entries],
            "dataset_id": [entry.dataset_id for entry in entries],
            "tokens": [entry.tokens for entry in entries],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors), dim),
            "available": [entry.available for entry in entries],
            "bucket": pa.array([_bucket(entry.key) for entry in entries], pa.int32()),
        },
        schema=_schema(dim),
    )


def _bucket(key: EntryKey) -> int:
    """A number that depends on nothing but the chunk: the smallest ones are the sample."""
    return xxhash.xxh32_intdigest(f"{key.document_id}/{key.chunk_id}".encode()) & 0x7FFFFFFF


def _create(connection: Any, place: Place) -> Any:
    return connection.create_table(place.name, schema=_schema(place.dim), exist_ok=True)


def _index(table: Any) -> None:
    """Make the indexes that are not there yet; another process may have made them in the meantime."""
    from lancedb.index import FTS, Bitmap, BTree  # Loaded with the connection, never before.

    words = FTS(
        base_tokenizer="whitespace",
        max_token_length=None,
        lower_case=False,
        stem=False,
        remove_stop_words=False,
        ascii_folding=False,
    )
    wanted = {
        "tokens": words,
        "dataset_id": Bitmap(),
        "available": Bitmap(),
        "document_id": BTree(),
        "version_id": BTree(),
    }
    there = {column for index in table.list_indices() for column in index.columns}
    for column, config in wanted.items():
        if column not in there:
            _written(lambda c=column, k=config: table.create_index(c, config=k, name=f"{c}_idx"))  # type: ignore[misc]


def _index_vectors(table: Any) -> None:
    from lancedb.index import HnswSq  # Loaded with the connection, never before.

    if not any("vector" in index.columns for index in table.list_indices()):
        _written(lambda: table.create_index("vector", config=HnswSq(distance_type="dot"), name="vector_idx"))


def _lexical_query(table: Any, query: SearchQuery, condition: str) -> Any:
    from lancedb.query import MatchQuery  # Loaded with the connection, never before.

    match: Any = MatchQuery  # Its declared defaults are invisible to the type checker.
    return (
        table.search(match(" ".join(query.terms[:_MAX_TERMS]), "tokens"), query_type="fts")
        .where(condition)
        .limit(query.limit)
    )


def _search_folder(table: Any, query: SearchQuery, condition: str, dim: int) -> Candidates:
    import pyarrow as pa  # Loaded with LanceDB, never before.

    parts: list[Any] = []
    bm25 = np.zeros(0, dtype=np.float32)
    wanted = [*COLUMNS, "vector"]
    if query.terms:
        rows = _lexical_query(table, query, condition).select([*wanted, "_score"]).to_arrow()
        bm25 = rows["_score"].to_numpy()
        parts.append(rows.select(wanted))
    if query.vector is not None:
        near = table.search(query.vector, vector_column_name="vector", query_type="vector").distance_type("dot")
        near = near.refine_factor(4).where(condition).limit(query.limit).select([*wanted, "_distance"])
        parts.append(near.to_arrow().select(wanted))
    rows = pa.concat_tables(parts)
    return _candidates(rows, matrix_of(rows["vector"], dim), bm25, query)


def _candidates(rows: Any, vectors: Matrix, bm25: Any, query: SearchQuery) -> Candidates:
    """Both lists from their rows, lexical ones first: `bm25` says how many those are."""
    cosines = np.clip(vectors @ query.vector, -1.0, 1.0) if query.vector is not None else np.zeros(len(vectors))
    columns = [rows[name].to_pylist() for name in _KEY]
    first: list[int] = []
    known: dict[EntryKey, int] = {}
    candidates: list[Candidate] = []
    lists: tuple[list[int], list[int]] = ([], [])
    scores = bm25.tolist()
    for row, (document_id, version_id, chunk_id) in enumerate(zip(*columns, strict=True)):
        key = EntryKey(document_id=document_id, version_id=version_id, chunk_id=chunk_id)
        index = known.setdefault(key, len(candidates))
        if index == len(candidates):
            first.append(row)
            score = scores[row] if row < len(scores) else 0.0
            candidates.append(Candidate(key=key, bm25=score, cosine=float(cosines[row])))
        lists[row >= len(scores)].append(index)

    def order(score: Callable[[Candidate], float]) -> Callable[[int], tuple[float, str, str]]:
        return lambda i: (-score(candidates[i]), candidates[i].key.document_id, candidates[i].key.chunk_id)

    lists[0].sort(key=order(lambda c: c.bm25))
    lists[1].sort(key=order(lambda c: c.cosine))
    return Candidates.of(
        candidates,
        lexical=lists[0],
        vector=lists[1],
        held=held_terms(query.terms, rows["tokens"].take(np.array(first, dtype=np.int64)).to_pylist()),
    )
