"""Turns that were begun: read in full, and followed while they are answered."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from api.db.database import Database
from api.db.services.answer_lease import AnswerLease
from api.db.services.message_rows import GENERATING, end_of
from api.db.services.message_usage import usage_of
from api.db.services.owned_chats import check_answer, own_answer
from api.db.services.turn_records import TurnRecord, question_before, turn_record
from api.db.tables import Message
from rag.core.clock import Clock
from rag.core.errors import NotFound
from rag.core.types import Principal
from rag.eventlog.base import Batch, EventLog, LoggedEvent

_LOOK_S = 0.5
"""Between looks at the row of an answer that another server makes."""


class TurnReader:
    """Every method loads by (principal, ids); what is not the principal's is NotFound (kind `chat`, `session` or
    `message`)."""

    def __init__(self, db: Database, clock: Clock, event_log: EventLog, lease: AnswerLease) -> None:
        self._db = db
        self._clock = clock
        self._log = event_log
        self._lease = lease

    async def turn(self, principal: Principal, dialog_id: str, session_id: str, message_id: str) -> TurnRecord:
        """The pair of that id, and what it took. Of an answer that is running, the text saved last."""

        def read() -> TurnRecord:
            answer = own_answer(principal, dialog_id, session_id, message_id)
            usage = usage_of(principal.tenant_id, session_id, message_id)
            return turn_record(answer, question_before(answer), usage)

        return await self._db.run(read)

    async def check(self, principal: Principal, dialog_id: str, session_id: str, message_id: str) -> None:
        """Return if there is an answer of that id."""
        await self._db.run(lambda: check_answer(principal, dialog_id, session_id, message_id))

    async def follow(
        self,
        principal: Principal,
        dialog_id: str,
        session_id: str,
        message_id: str,
        *,
        after: int = 0,
        idle_s: float | None = None,
    ) -> AsyncGenerator[Batch, None]:
        """Follow an answer from the event after number `after`: past events, live ones by arrival, and the end. An
        empty batch comes after `idle_s` seconds of silence.

        When its events are no longer there, or another server has them, the end alone comes, made from the row. Leaving
        changes nothing.
        """

        def row() -> Message:
            return own_answer(principal, dialog_id, session_id, message_id)

        await self.check(principal, dialog_id, session_id, message_id)
        try:
            async with aclosing(self._log.follow(f"{session_id}/{message_id}", after=after, idle_s=idle_s)) as batches:
                async for batch in batches:
                    after = batch.first_id + len(batch.events) - 1
                    yield batch
            return
        except NotFound:
            answer = await self._db.run(row)
        waited = 0.0
        while await self._runs_elsewhere(answer):
            await asyncio.sleep(_LOOK_S)
            waited += _LOOK_S
            if idle_s is not None and waited >= idle_s:
                waited = 0.0
                yield Batch(first_id=after + 1, events=())
            answer = await self._db.run(row)
        yield Batch(first_id=after + 1, events=(end_of(answer),))

    async def _runs_elsewhere(self, answer: Message) -> bool:
        elsewhere = answer.status == GENERATING and answer.server_id != self._lease.server_id
        return elsewhere and await self._lease.lives(answer.server_id)

    async def events(
        self, principal: Principal, dialog_id: str, session_id: str, message_id: str, *, after: int = 0
    ) -> AsyncIterator[LoggedEvent]:
        """The events of `follow`, one by one."""
        async with aclosing(self.follow(principal, dialog_id, session_id, message_id, after=after)) as batches:
            async for batch in batches:
                for event_id, event in enumerate(batch.events, batch.first_id):
                    yield LoggedEvent(event_id=event_id, event=event)
