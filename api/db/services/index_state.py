"""Whether the index holds what the rows say: for `/readyz`, `parley doctor` and `parley index status`."""

from dataclasses import dataclass
from typing import Any

from peewee import fn

from api.db.database import Database
from api.db.services import rebuild_rows
from api.db.services.rebuild_rows import DROPPING
from api.db.tables import Chunk, Dataset, Document, IndexPlace, IndexRebuild
from rag.core.clock import Clock, now_ms
from rag.core.errors import StoreError
from rag.store.base import Place, SearchStore


@dataclass(frozen=True, kw_only=True, slots=True)
class RebuildState:
    """How far the rebuild of a place is; `running` tells whether a run is at it now."""

    state: str
    chunks_done: int
    chunks_total: int
    running: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaceState:
    """A place: what lives in the rows, and how many entries can be found. `damage` says why it cannot be read."""

    name: str
    embedding_model: str
    datasets: int
    documents: int
    chunks: int
    entries: int
    damage: str = ""
    rebuild: RebuildState | None = None

    @property
    def missing(self) -> int:
        """Chunks that no search can find, at least."""
        return max(0, self.chunks - self.entries)


@dataclass(frozen=True, slots=True)
class _Rows:
    place: Place
    model: str
    datasets: tuple[str, ...]
    documents: int
    chunks: int
    rebuild: RebuildState | None


async def index_state(db: Database, store: SearchStore, clock: Clock) -> list[PlaceState]:
    """All places, by name. Chunks of documents that are switched off do not count.

    Raises:
        StoreError: rows or index do not answer. A place that alone cannot be read is damaged instead.
    """
    await store.check()
    states: list[PlaceState] = []
    for rows in await db.run(lambda: _places(now_ms(clock))):
        entries, damage, chunks = 0, "", rows.chunks
        if chunks:
            entries, damage = await _count(store, rows)
        if entries < chunks and not damage:
            # The totals count unavailable chunks, too, which no search is to find.
            chunks = await db.run(lambda place=rows.place: _available(place))  # type: ignore[misc]
            if entries < chunks:
                # What went live between both looks was in the index before: another look finds it.
                entries, damage = await _count(store, rows)
        states.append(
            PlaceState(
                name=rows.place.name,
                embedding_model=rows.model,
                datasets=len(rows.datasets),
                documents=rows.documents,
                chunks=chunks,
                entries=entries,
                damage=damage,
                rebuild=rows.rebuild,
            )
        )
    return states


async def _count(store: SearchStore, rows: _Rows) -> tuple[int, str]:
    """How many entries can be found, or none and why."""
    try:
        return (await store.sample(rows.place, rows.datasets)).total, ""
    except StoreError as error:
        return 0, error.message


def advice(places: list[PlaceState]) -> str:
    """What is wrong and what to do, in a sentence or two; empty when all is well."""
    lacking = [place for place in places if place.missing]
    if not lacking:
        return ""
    missing, chunks = sum(place.missing for place in lacking), sum(place.chunks for place in places)
    running = [place.rebuild for place in lacking if place.rebuild is not None and place.rebuild.running]
    which = "1 place is" if len(lacking) == 1 else f"{len(lacking)} places are"
    found = f"{which} not in this index, or not in full: searches cannot find {missing:,} of {chunks:,} chunks"
    if running:
        done, total = sum(one.chunks_done for one in running), sum(one.chunks_total for one in running)
        return f"{found}. `parley index rebuild` is at it: {done:,} of {total:,} chunks."
    return f"{found}: run `parley index rebuild`."


def _places(now: int) -> list[_Rows]:
    rebuilds = {row.old_place: row for row in IndexRebuild.select().where(IndexRebuild.state != DROPPING)}
    datasets: dict[str, list[str]] = {}
    for row in Dataset.select(Dataset.id, Dataset.place):
        datasets.setdefault(row.place, []).append(row.id)
    live: Any = (
        Dataset.select(Dataset.place, fn.COUNT(Document.id), fn.COALESCE(fn.SUM(Document.chunk_count), 0))
        .join(Document, on=(Document.dataset_id == Dataset.id))
        .where((Document.enabled == True) & Document.live_version.is_null(False))  # noqa: E712  # A column in SQL.
        .group_by(Dataset.place)
    )
    counts = {place: (int(documents), int(chunks)) for place, documents, chunks in live.tuples()}
    found: list[_Rows] = []
    for place in IndexPlace.select().order_by(IndexPlace.name):
        documents, chunks = counts.get(place.name, (0, 0))
        found.append(
            _Rows(
                place=Place(name=place.name, dim=place.dim),
                model=place.embedding_model,
                datasets=tuple(datasets.get(place.name, ())),
                documents=documents,
                chunks=chunks,
                rebuild=_rebuild(rebuilds.get(place.name), now),
            )
        )
    return found


def _available(place: Place) -> int:
    """How many chunks of the place searches can find, counted one by one."""
    datasets = Dataset.select(Dataset.id).where(Dataset.place == place.name)
    query = Chunk.select().join(Document, on=(Document.live_version == Chunk.version_id))
    on = (Document.enabled == True) & (Chunk.available == True)  # noqa: E712  # Columns in SQL.
    return int(query.where(Document.dataset_id.in_(datasets), on).count())


def _rebuild(row: IndexRebuild | None, now: int) -> RebuildState | None:
    if row is None:
        return None
    done, total = rebuild_rows.chunk_counts(rebuild_rows.rebuild_of(row))
    return RebuildState(state=row.state, chunks_done=done, chunks_total=total, running=row.lease_until >= now)
