"""Usage rows: one per model call. Metrics, cost and budgets read them."""

import asyncio
from dataclasses import asdict

import structlog

from api.db.database import Database
from api.db.services.owned import in_groups
from api.db.services.records import ModelCall
from api.db.tables import Usage
from rag.core.clock import Clock, now_ms
from rag.core.errors import OutcomeUnknown

GATHER_S = 0.2
"""How long a row waits for others of the same write: with one write to the disk a call, sixteen questions at once spend
more time on their usage rows than on the search."""

_WIDTHS = {name: getattr(Usage, name).max_length for name in ("model", "provider", "purpose", "arm", "outcome")}

log = structlog.get_logger(__name__)


class UsageService:
    """Writes usage rows; calls that end within `GATHER_S`, or while a write is under way, share a write."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._pending: list[dict[str, object]] = []
        self._turn = asyncio.Lock()

    async def record(self, call: ModelCall) -> None:
        """Write the row of `call`; it is on the disk when this returns.

        Raises:
            StoreUnavailable: the rows cannot be written now; the row goes with the next call's.
            OutcomeUnknown: nobody knows whether it was written. It is not written again: cost counted twice is worse
                than a row that is missing.
        """
        self._pending.append(_row(call) | {"create_time": now_ms(self._clock)})
        async with self._turn:
            if self._pending:
                await asyncio.sleep(GATHER_S)
            rows, self._pending = self._pending, []
            if not rows:
                return
            settled = False
            try:
                await self._db.write(lambda: _insert(rows))
                settled = True
            except OutcomeUnknown as error:
                settled = True
                log.warning("usage_rows_unknown", count=len(rows), reason=error.message)
                raise
            finally:
                if not settled:
                    self._pending = rows + self._pending


def _row(call: ModelCall) -> dict[str, object]:
    """The columns of `call`. A name too long for its column is cut: one that is refused would take the rows of its
    whole write with it."""
    values: dict[str, object] = asdict(call)
    for name, width in _WIDTHS.items():
        values[name] = str(values[name])[:width]
    return values


def _insert(rows: list[dict[str, object]]) -> None:
    for group in in_groups(rows):
        Usage.insert_many(group).execute()
