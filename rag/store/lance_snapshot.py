"""A bounded copy of small places in memory, for exact vector search without reading the folder again.

A snapshot belongs to one version of a table and is used for that version only; while a table is being written,
searches read the folder. Least recently used places leave first when the sum grows over the bound.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rag.core.types import Matrix, Vector
from rag.store.base import Filter

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("document_id", "version_id", "chunk_id", "dataset_id", "tokens")
_TEXT_BYTES_PER_ROW = 1600
_LEAST_S_BETWEEN_LOADS = 2.0

Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The available rows of one table version. `row_ids` is sorted; everything else is in its order."""

    version: int
    row_ids: NDArray[np.uint64]
    columns: "pa.Table"
    buckets: NDArray[np.int32]
    vectors: Matrix
    size_bytes: int

    def positions(self, row_ids: NDArray[np.uint64]) -> Positions:
        """Where these rows stand here; -1 for rows that are not here."""
        found = np.minimum(np.searchsorted(self.row_ids, row_ids), max(len(self.row_ids) - 1, 0))
        return np.where(self.row_ids[found] == row_ids, found, -1) if len(self.row_ids) else np.full(len(row_ids), -1)

    def mask(self, wanted: Filter) -> NDArray[np.bool_]:
        """Which rows a search may see."""
        seen = self._is_in("dataset_id", wanted.dataset_ids)
        if wanted.document_ids is not None:
            seen &= self._is_in("document_id", wanted.document_ids)
        if wanted.without_versions:
            seen &= ~self._is_in("version_id", wanted.without_versions)
        return seen

    def nearest(self, vector: Vector, seen: NDArray[np.bool_], limit: int) -> Positions:
        """The rows with the largest cosine among those seen, best first."""
        places = np.flatnonzero(seen)
        cosines = (self.vectors @ vector)[places]
        if len(places) > limit:
            best = np.argpartition(-cosines, limit - 1)[:limit]
            places, cosines = places[best], cosines[best]
        return places[np.argsort(-cosines, kind="stable")]

    def _is_in(self, column: str, values: tuple[str, ...]) -> NDArray[np.bool_]:
        # Imported late like all of Arrow; it is loaded by the time a snapshot exists.
        import pyarrow as pa
        import pyarrow.compute as pc

        found = pc.is_in(self.columns[column], value_set=pa.array(values, pa.string()))
        return np.asarray(found.combine_chunks().to_numpy(zero_copy_only=False), dtype=np.bool_).copy()


class Snapshots:
    """Snapshots by place name, at most `cache_bytes` together. Safe from several threads."""

    def __init__(self, cache_bytes: int) -> None:
        self._cache_bytes = cache_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Snapshot] = OrderedDict()
        self._loading: set[str] = set()
        self._loaded_at: dict[str, float] = {}

    def current(self, name: str, version: int) -> Snapshot | None:
        """The snapshot of exactly this version, if there is one."""
        with self._lock:
            snapshot = self._kept.get(name)
            if snapshot is None or snapshot.version != version:
                return None
            self._kept.move_to_end(name)
            return snapshot

    def begin_load(self, name: str, now_s: float) -> bool:
        """Whether the caller should load the place now; one load at a time, and not for every write."""
        with self._lock:
            if name in self._loading or now_s - self._loaded_at.get(name, -1e9) < _LEAST_S_BETWEEN_LOADS:
                return False
            self._loading.add(name)
            self._loaded_at[name] = now_s
            return True

    def load(self, name: str, table: Any, dim: int) -> None:
        """Read the place, unless it is too large or changes meanwhile; ends what `begin_load` began."""
        try:
            if table.count_rows() * (dim * 4 + _TEXT_BYTES_PER_ROW) > self._cache_bytes:
                self.forget(name)
                return
            version = table.version
            snapshot = _read(table, version, dim)
            if table.version == version:
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

    def _keep(self, name: str, snapshot: Snapshot) -> None:
        with self._lock:
            self._kept[name] = snapshot
            self._kept.move_to_end(name)
            while len(self._kept) > 1 and sum(s.size_bytes for s in self._kept.values()) > self._cache_bytes:
                self._kept.popitem(last=False)


def _read(table: Any, version: int, dim: int) -> Snapshot:
    query = table.search().select([*COLUMNS, "bucket", "vector"]).where("available = true").with_row_id(True)
    rows = query.to_arrow()
    ids = rows["_rowid"].to_numpy().astype(np.uint64)
    order = np.argsort(ids)
    if not np.array_equal(order, np.arange(len(order))):
        rows = rows.take(order)
        ids = ids[order]
    columns = rows.select(list(COLUMNS)).combine_chunks()
    vectors = matrix_of(rows["vector"], dim)
    return Snapshot(
        version=version,
        row_ids=ids,
        columns=columns,
        buckets=rows["bucket"].to_numpy().astype(np.int32),
        vectors=vectors,
        size_bytes=int(columns.nbytes + vectors.nbytes + ids.nbytes * 2),
    )


def matrix_of(column: Any, dim: int) -> Matrix:
    """A fixed-size list column as a matrix of its own memory."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.array(flat, dtype=np.float32).reshape(-1, dim)
