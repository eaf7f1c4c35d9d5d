"""Turns of sessions: begun, answered anew, stopped, changed.

A turn is saved before anything else happens, runs without the one who asked, and ends saved: `done`, `failed`,
`stopped` or `interrupted`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from api.db.database import Database
from api.db.services.answer_lease import AnswerLease
from api.db.services.asides import Answered, Asides
from api.db.services.closing import Closing
from api.db.services.dialog_brief import AskOptions
from api.db.services.message_rows import add_turn, mark_stopped, session_records, turns_until
from api.db.services.owned_chats import chat_record, check_answer, own_session, own_session_anywhere
from api.db.services.records import ConversationRecord, GivenMessage
from api.db.services.session_queue import SessionQueue
from api.db.services.turn_ask import Ask, Begun, Dialogs, TurnHandle
from api.db.services.turn_checks import check_new, check_storable, message_id_of, storable, storable_replacement, taken
from api.db.services.turn_edits import question_of, remove_from, remove_turn, turn_of
from api.db.services.turn_options import options_of_json, options_to_json
from api.db.services.turn_reader import TurnReader
from api.db.services.turn_replacing import Replacement, replace_messages
from api.db.services.turn_runner import Past, RunningTurn, TurnRunner
from api.db.tables import Conversation, Message
from rag.core.clock import Clock
from rag.core.errors import Conflict
from rag.core.events import Done, Failed, Started, Stopped
from rag.core.ids import new_message_id
from rag.core.settings import DialogSettings
from rag.core.types import Principal, Turn
from rag.eventlog.base import EventLog


class TurnService(TurnReader):
    """Every method loads by (principal, ids); what is not the principal's is NotFound (kind `chat`, `session` or
    `message`)."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        event_log: EventLog,
        dialog_service: Dialogs,
        settings: DialogSettings,
        *,
        lease: AnswerLease | None = None,
        asides: Asides | None = None,
    ) -> None:
        super().__init__(db, clock, event_log, lease or AnswerLease(db, clock))
        self._dialogs = dialog_service
        self._asides = asides
        self._runner = TurnRunner(db, clock, event_log, save_s=settings.save_s)
        self._queue = SessionQueue()
        self._closing = Closing()

    async def begin_turn(
        self,
        principal: Principal,
        dialog_id: str,
        session_id: str,
        question: str,
        *,
        options: AskOptions | None = None,
        message_id: str = "",
        history: tuple[Turn, ...] | None = None,
        replacement: Replacement | None = None,
    ) -> TurnHandle:
        """Save the question and an empty answer, and start answering.

        Turns of one session are numbered in the order they begin; a later one waits for the one before, for half
        a minute at the most. A caller that is cancelled leaves either nothing or a turn that runs.

        Args:
            message_id: The client's own id of the pair, 1 to 36 characters; empty: one is made.
            history: What was said before, where it is not the stored turns.
            replacement: What the session is to hold before the question. It is put down with the question or not at
                all; running answers from the first change on are stopped.
        Raises:
            Conflict: the server is stopping, the session has a message of that id, or `replacement` would remove a
                turn that the client does not know.
            InvalidInput: field `message_id`: one is too long; or a value of `options` cannot be kept.
        """
        return await self._begun(
            Ask(
                principal=principal,
                dialog_id=dialog_id,
                session_id=session_id,
                question=question,
                options=options or AskOptions(),
                message_id=message_id_of(message_id),
                history=history,
                replacement=replacement and storable_replacement(replacement),
                is_new=not message_id,
            )
        )

    async def regenerate(
        self,
        principal: Principal,
        dialog_id: str,
        session_id: str,
        message_id: str,
        *,
        options: AskOptions | None = None,
    ) -> TurnHandle:
        """Ask the question of `message_id` again: a new pair takes its place, and all later turns are removed.

        Args:
            options: None: those that the question was asked with.
        Raises:
            Conflict: the server is stopping.
        """
        return await self._begun(
            Ask(
                principal=principal,
                dialog_id=dialog_id,
                session_id=session_id,
                message_id=new_message_id(),
                options=options,
                instead_of=message_id,
            )
        )

    async def edit(
        self,
        principal: Principal,
        dialog_id: str,
        session_id: str,
        message_id: str,
        question: str,
        *,
        options: AskOptions | None = None,
    ) -> TurnHandle:
        """Ask `question` in the place of that of `message_id`, as `regenerate` does."""
        return await self._begun(
            Ask(
                principal=principal,
                dialog_id=dialog_id,
                session_id=session_id,
                message_id=new_message_id(),
                question=question,
                options=options,
                instead_of=message_id,
            )
        )

    async def delete_pair(
        self, principal: Principal, dialog_id: str, session_id: str, message_id: str
    ) -> ConversationRecord:
        """Delete a question with its answer, which is stopped if it runs; the session without them. A question that has
        no answer, and an opener that has an id, are deleted alike."""

        def write(session: Conversation) -> None:
            remove_turn(session.id, turn_of(session.id, message_id))

        async def delete() -> ConversationRecord:
            found = await self._changed(principal, dialog_id, session_id, write)
            stream = f"{session_id}/{message_id}"
            await self._runner.stop(stream, "deleted")
            await self._log.drop(stream)
            return found

        return await self._queue.run(principal, session_id, delete)

    async def rate(
        self, principal: Principal, dialog_id: str, session_id: str, message_id: str, *, up: bool, feedback: str = ""
    ) -> ConversationRecord:
        """Note whether the answer was liked, and what was said about it; the session with that."""
        text = storable(feedback)

        def write(session: Conversation) -> None:
            number = check_answer(principal, dialog_id, session.id, message_id)
            Message.update(thumbup=up, feedback=text or None).where(Message.id == number).execute()

        return await self._changed(principal, dialog_id, session_id, write)

    async def replace_messages(
        self, principal: Principal, session_id: str, messages: Sequence[GivenMessage]
    ) -> ConversationRecord:
        """Make the messages those of the session; what is there by id and role keeps its sources, its rating and so on.

        Running answers from the first change on are stopped.

        Raises:
            Conflict: an answer that runs would be removed, and `messages` do not have its question.
            InvalidInput: field `message_id`: one is longer than 36 characters.
        """
        given = storable_replacement(Replacement(messages=tuple(messages)))
        now = self._clock.now().timestamp()

        def write() -> tuple[ConversationRecord, int | None]:
            _, session = own_session_anywhere(principal, session_id)
            cut = replace_messages(session.id, given, now)
            session.update_time = int(now * 1000)
            session.save(only=[Conversation.update_time])
            return session_records([session])[0], cut

        async def replace_all() -> ConversationRecord:
            found, cut = await self._db.write(write)
            await self._stop_from(session_id, cut)
            return found

        return await self._queue.run(principal, session_id, replace_all)

    async def _changed(
        self, principal: Principal, dialog_id: str, session_id: str, change: Callable[[Conversation], None]
    ) -> ConversationRecord:
        """The session after `change`, in one transaction."""
        now = self._clock.now().timestamp()

        def write() -> ConversationRecord:
            _, session = own_session(principal, dialog_id, session_id)
            change(session)
            session.update_time = int(now * 1000)
            session.save(only=[Conversation.update_time])
            return session_records([session])[0]

        return await self._db.write(write)

    async def _begun(self, ask: Ask) -> TurnHandle:
        self._check_open()
        check_storable(ask)
        return await self._queue.run(ask.principal, ask.session_id, lambda: self._begin(ask))

    def _check_open(self) -> None:
        if self._runner.closing:
            raise Conflict("The server is stopping. Ask again in a moment.")

    async def _begin(self, ask: Ask) -> TurnHandle:
        self._check_open()
        now = self._clock.now().timestamp()
        if not ask.is_new:
            await self._db.run(lambda: check_new(ask))
            if self._runner.is_running(ask.stream):
                # Its row was deleted elsewhere. Two that write into one stream of events would end each other's.
                raise taken(ask)
            await self._log.drop(ask.stream)  # An answer of this id may have been deleted a moment ago.
        # The log is begun first, so that whoever can read the row can subscribe.
        await self._log.append(ask.stream, Started(message_id=ask.message_id, session_id=ask.session_id))
        try:
            begun = await self._db.write(lambda: self._written(ask, now))
        except BaseException:
            await self._log.drop(ask.stream)
            raise
        await self._stop_from(ask.session_id, begun.cut)
        self._runner.start(
            RunningTurn(
                stream=ask.stream,
                session_id=ask.session_id,
                turn=begun.added.turn,
                answer_row=begun.added.answer_row,
                past=self._past(ask, begun),
                answer=lambda past: self._dialogs.chat(
                    ask.principal,
                    begun.dialog,
                    past.turns,
                    options=begun.options,
                    message_id=ask.message_id,
                    session_id=ask.session_id,
                    summary=past.summary,
                ),
                on_end=self._on_end(ask, begun),
            )
        )
        return TurnHandle(stream=ask.stream, message_id=ask.message_id, session_id=ask.session_id)

    def _past(self, ask: Ask, begun: Begun) -> Callable[[], Past]:
        """What reads the conversation before the question."""
        if ask.history is not None:
            given = (*ask.history, Turn(role="user", content=begun.question))
            return lambda: Past(turns=given)
        session_id, turn = ask.session_id, begun.added.turn
        read = None
        if self._asides is not None:
            read = self._asides.past(ask.principal.tenant_id, session_id, begun.model)
        return lambda: read(session_id, turn) if read is not None else Past(turns=turns_until(session_id, turn))

    def _on_end(self, ask: Ask, begun: Begun) -> Callable[[Done | Failed | Stopped], None] | None:
        asides = self._asides
        if asides is None or ask.history is not None:
            return None
        answered = Answered(
            tenant_id=ask.principal.tenant_id,
            key_id=ask.principal.key_id,
            dialog_id=begun.dialog.id,
            session_id=ask.session_id,
            message_id=ask.message_id,
            turn=begun.added.turn,
            model=begun.model,
            wants_title=begun.wants_title,
            question=begun.question,
        )
        return lambda end: asides.answered(answered, done=isinstance(end, Done))

    async def _stop_from(self, session_id: str, turn: int | None) -> None:
        """End what runs from `turn` on, whose rows are no longer there to be answered."""
        if turn is not None:
            await self._runner.stop_sessions(frozenset((session_id,)), "deleted", first_turn=turn)

    def _written(self, ask: Ask, now: float) -> Begun:
        """Put the turn down. In a transaction."""
        chat, session = own_session(ask.principal, ask.dialog_id, ask.session_id)
        question, options, cut = ask.question, ask.options, None
        if ask.replacement is not None:
            cut = replace_messages(session.id, ask.replacement, now)
        if ask.instead_of:
            asked = question_of(session.id, ask.instead_of)
            question = asked.content if question is None else question
            options = options_of_json(asked.asked_with) if options is None else options
            cut = int(asked.turn)
            remove_from(session.id, cut)
        options = options or AskOptions()
        text = storable(question or "")
        added = add_turn(
            session.id,
            text,
            ask.message_id,
            created_at=now,
            server_id=self._lease.server_id,
            asked_with=options_to_json(options),
        )
        Conversation.update(update_time=int(now * 1000)).where(Conversation.id == session.id).execute()
        return Begun(
            dialog=chat_record(chat),
            added=added,
            question=text,
            options=replace(options, model=options.model or session.llm_id),
            wants_title=session.auto_title,
            cut=cut,
        )

    async def stop_turn(self, principal: Principal, dialog_id: str, session_id: str, message_id: str) -> None:
        """End an answer and keep its text; returns when that is saved. One that has ended stays as it is.

        Of an answer that another server makes, the text that was saved last is kept.
        """
        number = await self._db.run(lambda: check_answer(principal, dialog_id, session_id, message_id))
        if not await self._runner.stop(f"{session_id}/{message_id}", "stopped"):
            await self._db.write(lambda: mark_stopped(number))

    async def recover(self) -> int:
        """At start, before turns begin: answers that a dead server left become `interrupted`; how many."""
        return await self._lease.begin()

    async def close(self, timeout_s: float) -> None:
        """End all running answers as `interrupted` and save them, within `timeout_s` in all, also if called again."""
        self._runner.end_all()
        parts = (self._queue.settled, lambda: self._runner.close(timeout_s))
        asides = (self._asides.close,) if self._asides is not None else ()
        await self._closing.within(timeout_s, *parts, *asides, self._lease.close)
