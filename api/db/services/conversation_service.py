"""Sessions: conversations with a chat assistant. Their turns are the matter of `turn_service`."""

from collections.abc import Mapping, Sequence
from typing import Any

from api.db.services.message_rows import add_opener, delete_sessions, session_records
from api.db.services.names import clean_label
from api.db.services.owned import in_groups, split_duplicates
from api.db.services.owned_chats import own_chat, own_session, own_session_anywhere, source_of
from api.db.services.records import BatchResult, ConversationRecord, Page
from api.db.services.row_pages import page_of
from api.db.services.turn_ask import TurnHandle
from api.db.services.turn_service import TurnService
from api.db.tables import Conversation
from rag.core.clock import now_ms
from rag.core.errors import Conflict, InvalidInput
from rag.core.ids import new_id
from rag.core.types import Principal
from rag.eventlog.base import Batch, LoggedEvent

__all__ = ["Batch", "ConversationService", "LoggedEvent", "TurnHandle"]


LONGEST_NAME = 255
_LONGEST_ID = 32
_MAY_BE_EMPTY = frozenset(("user_id", "llm_id"))
_CHANGEABLE = _MAY_BE_EMPTY | {"name"}

Records = list[ConversationRecord]


class ConversationService(TurnService):
    """Every method loads by (principal, ids); what is not the principal's is NotFound (kind `chat`, `session` or
    `message`). Sessions of share tokens are apart: those see no others, and the others not them."""

    async def create(
        self,
        principal: Principal,
        dialog_id: str,
        *,
        name: str = "New session",
        user_id: str = "",
        session_id: str = "",
        auto_title: bool = False,
    ) -> ConversationRecord:
        """Make a session; its first message is the chat's opener.

        Args:
            session_id: The client's own id, 1 to 32 characters; empty: one is made.
            auto_title: Whether the first answer gives the session a name, unless it is named before.
        Raises:
            InvalidInput: field `name`, `user_id` or `session_id`: empty or too long.
            Conflict: there is a session of that id.
        """
        values = _checked({"name": name, "user_id": user_id})
        if len(session_id) > _LONGEST_ID:
            raise InvalidInput(f"A session's id has at most {_LONGEST_ID} characters.", field="session_id")

        def write() -> ConversationRecord:
            chat = own_chat(principal, dialog_id)
            if session_id and Conversation.get_or_none(Conversation.id == session_id) is not None:
                raise Conflict(f"There is a session {session_id!r}. Choose another id.", id=session_id)
            now = now_ms(self._clock)
            row = Conversation.create(
                id=session_id or new_id(),
                source=source_of(principal),
                auto_title=auto_title,
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
            kept = (Conversation.dialog_id == chat.id) & (Conversation.source == source_of(principal))
            query = Conversation.select().where(kept)
            for column, wanted in ((Conversation.id, id), (Conversation.name, name), (Conversation.user_id, user_id)):
                if wanted:
                    query = query.where(column == wanted)
            rows, _ = page_of(query, Conversation, ConversationRecord, page)
            return session_records(rows)

        return await self._db.run(read)

    async def get(self, principal: Principal, dialog_id: str, session_id: str) -> ConversationRecord:
        """A session with its messages."""
        return await self._db.run(lambda: session_records([own_session(principal, dialog_id, session_id)[1]])[0])

    async def find(self, principal: Principal, session_id: str) -> ConversationRecord:
        """A session with its messages, in whichever chat of the principal."""
        return await self._db.run(lambda: session_records([own_session_anywhere(principal, session_id)[1]])[0])

    async def update(
        self, principal: Principal, dialog_id: str, session_id: str, changes: Mapping[str, Any]
    ) -> ConversationRecord:
        """Store a new `name`, `user_id` or `llm_id` (empty: the chat's model); nothing in `changes` only touches the
        time of the last change. A model that is not known is an error of the messages it is asked for.

        Raises:
            InvalidInput: another field, or a value that cannot be stored; fact `field` names it.
        """
        values = _checked(changes)

        def write() -> ConversationRecord:
            _, row = own_session(principal, dialog_id, session_id)
            for key, value in values.items():
                setattr(row, key, value)
            if "name" in values:
                row.auto_title = False
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
            kept = (Conversation.dialog_id == chat.id) & (Conversation.source == source_of(principal))
            query = Conversation.select(Conversation.id).where(kept)
            found = [row.id for row in query.order_by(Conversation.create_time)]
            mine = frozenset(found)
            done = found if ids is None else [each for each in wanted if each in mine]
            delete_sessions(done)
            return done

        done = await self._db.write(write)
        # A turn that was put down a moment before may not run yet.
        await self._queue.settled()
        await self._runner.stop_sessions(frozenset(done), "deleted")
        unknown = tuple(each for each in wanted if each not in frozenset(done))
        return BatchResult(done=tuple(done), unknown=unknown, duplicates=duplicates)

    async def stop_chats(self, chat_ids: Sequence[str]) -> None:
        """End the answers in all sessions of these chats, which have been deleted; returns when they are saved."""
        # Those that were put down before the chats were deleted run when this ends; the others begin no more.
        await self._queue.settled()

        def read() -> frozenset[str]:
            found: set[str] = set()
            for group in in_groups(chat_ids):
                rows = Conversation.select(Conversation.id).where(Conversation.dialog_id.in_(group))
                found.update(row.id for row in rows)
            return frozenset(found)

        await self._runner.stop_sessions(await self._db.run(read), "deleted")


def _checked(values: Mapping[str, Any]) -> dict[str, str]:
    unknown = sorted(values.keys() - _CHANGEABLE)
    if unknown:
        raise InvalidInput(f"A session's {unknown[0]!r} cannot be changed.", field=unknown[0])
    checked = {key: clean_label(value) if isinstance(value, str) else "" for key, value in values.items()}
    for key, text in checked.items():
        if len(text) > LONGEST_NAME or not isinstance(values[key], str) or (key not in _MAY_BE_EMPTY and not text):
            raise InvalidInput(f"A session's {key!r} must be a text of 1 to {LONGEST_NAME} characters.", field=key)
    return checked
