"""What the worker tidies: versions nobody reads, index changes a crash left behind, files nobody names.

Every step can be repeated and stopped anywhere: a row that asks for work goes only after the work is done.
"""

from dataclasses import dataclass
from typing import Any

from api.db.database import Database
from api.db.services.blob_garbage import collect_blobs
from api.db.services.entry_renewal import EntryRenewal, TenantEmbed
from api.db.services.rebuild_drop import RebuildDrop
from api.db.services.task_rows import VERSION_DEAD
from api.db.tables import Chunk, DocumentVersion, IndexPlace, Outbox, Task
from rag.blob.base import BlobStore
from rag.core.clock import Clock, now_ms
from rag.core.errors import RagError, StoreError, StoreUnavailable
from rag.store.base import Place, SearchStore, Selector

SETTLE_MS = 10_000
"""How long a version rests between its end and its sweeping: a worker that has just lost it may still be writing, and
searches that began before may still find it."""
OUTBOX_MS = 2_000
"""Changes younger than this are still being carried out by whoever made them."""
_AT_ONCE = 200
_FIRST_WAIT_MS = 2_000
_LONGEST_WAIT_MS = 600_000
"""How long an index change waits that failed: twice as long after each attempt."""


@dataclass(frozen=True, slots=True)
class _Change:
    id: int
    place: Place | None
    model: str
    action: str
    payload: dict[str, Any]
    attempts: int


class UpkeepService:
    """The worker's broom."""

    def __init__(self, db: Database, clock: Clock, store: SearchStore, blobs: BlobStore, embed: TenantEmbed) -> None:
        self._db = db
        self._clock = clock
        self._store = store
        self._blobs = blobs
        self._renewal = EntryRenewal(db, store, embed)

    async def places(self) -> list[Place]:
        """All places there are."""
        return await self._db.run(lambda: [Place(name=p.name, dim=p.dim) for p in IndexPlace.select()])

    async def bury_orphans(self) -> int:
        """Mark versions as dead that were begun for a task that has ended otherwise. Returns how many."""

        def bury() -> int:
            going = Task.select(Task.version_id).where(Task.state.in_(("queued", "running")))
            orphans = DocumentVersion.update(state=VERSION_DEAD, update_time=now_ms(self._clock)).where(
                DocumentVersion.state == "writing", DocumentVersion.id.not_in(going)
            )
            return int(orphans.execute())

        return await self._db.write(bury)

    async def sweep(self) -> int:
        """Remove index entries and chunk rows of dead versions. Returns how many versions went.

        All that have rested go, some hundreds at a time: each search's filter names them until then.
        """
        swept = 0
        while count := await self._sweep_some():
            swept += count
            if count < _AT_ONCE:
                break
        return swept

    async def _sweep_some(self) -> int:
        until = now_ms(self._clock) - SETTLE_MS
        dead = (DocumentVersion.state == VERSION_DEAD) & (DocumentVersion.update_time <= until)

        def find() -> list[tuple[str, str, int]]:
            rows = DocumentVersion.select(DocumentVersion.id, DocumentVersion.place).where(dead).limit(_AT_ONCE)
            dims = {p.name: p.dim for p in IndexPlace.select()}
            return [(row.id, row.place, dims.get(row.place, 0)) for row in rows]

        found = await self._db.run(find)
        if not found:
            return 0
        by_place: dict[Place, list[str]] = {}
        for version_id, name, dim in found:
            by_place.setdefault(Place(name=name, dim=dim), []).append(version_id)
        for place, version_ids in by_place.items():
            await self._store.delete(place, Selector(version_ids=tuple(version_ids)))
        ids = [version_id for version_id, _, _ in found]

        def remove() -> None:
            # A version that was marked again meanwhile has a new time and stays for the next round.
            rows = DocumentVersion.select(DocumentVersion.id).where(DocumentVersion.id.in_(ids), dead)
            still = [row.id for row in rows]
            Chunk.delete().where(Chunk.version_id.in_(still)).execute()
            DocumentVersion.delete().where(DocumentVersion.id.in_(still)).execute()

        await self._db.write(remove)
        return len(ids)

    async def drain_outbox(self) -> int:
        """Carry out index changes whose maker did not live to do so, oldest first. Returns how many.

        One that fails waits, longer after each attempt, and the others go on. While the index is away none is at
        fault: all stay due.

        Raises:
            RagError: the first failure, when all others have been tried; or at once that a backend does not answer.
        """
        now = now_ms(self._clock)

        def find() -> list[_Change]:
            places = {p.name: p for p in IndexPlace.select()}
            due = (Outbox.create_time <= now - OUTBOX_MS) & (Outbox.not_before <= now)
            rows = Outbox.select().where(due).order_by(Outbox.id).limit(_AT_ONCE)
            return [_change_of(row, places.get(row.place)) for row in rows]

        changes = await self._db.run(find)
        failed: list[RagError] = []
        for change in changes:
            try:
                if change.place is not None:
                    await self._carry_out(change, change.place)
                await self._db.write(Outbox.delete().where(Outbox.id == change.id).execute)
            except RagError as error:
                failed.append(error)
                unavailable = isinstance(error, StoreUnavailable)
                if unavailable:
                    await self._store.check()
                await self._put_off(change)
                if unavailable:
                    break
        if failed:
            raise failed[0]
        return len(changes)

    async def _put_off(self, change: _Change) -> None:
        wait_ms = min(_FIRST_WAIT_MS << min(change.attempts, 16), _LONGEST_WAIT_MS)
        later = Outbox.update(attempts=Outbox.attempts + 1, not_before=now_ms(self._clock) + wait_ms)
        await self._db.write(later.where(Outbox.id == change.id).execute)

    async def tidy_rebuilds(self) -> int:
        """Drop places of the index that a killed rebuild left. Returns how many rebuilds it ended."""
        return await RebuildDrop(self._db, self._clock, self._store).tidy()

    async def remove_garbage(self) -> int:
        """Remove files no document names. Returns how many."""
        return await collect_blobs(self._db, self._blobs, self._clock)

    async def _carry_out(self, change: _Change, place: Place) -> None:
        if change.action == "delete":
            for kind in ("version_ids", "document_ids", "dataset_ids"):
                ids = tuple(change.payload.get(kind) or ())
                if ids:
                    await self._store.delete(place, Selector(**{kind: ids}))
        elif change.action in ("renewal", "availability"):  # the second is the name that earlier versions wrote
            await self._renewal.run(change.id, place, change.model, change.payload)
        else:
            raise StoreError(f"The outbox asks for {change.action!r}, which this version does not know.")


def _change_of(row: Outbox, place: IndexPlace | None) -> _Change:
    return _Change(
        id=row.id,
        place=Place(name=place.name, dim=place.dim) if place else None,
        model=place.embedding_model if place else "",
        action=row.action,
        payload=row.payload or {},
        attempts=row.attempts,
    )
