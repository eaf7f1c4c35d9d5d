"""Which server makes an answer, and what becomes of the answers of one that died.

Rows of a file have one server. Rows on a database server may have many: each writes down until when it lives, again
and again, and marks what was left by those that do not.
"""

import asyncio

import structlog

from api.db.database import Database
from api.db.services.message_rows import GENERATING
from api.db.tables import AnswerServer, Message
from rag.core.clock import Clock, now_ms
from rag.core.errors import RagError
from rag.core.ids import new_id

log = structlog.get_logger()

LEASE_S = 30.0
RENEW_S = 10.0


class AnswerLease:
    """One server's right to the answers that it makes. `server_id` is written into their rows.

    Args:
        home: Names the server's data folder: only one server at a time has it, so what an earlier one of the same home
            left is dead.
        shared: Whether the rows have other servers.
    """

    def __init__(self, db: Database, clock: Clock, *, home: str = "", shared: bool = False) -> None:
        self._db = db
        self._clock = clock
        self._home = home
        self._shared = shared
        self._renewing: asyncio.Task[None] | None = None
        self.server_id = f"{home}:{new_id()}"

    async def begin(self) -> int:
        """Take the lease, and mark answers that dead servers left as `interrupted`; how many."""
        if not self._shared:
            return await self._db.write(_interrupt_all)
        count = await self._renew()
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._keep(), name="renew-answer-lease")
        return count

    async def close(self) -> None:
        """Give the lease back; what is still running is anybody's to mark."""
        if self._renewing is None:
            return
        self._renewing.cancel()
        await asyncio.wait({self._renewing})
        self._renewing = None
        try:
            await self._db.write(lambda: AnswerServer.delete().where(AnswerServer.id == self.server_id).execute())
        except RagError as error:
            log.warning("answer_lease_not_given_back", code=error.code)

    async def lives(self, server_id: str) -> bool:
        """Whether the server that wrote `server_id` may still be making its answers."""
        if server_id == self.server_id:
            return True
        if not self._shared:
            return False
        now = now_ms(self._clock)
        alive = (AnswerServer.id == server_id) & (AnswerServer.lease_until > now)
        return await self._db.run(lambda: AnswerServer.select().where(alive).exists())

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                count = await self._renew()
            except RagError as error:
                log.warning("answer_lease_not_renewed", code=error.code)
            else:
                if count:
                    log.info("answers_of_dead_server_interrupted", count=count)

    async def _renew(self) -> int:
        now = now_ms(self._clock)
        until = now + int(LEASE_S * 1000)

        def write() -> int:
            if not AnswerServer.update(lease_until=until).where(AnswerServer.id == self.server_id).execute():
                AnswerServer.create(id=self.server_id, lease_until=until)
            return self._interrupt(now)

        return await self._db.write(write)

    def _interrupt(self, now: int) -> int:
        rows = list(AnswerServer.select().where(AnswerServer.id != self.server_id))
        dead = [row.id for row in rows if row.lease_until <= now or row.id.partition(":")[0] == self._home]
        living = [self.server_id, *(row.id for row in rows if row.id not in dead)]
        if dead:
            AnswerServer.delete().where(AnswerServer.id.in_(dead)).execute()
        lost = (Message.status == GENERATING) & Message.server_id.not_in(living)
        return int(Message.update(status="interrupted").where(lost).execute())


def _interrupt_all() -> int:
    return int(Message.update(status="interrupted").where(Message.status == GENERATING).execute())
