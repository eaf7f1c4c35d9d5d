"""Servers that somebody else runs: opened once they can be reached, and watched as long as the process lives.

What waiting can heal (a server that is down or restarts) is waited for. What it cannot heal (a wrong password, another
major version, a schema of a newer program) ends the process when it is found at the start, with a line that says what
to do; found later, it is shown and looked at again, as others still use the process.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping

import structlog

from api.db.database import Database
from api.db.services.container import Services
from api.db.services.index_state import advice, index_state
from rag.core.blocking import Lane, run_in
from rag.core.errors import RagError, StoreUnavailable

_LOOK_S = 2.0
_LOOK_AGAIN_S = 1.0
_INDEX_FIRST_S = 2.0
_INDEX_WELL_S = 300.0
_INDEX_LACKING_S = 5.0
log = structlog.get_logger(__name__)


async def watch_index(services: Services, notes: MutableMapping[str, str]) -> None:
    """Keep in `notes` what of the rows the index lacks: it was lost, or the settings name another one now.

    Searches go on meanwhile: they find what there is.
    """
    wait_s = _INDEX_FIRST_S
    while True:
        await asyncio.sleep(wait_s)
        try:
            found = advice(await index_state(services.db, services.store, services.clock))
        except RagError as error:
            # Whoever watches the servers tells of those that are away.
            log.debug("index_not_compared", code=error.code, reason=error.message)
            continue
        if found and not notes.get("index"):
            log.warning("index_lacks_entries", found=found)
        notes["index"] = found
        wait_s = _INDEX_LACKING_S if found else _INDEX_WELL_S


class ServerWatch:
    """Knows whether one server can be used.

    Args:
        part: What the server is for, as `/readyz` names it.
        reach: Uses the server; raises RagError when that is not possible.
        away: Where the reason is kept under `part` while the server is away.
    """

    def __init__(self, part: str, reach: Callable[[], Awaitable[object]], away: MutableMapping[str, str]) -> None:
        self._part = part
        self._reach = reach
        self._away = away

    async def begin(self, *, patient: bool) -> None:
        """Reach the server for the first time.

        Args:
            patient: Whether to go on without a server that is down.
        Raises:
            RagError: it cannot be used, and waiting would not help.
            StoreUnavailable: it is down; not if `patient`.
        """
        try:
            await self._reach()
        except StoreUnavailable as error:
            if not patient:
                raise
            self._note(error)

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_AGAIN_S if self._part in self._away else _LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Look once, and keep what was found."""
        try:
            await self._reach()
        except RagError as error:
            self._note(error)
        else:
            if self._away.pop(self._part, None) is not None:
                log.info("server_back", part=self._part)

    def _note(self, error: RagError) -> None:
        if self._away.get(self._part) != error.message:
            log.warning("server_away", part=self._part, code=error.code, reason=error.message)
        self._away[self._part] = error.message


class RowsOnServer:
    """Opens rows and makes them ready, whenever that becomes possible; until then their calls are refused at once."""

    def __init__(self, db: Database, prepare: Callable[[], Awaitable[None]]) -> None:
        self._db = db
        self._prepare = prepare
        self._prepared = False

    async def reach(self) -> None:
        """Open, or see that they answer.

        Raises:
            RagError: they cannot be used now; so say all their calls until this succeeds.
        """
        try:
            # Not on the rows' own threads: calls that wait for a dead server may hold them all.
            await run_in(Lane.FILES, self._db.probe if self._db.is_open else self._db.open)
            if not self._prepared:
                with self._db.despite_refusal():
                    await self._prepare()
                self._prepared = True
        except RagError as error:
            self._db.refuse(error.message)
            raise
        self._db.refuse(None)
