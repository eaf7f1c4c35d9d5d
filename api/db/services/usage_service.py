"""Usage rows: one per model call. Metrics, cost and budgets read them."""

import asyncio
from dataclasses import asdict

from api.db.database import Database
from api.db.services.owned import in_groups
from api.db.services.records import ModelCall
from api.db.tables import Usage
from rag.core.clock import Clock, now_ms


class UsageService:
    """Writes usage rows; calls that end while a write is under way share the next one."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._pending: list[dict[str, object]] = []
        self._turn = asyncio.Lock()

    async def record(self, call: ModelCall) -> None:
        """Write the row of `call`; it is on the disk when this returns.

        Raises:
            StoreUnavailable: the rows cannot be written now; the row goes with the next call's.
        """
        self._pending.append(asdict(call) | {"create_time": now_ms(self._clock)})
        async with self._turn:
            rows, self._pending = self._pending, []
            if not rows:
                return
            written = False
            try:
                await self._db.write(lambda: _insert(rows))
                written = True
            finally:
                if not written:
                    self._pending = rows + self._pending


def _insert(rows: list[dict[str, object]]) -> None:
    for group in in_groups(rows):
        Usage.insert_many(group).execute()
