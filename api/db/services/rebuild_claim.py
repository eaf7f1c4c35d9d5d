"""Who rebuilds: one run at a time, by a lease on the rows of its rebuilds."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog

from api.db.database import Database
from api.db.services import rebuild_rows
from api.db.services.rebuild_rows import CLOSING, DROPPING, FILLING, Rebuild
from api.db.tables import IndexPlace, IndexRebuild
from rag.core.clock import Clock, now_ms
from rag.core.errors import Conflict, RagError, StoreError
from rag.core.ids import new_id
from rag.store.base import SearchStore

LEASE_S = 30.0
"""How long a run may be silent before another may take over."""
_HEARTBEAT_S = 5.0
_LOST = "Another `parley index rebuild` took over, because this one was not heard of for too long."

log = structlog.get_logger(__name__)


class RebuildClaim:
    """The lease of one run.

    Args:
        owner: Unique to this run. What comes before its first `:` names the data folder, whose lock the caller holds:
            whoever else had a lease from this folder is dead.
        made_for: The index that is written, and the revision of its entries.
    """

    def __init__(self, db: Database, clock: Clock, store: SearchStore, *, owner: str, made_for: str) -> None:
        self._db = db
        self._clock = clock
        self._store = store
        self._owner = owner
        self._made_for = made_for

    async def begin(self) -> list[Rebuild]:
        """Take over what an earlier run left, if only places to drop; else begin with every place there is.

        What an earlier run filled for another index, or with entries of another revision, is begun anew.

        Raises:
            Conflict: another run is at work.
        """
        stranded = await self._db.write(self._stranded)
        for rebuild in stranded:
            # Where the settings name another index now, this finds nothing to drop.
            await self._store.drop(rebuild.new)
        return await self._db.write(lambda: self._begin(stranded))

    def hold(self, rebuild: Rebuild) -> None:
        """Extend the lease; for use inside `Database.write`, with what is written on behalf of the rebuild.

        Raises:
            Conflict: another run took over.
        """
        if self._extend([rebuild.id]) != 1:
            raise Conflict(_LOST)

    @asynccontextmanager
    async def kept(self, rebuilds: Sequence[Rebuild]) -> AsyncIterator[None]:
        """Extend the leases while the block runs, and give them back at its end.

        Raises:
            Conflict: another run took over; the block was cancelled.
        """
        ids = [rebuild.id for rebuild in rebuilds]
        block = asyncio.current_task()
        lost: list[Conflict] = []

        async def beat() -> None:
            while not lost:
                await asyncio.sleep(_HEARTBEAT_S)
                try:
                    await self._db.write(lambda: self._extend(ids))
                except Conflict as error:
                    lost.append(error)
                    if block is not None:
                        block.cancel()
                except StoreError as error:
                    log.warning("rebuild.heartbeat_failed", code=error.code, reason=error.message)

        heart = asyncio.create_task(beat())
        try:
            yield
        except asyncio.CancelledError:
            if lost:
                raise lost[0] from None
            raise
        finally:
            heart.cancel()
            await asyncio.gather(heart, return_exceptions=True)
            await self._give_back()

    async def _give_back(self) -> None:
        def give_back() -> None:
            mine = IndexRebuild.lease_owner == self._owner
            IndexRebuild.update(lease_owner=None, lease_until=0).where(mine).execute()

        try:
            await self._db.write(give_back)
        except RagError as error:
            log.warning("rebuild.lease_not_given_back", code=error.code, reason=error.message)

    def _begin(self, stranded: Sequence[Rebuild]) -> list[Rebuild]:
        self._refuse_second()
        for rebuild in stranded:
            rebuild_rows.forget(rebuild.id)
        rows = list(IndexRebuild.select().order_by(IndexRebuild.create_time, IndexRebuild.old_place))
        resumed = bool(rows)
        if not resumed:
            rows = [self._planned(place) for place in IndexPlace.select().order_by(IndexPlace.name)]
        IndexRebuild.update(state=FILLING).where(IndexRebuild.state == CLOSING).execute()
        until = now_ms(self._clock) + int(LEASE_S * 1000)
        IndexRebuild.update(lease_owner=self._owner, lease_until=until).execute()
        return [rebuild_rows.rebuild_of(row, resumed=resumed) for row in rows]

    def _stranded(self) -> list[Rebuild]:
        self._refuse_second()
        rows = IndexRebuild.select().where(IndexRebuild.state != DROPPING, IndexRebuild.made_for != self._made_for)
        return [rebuild_rows.rebuild_of(row) for row in rows]

    def _refuse_second(self) -> None:
        now, folder = now_ms(self._clock), self._owner.partition(":")[0]
        for row in IndexRebuild.select().where(IndexRebuild.lease_until >= now):
            holder = str(row.lease_owner or folder)
            if holder.partition(":")[0] != folder:
                seconds = (row.lease_until - now) // 1000 + 1
                raise Conflict(
                    "Another `parley index rebuild` is at work on these rows. If it was killed, this one can go on in "
                    f"{seconds} s; `parley index status` shows how far it is."
                )

    def _planned(self, place: IndexPlace) -> IndexRebuild:
        now = now_ms(self._clock)
        return IndexRebuild.create(
            id=new_id(),
            tenant_id=place.tenant_id,
            old_place=place.name,
            new_place=rebuild_rows.next_place(place.tenant_id),
            embedding_model=place.embedding_model,
            dim=place.dim,
            made_for=self._made_for,
            state=FILLING,
            create_time=now,
            update_time=now,
        )

    def _extend(self, ids: Sequence[str]) -> int:
        """Returns how many there were; of those that are done, no row is left."""
        rows = [row.id for row in IndexRebuild.select(IndexRebuild.id).where(IndexRebuild.id.in_(list(ids)))]
        now = now_ms(self._clock)
        mine = (IndexRebuild.id.in_(rows), IndexRebuild.lease_owner == self._owner)
        IndexRebuild.update(lease_until=now + int(LEASE_S * 1000), update_time=now).where(*mine).execute()
        if IndexRebuild.select().where(*mine).count() != len(rows):
            raise Conflict(_LOST)
        return len(rows)
