"""Sessions: conversations with a chat assistant, their turns, and following an answer while it is made.

A turn is saved before anything else happens, runs without the one who asked, and ends saved: `done`, `failed`,
`stopped` or `interrupted`.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from api.db.database import Database
from api.db.services.dialog_brief import AskOptions
from api.db.services.message_rows import (
    NewTurn,
    add_opener,
    add_turn,
    delete_sessions,
    end_of,
    interrupt_generating,
    session_records,
)
from api.db.services.names import clean_label
from api.db.services.owned import split_duplicates
from api.db.services.owned_chats import chat_record, own_answer, own_chat, own_session
from api.db.services.records import BatchResult, ConversationRecord, DialogRecord, Page
from api.db.services.row_pages import page_of
from api.db.services.turn_runner import RunningTurn, TurnRunner
from api.db.tables import Conversation
from rag.core.clock import Clock, now_ms
from rag.core.errors import Conflict, InvalidInput, NotFound
from rag.core.events import DialogEvent, Done, Failed, Started, Stopped
from rag.core.ids import new_id, new_message_id
from rag.core.settings import DialogSettings
from rag.core.types import Principal, Turn
from rag.eventlog.base import Batch, EventLog, LoggedEvent

__all__ = ["Batch", "ConversationService", "LoggedEvent", "TurnHandle"]


LONGEST_NAME = 255
_CHANGEABLE = frozenset(("name", "user_id"))

Records = list[ConversationRecord]


class Dialogs(Protocol):
    """What sessions need of `DialogService`."""

    def chat(
        self,
        principal: Principal,
        dialog: DialogRecord,
        turns: tuple[Turn, ...],
        *,
        options: AskOptions | None = None,
        message_id: str = "",
        session_id: str = "",
    ) -> AsyncGenerator[DialogEvent, None]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnHandle:
    """A turn that has begun. `stream` names its answer in the event log."""

    stream: str
    message_id: str
    session_id: str


class ConversationService:
    """Every method loads by (principal, ids); what is not the principal's is NotFound (kind `chat`, `session` or
    `message`)."""

    def __init__(
        self, db: Database, clock: Clock, event_log: EventLog, dialog_service: Dialogs, settings: DialogSettings
    ) -> None:
        self._db = db
        self._clock = clock
        self._log = event_log
        self._dialogs = dialog_service
        self._runner = TurnRunner(db, clock, event_log, save_s=settings.save_s)
        self._beginning: set[asyncio.Task[TurnHandle]] = set()

    async def create(
        self, principal: Principal, dialog_id: str, *, name: str = "New session", user_id: str = ""
    ) -> ConversationRecord:
        """Make a session; its first message is the chat's opener.

        Raises:
            InvalidInput: field `name` or `user_id`: empty or longer than 255 characters.
        """
        values = _checked({"name": name, "user_id": user_id})

        def write() -> ConversationRecord:
            chat = own_chat(principal, dialog_id)
            now = now_ms(self._clock)
            row = Conversation.create(
                id=new_id(),
                dialog_id=chat.id,
                tenant_id=principal.tenant_id,
                create_time=now,
                update_time=now,
                **values,
            )
            add_opener(row, str(chat.prompt_config.get("prologue") or ""), now / 1000)
            return session_records([row])[0]

        return await self._db.write(write)

    async def list(
        self, principal: Principal, dialog_id: str, page: Page, *, id: str = "", name: str = "", user_id: str = ""
    ) -> Records:
        """The sessions of a chat on `page`; `id`, `name` and `user_id` narrow them, exactly.

        Raises:
            InvalidInput: `page.order_by` is no field of a session (fact `field` is `orderby`).
        """

        def read() -> Records:
            chat = own_chat(principal, dialog_id)
            query = Conversation.select().where(Conversation.dialog_id == chat.id)
            for column, wanted in ((Conversation.id, id), (Conversation.name, name), (Conversation.user_id, user_id)):
                if wanted:
                    query = query.where(column == wanted)
            rows, _ = page_of(query, Conversation, ConversationRecord, page)
            return session_records(rows)

        return await self._db.run(read)

    async def get(self, principal: Principal, dialog_id: str, session_id: str) -> ConversationRecord:
        """A session with its messages."""
        return await self._db.run(lambda: session_records([own_session(principal, dialog_id, session_id)[1]])[0])

    async def update(
        self, principal: Principal, dialog_id: str, session_id: str, changes: Mapping[str, Any]
    ) -> ConversationRecord:
        """Store a new `name` or `user_id`; nothing in `changes` only touches the time of the last change.

        Raises:
            InvalidInput: another field, or a value that cannot be stored; fact `field` names it.
        """
        values = _checked(changes)

        def write() -> ConversationRecord:
            _, row = own_session(principal, dialog_id, session_id)
            for key, value in values.items():
                setattr(row, key, value)
            row.update_time = now_ms(self._clock)
            row.save(only=[*row.dirty_fields, Conversation.update_time])
            return session_records([row])[0]

        return await self._db.write(write)

    async def delete(self, principal: Principal, dialog_id: str, ids: Sequence[str] | None) -> BatchResult:
        """Delete sessions of a chat; None means all. Their running answers are stopped.

        Unknown ids are reported and do not keep the others from being deleted.
        """
        wanted, duplicates = split_duplicates(ids or ())

        def write() -> list[str]:
            chat = own_chat(principal, dialog_id)
            query = Conversation.select(Conversation.id).where(Conversation.dialog_id == chat.id)
            found = [row.id for row in query.order_by(Conversation.create_time)]
            mine = frozenset(found)
            done = found if ids is None else [each for each in wanted if each in mine]
            delete_sessions(done)
            return done

        done = await self._db.write(write)
        await self._runner.stop_sessions(frozenset(done), "deleted")
        unknown = tuple(each for each in wanted if each not in frozenset(done))
        return BatchResult(done=tuple(done), unknown=unknown, duplicates=duplicates)

    async def begin_turn(
        self,
        principal: Principal,
        dialog_id: str,
        session_id: str,
        question: str,
        *,
        options: AskOptions | None = None,
    ) -> TurnHandle:
        """Save the question and an empty answer, and start answering.

        Turns of one session are numbered in the order they begin; a later one waits for the one before, for half
        a minute at the most. A caller that is cancelled leaves either nothing or a turn that runs.

        Raises:
            Conflict: the server is stopping.
        """
        if self._runner.closing:
            raise Conflict("The server is stopping. Ask again in a moment.")
        begin = self._begin(principal, dialog_id, session_id, question, options or AskOptions())
        task = asyncio.create_task(begin, name="begin-turn")
        self._beginning.add(task)
        task.add_done_callback(self._forget_beginning)
        return await asyncio.shield(task)

    def _forget_beginning(self, task: "asyncio.Task[TurnHandle]") -> None:
        self._beginning.discard(task)
        if not task.cancelled():
            task.exception()  # Whoever began it may have left: the error has been looked at.

    async def _begin(
        self, principal: Principal, dialog_id: str, session_id: str, question: str, options: AskOptions
    ) -> TurnHandle:
        message_id = new_message_id()
        now = self._clock.now().timestamp()
        storable = question.encode("utf-8", "replace").decode()  # Half a surrogate pair is no text.

        def write() -> tuple[DialogRecord, NewTurn]:
            chat, session = own_session(principal, dialog_id, session_id)
            added = add_turn(session, storable, message_id, now)
            Conversation.update(update_time=int(now * 1000)).where(Conversation.id == session.id).execute()
            return chat_record(chat), added

        # The log is begun first, so that whoever can read the row can subscribe.
        await self._log.append(message_id, Started(message_id=message_id, session_id=session_id))
        try:
            dialog, added = await self._db.write(write)
        except BaseException:
            await self._log.drop(message_id)
            raise

        def answer(turns: tuple[Turn, ...]) -> AsyncGenerator[DialogEvent, None]:
            return self._dialogs.chat(
                principal, dialog, turns, options=options, message_id=message_id, session_id=session_id
            )

        self._runner.start(
            RunningTurn(
                stream=message_id,
                session_id=session_id,
                turn=added.turn,
                answer_row=added.answer_row,
                answer=answer,
            )
        )
        return TurnHandle(stream=message_id, message_id=message_id, session_id=session_id)

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

        When its events are no longer there, the end alone comes, made from the row. Leaving changes nothing.
        """
        await self._end_in_row(principal, dialog_id, session_id, message_id)
        try:
            async with aclosing(self._log.follow(message_id, after=after, idle_s=idle_s)) as batches:
                async for batch in batches:
                    after = batch.first_id + len(batch.events) - 1
                    yield batch
        except NotFound:
            end = await self._end_in_row(principal, dialog_id, session_id, message_id)
            yield Batch(first_id=after + 1, events=(end,))

    async def events(
        self, principal: Principal, dialog_id: str, session_id: str, message_id: str, *, after: int = 0
    ) -> AsyncIterator[LoggedEvent]:
        """The events of `follow`, one by one."""
        async with aclosing(self.follow(principal, dialog_id, session_id, message_id, after=after)) as batches:
            async for batch in batches:
                for event_id, event in enumerate(batch.events, batch.first_id):
                    yield LoggedEvent(event_id=event_id, event=event)

    async def _end_in_row(
        self, principal: Principal, dialog_id: str, session_id: str, message_id: str
    ) -> Done | Failed | Stopped:
        return await self._db.run(lambda: end_of(own_answer(principal, dialog_id, session_id, message_id)))

    async def stop_turn(self, principal: Principal, dialog_id: str, session_id: str, message_id: str) -> None:
        """End an answer and keep its text; returns when that is saved. One that has ended stays as it is."""
        await self._end_in_row(principal, dialog_id, session_id, message_id)
        await self._runner.stop(message_id, "stopped")

    async def recover(self) -> int:
        """At start, before turns begin: answers that a dead process left become `interrupted`; how many."""
        return await self._db.write(interrupt_generating)

    async def close(self, timeout_s: float) -> None:
        """End all running answers as `interrupted` and save them, within `timeout_s`."""
        beginning = set(self._beginning)
        if beginning:
            await asyncio.wait(beginning, timeout=timeout_s)
        await self._runner.close(timeout_s)


def _checked(values: Mapping[str, Any]) -> dict[str, str]:
    unknown = sorted(values.keys() - _CHANGEABLE)
    if unknown:
        raise InvalidInput(f"A session's {unknown[0]!r} cannot be changed.", field=unknown[0])
    checked = {key: clean_label(value) if isinstance(value, str) else "" for key, value in values.items()}
    for key, text in checked.items():
        if len(text) > LONGEST_NAME or not isinstance(values[key], str) or (key == "name" and not text):
            raise InvalidInput(f"A session's {key!r} must be a text of 1 to {LONGEST_NAME} characters.", field=key)
    return checked
