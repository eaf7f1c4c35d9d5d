"""A bounded copy of small places in memory, for exact search without reading the folder again.

A snapshot belongs to one state of a table and is used for that state only; while a table is being written,
searches read the folder. Least recently used places leave first when the sum grows over the bound.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.core.types import Matrix
from rag.store.base import Candidates, EntryKey, Filter, SearchQuery
from rag.store.word_index import WordIndex, word_index

KEY_COLUMNS = ("document_id", "version_id", "chunk_id", "dataset_id")
COLUMNS = (*KEY_COLUMNS, "tokens")
_WORD_BYTES_PER_ROW = 1600  # Postings of a chunk of 512 model tokens, and its key.
_KEY_BYTES = 400
_LEAST_S_BETWEEN_LOADS = 2.0
_TOO_LARGE_FOR_S = 60.0

Rows: TypeAlias = NDArray[np.int64]
Mark: TypeAlias = tuple[int, int, int, str, str]


def mark_of(table_folder: Path) -> Mark | None:
    """What is another after every write to a table, in whichever process: its folder of versions, which get a file
    each. None where the table does not exist.

    A listing takes 20 microseconds and no thread; asking LanceDB for the version takes ten times as long.
    """
    folder = table_folder / "_versions"
    try:
        status = os.stat(folder)
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (status.st_ino, status.st_mtime_ns, len(names), min(names, default=""), max(names, default=""))


@dataclass(frozen=True, slots=True)
class _Coded:
    """A column of few different values."""

    numbers: dict[str, int]
    codes: NDArray[np.int32]

    def is_in(self, values: Iterable[str]) -> NDArray[np.bool_]:
        wanted = np.zeros(len(self.numbers), dtype=np.bool_)
        wanted[[self.numbers[value] for value in values if value in self.numbers]] = True
        return wanted[self.codes]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The rows of one state of a table, in the order of (document_id, chunk_id, version_id): rows of equal score
    keep it."""

    mark: Mark
    keys: list[EntryKey]
    documents: _Coded
    versions: _Coded
    datasets: _Coded
    available: NDArray[np.bool_]
    words: WordIndex
    vectors: Matrix

    @property
    def size_bytes(self) -> int:
        return int(self.vectors.nbytes + self.words.size_bytes + len(self.keys) * _KEY_BYTES)

    def search(self, query: SearchQuery) -> Candidates:
        """What `SearchStore.search` returns, exactly."""
        seen = self._seen(query.filter)
        lexical = nearest = np.zeros(0, dtype=np.int64)
        cosines = bm25 = np.zeros(len(self.keys), dtype=np.float32)
        if query.terms:
            bm25 = self.words.scores(query.terms)
            lexical = _best(np.flatnonzero(seen & (bm25 > 0.0)), bm25, query.limit)
        if query.vector is not None:
            # Not `@`: for one vector, BLAS's threads take five times the processor time.
            cosines = np.clip(np.einsum("ij,j->i", self.vectors, query.vector), -1.0, 1.0)
            nearest = _best(np.flatnonzero(seen), cosines, query.limit)
        found = list(dict.fromkeys([*lexical.tolist(), *nearest.tolist()]))
        places = np.array(found, dtype=np.int64)
        number = {row: index for index, row in enumerate(found)}
        return Candidates(
            keys=tuple([self.keys[row] for row in found]),
            bm25=np.where(np.arange(len(found)) < len(lexical), bm25[places], np.float32(0.0)),
            cosines=cosines[places],
            lexical=tuple(range(len(lexical))),
            vector=tuple([number[row] for row in nearest.tolist()]),
            held=self.words.held(query.terms, places),
        )

    def _seen(self, wanted: Filter) -> NDArray[np.bool_]:
        seen = self.available & self.datasets.is_in(wanted.dataset_ids)
        if wanted.document_ids is not None:
            seen &= self.documents.is_in(wanted.document_ids)
        if wanted.without_versions:
            seen &= ~self.versions.is_in(wanted.without_versions)
        return seen


def _best(rows: Rows, scores: NDArray[np.float32], limit: int) -> Rows:
    """Those of `rows` (ascending) with the largest scores, best first."""
    own = scores[rows]
    if len(rows) > limit:
        chosen = own >= np.partition(own, len(own) - limit)[len(own) - limit]
        rows, own = rows[chosen], own[chosen]
    return rows[np.argsort(-own, kind="stable")[:limit]]


class Snapshots:
    """Snapshots by place name, at most `cache_bytes` together. Safe from several threads."""

    def __init__(self, cache_bytes: int) -> None:
        self._cache_bytes = cache_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Snapshot] = OrderedDict()
        self._loading: set[str] = set()
        self._not_before: dict[str, float] = {}

    def current(self, name: str, mark: Mark) -> Snapshot | None:
        """The snapshot of exactly this state, if there is one."""
        with self._lock:
            snapshot = self._kept.get(name)
            if snapshot is None or snapshot.mark != mark:
                return None
            self._kept.move_to_end(name)
            return snapshot

    def begin_load(self, name: str, now_s: float) -> bool:
        """Whether the caller should load the place now; one load at a time, and not for every write."""
        with self._lock:
            if name in self._loading or now_s < self._not_before.get(name, now_s):
                return False
            self._loading.add(name)
            self._not_before[name] = now_s + _LEAST_S_BETWEEN_LOADS
            return True

    def load(self, name: str, table: Any, dim: int, mark: Callable[[], Mark | None]) -> None:
        """Read the place, unless it is too large or changes meanwhile; ends what `begin_load` began."""
        try:
            before = mark()
            if table is None or before is None:
                self.forget(name)
                return
            if table.count_rows() * (dim * 4 + _WORD_BYTES_PER_ROW) > self._cache_bytes:
                self._refuse(name)
                return
            snapshot = _read(table, before, dim)
            if snapshot.size_bytes > self._cache_bytes:
                self._refuse(name)
            elif mark() == before:
                self._keep(name, snapshot)
        finally:
            with self._lock:
                self._loading.discard(name)

    def forget(self, name: str) -> None:
        with self._lock:
            self._kept.pop(name, None)

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()

    def _refuse(self, name: str) -> None:
        with self._lock:
            self._kept.pop(name, None)
            self._not_before[name] = self._not_before.get(name, 0.0) + _TOO_LARGE_FOR_S

    def _keep(self, name: str, snapshot: Snapshot) -> None:
        with self._lock:
            self._kept[name] = snapshot
            self._kept.move_to_end(name)
            while sum(each.size_bytes for each in self._kept.values()) > self._cache_bytes:
                self._kept.popitem(last=False)


def _read(table: Any, mark: Mark, dim: int) -> Snapshot:
    rows = table.search().select([*COLUMNS, "available", "vector"]).to_arrow().combine_chunks()
    order = _sorted_by_key(rows)
    keys = rows.select(list(KEY_COLUMNS)).take(order)
    documents, versions, datasets = (_coded(keys[name]) for name in ("document_id", "version_id", "dataset_id"))
    return Snapshot(
        mark=mark,
        keys=[
            EntryKey(document_id=document_id, version_id=version_id, chunk_id=chunk_id)
            for document_id, version_id, chunk_id in zip(
                _texts(documents), _texts(versions), keys["chunk_id"].to_pylist(), strict=True
            )
        ],
        documents=documents,
        versions=versions,
        datasets=datasets,
        available=rows["available"].to_numpy()[order],
        words=word_index(_whole(rows["tokens"].take(order))),
        vectors=matrix_of(rows["vector"], dim)[order],
    )


def _sorted_by_key(rows: Any) -> Rows:
    import pyarrow.compute as pc  # Loaded with LanceDB, never before.

    by = [(name, "ascending") for name in ("document_id", "chunk_id", "version_id")]
    return np.asarray(pc.sort_indices(rows, sort_keys=by).to_numpy(), dtype=np.int64)


def _coded(column: Any) -> _Coded:
    encoded = _whole(column).dictionary_encode()
    numbers = {value: number for number, value in enumerate(encoded.dictionary.to_pylist())}
    return _Coded(numbers, encoded.indices.to_numpy().astype(np.int32))


def _texts(column: _Coded) -> list[str]:
    """The values of all rows; equal ones are one object."""
    values = list(column.numbers)
    return [values[code] for code in column.codes.tolist()]


def _whole(column: Any) -> Any:
    """A column as one array."""
    import pyarrow as pa  # Loaded with LanceDB, never before.

    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def matrix_of(column: Any, dim: int) -> Matrix:
    """A fixed-size list column as a matrix of its own memory."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.array(flat, dtype=np.float32).reshape(-1, dim)
