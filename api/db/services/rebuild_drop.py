"""The end of a rebuild: the place that was left goes, some seconds after the switch.

The command does it itself; if it was killed before, the next run or the worker does.
"""

import asyncio

from api.db.database import Database
from api.db.services import rebuild_rows
from api.db.services.rebuild_rows import DROPPING, Rebuild, generation_of
from api.db.tables import Dataset, IndexPlace, IndexRebuild
from rag.core.clock import Clock, now_ms
from rag.store.base import Place, SearchStore

_LOOK_BACK = 50
"""Earlier generations that are looked for: those of another index, from before the settings named this one."""
_ABANDONED_MS = 7 * 86_400_000


class RebuildDrop:
    """Drops places no dataset is in any more."""

    def __init__(self, db: Database, clock: Clock, store: SearchStore) -> None:
        self._db = db
        self._clock = clock
        self._store = store

    async def drop_old(self, rebuild: Rebuild) -> None:
        """Wait until searches that began before the switch have ended, then drop what they searched."""
        due = await self._db.run(lambda: IndexRebuild.get_or_none(IndexRebuild.id == rebuild.id))
        if due is None or due.state != DROPPING:
            return
        await asyncio.sleep(max(0, due.drop_at - now_ms(self._clock)) / 1000)
        await self._end(rebuild)

    async def tidy(self) -> int:
        """Do what killed runs left, for the worker: drop old places after a switch, and half-filled new ones that
        nobody went on with for a week. Returns how many."""
        now = now_ms(self._clock)
        idle = IndexRebuild.lease_until < now

        def switched() -> list[Rebuild]:
            rows = IndexRebuild.select().where(idle, IndexRebuild.state == DROPPING, IndexRebuild.drop_at <= now)
            return [rebuild_rows.rebuild_of(row) for row in rows]

        def give_up() -> list[Rebuild]:
            old = IndexRebuild.update_time < now - _ABANDONED_MS
            rows = list(IndexRebuild.select().where(idle, IndexRebuild.state != DROPPING, old))
            for row in rows:
                rebuild_rows.forget(row.id)
            return [rebuild_rows.rebuild_of(row) for row in rows]

        if not await self._db.run(lambda: IndexRebuild.select().exists()):
            return 0
        ended = await self._db.run(switched)
        for rebuild in ended:
            await self._end(rebuild)
        given_up = await self._db.write(give_up)
        for rebuild in given_up:
            await self._store.drop(rebuild.new)
        return len(ended) + len(given_up)

    async def _end(self, rebuild: Rebuild) -> None:
        for place in await self._db.run(lambda: _unused(rebuild)):
            await self._store.drop(place)
        await self._db.write(lambda: rebuild_rows.forget(rebuild.id))


def _unused(rebuild: Rebuild) -> list[Place]:
    """The old place and earlier generations, without those that are in use."""
    used = {row.name for row in IndexPlace.select(IndexPlace.name)}
    used |= {row.place for row in Dataset.select(Dataset.place).distinct()}
    for row in IndexRebuild.select().where(IndexRebuild.id != rebuild.id):
        used |= {row.old_place, row.new_place}
    newest = generation_of(rebuild.new.name)
    names = [f"t_{rebuild.tenant_id}_g{number}" for number in range(max(1, newest - _LOOK_BACK), newest)]
    # Of any dimensions: an earlier generation may have had another model.
    return [Place(name=name, dim=0) for name in {rebuild.old.name, *names} if name not in used]
