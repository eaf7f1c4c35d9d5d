"""The one way to a chat assistant and to a session: by the principal and the id. Foreign and absent look the same.

For use inside `Database.run` and `Database.write`.
"""

from dataclasses import fields
from typing import Any

from api.db.lookup import Lookup
from api.db.services.names import normalise
from api.db.services.records import DialogRecord
from api.db.tables import Conversation, Dialog, Message
from rag.core.errors import NotFound
from rag.core.types import Principal, Scope

LIVE = "1"
DELETED = "0"


def live_chats(principal: Principal) -> Any:
    """The condition for the principal's chats that are not deleted."""
    return (Dialog.tenant_id == principal.tenant_id) & (Dialog.status == LIVE)


_OWN_CHAT = Lookup(
    Dialog,
    lambda tenant_id, dialog_id: Dialog.select().where(
        (Dialog.tenant_id == tenant_id) & (Dialog.status == LIVE) & (Dialog.id == dialog_id)
    ),
    2,
)
_NAMED_CHAT = Lookup(
    Dialog,
    lambda tenant_id, name: Dialog.select().where(
        (Dialog.tenant_id == tenant_id) & (Dialog.status == LIVE) & (Dialog.live_name == name)
    ),
    2,
)


def own_chat(principal: Principal, dialog_id: str) -> Dialog:
    """The principal's chat.

    Raises:
        NotFound: kind `chat`: there is none, it was deleted, or it is another tenant's.
    """
    row = _OWN_CHAT.first(principal.tenant_id, dialog_id)
    if row is None:
        raise NotFound("chat", dialog_id)
    return row


def chat_named(principal: Principal, name: str) -> Dialog:
    """The principal's chat of that name, compared normalised.

    Raises:
        NotFound: kind `chat`, as `own_chat`.
    """
    row = _NAMED_CHAT.first(principal.tenant_id, normalise(name)) if name else None
    if row is None:
        raise NotFound("chat", name)
    return row


def own_session(principal: Principal, dialog_id: str, session_id: str) -> tuple[Dialog, Conversation]:
    """The principal's chat and the session in it.

    Raises:
        NotFound: kind `session`, there is none in that chat; kind `chat`, there is, but the chat was deleted.
    """
    row = Conversation.get_or_none(
        _of(principal) & (Conversation.id == session_id) & (Conversation.dialog_id == dialog_id)
    )
    if row is None:
        raise NotFound("session", session_id)
    return own_chat(principal, dialog_id), row


def own_session_anywhere(principal: Principal, session_id: str) -> tuple[Dialog, Conversation]:
    """The session in whichever chat of the principal, and that chat.

    Raises:
        NotFound: kind `session`: there is none, its chat was deleted, or it is another tenant's.
    """
    row = Conversation.get_or_none(_of(principal) & (Conversation.id == session_id))
    chat = _OWN_CHAT.first(principal.tenant_id, row.dialog_id) if row is not None else None
    if row is None or chat is None:
        raise NotFound("session", session_id)
    return chat, row


def source_of(principal: Principal) -> str:
    """Where the principal's sessions are kept: those of a share token, which is public, are apart from all others."""
    return "share" if principal.scope is Scope.SHARE else "api"


def _of(principal: Principal) -> Any:
    return (Conversation.tenant_id == principal.tenant_id) & (Conversation.source == source_of(principal))


def own_answer(principal: Principal, dialog_id: str, session_id: str, message_id: str) -> Message:
    """The assistant's message of that id in the session.

    Raises:
        NotFound: kind `chat`, `session` or `message`.
    """
    row = Message.get_or_none(Message.id == check_answer(principal, dialog_id, session_id, message_id))
    if row is None:
        raise NotFound("message", message_id)
    return row


def check_answer(principal: Principal, dialog_id: str, session_id: str, message_id: str) -> int:
    """The number of that message's row, without what is in it: an answer may be long, and looked for often.

    Raises:
        NotFound: as `own_answer`.
    """
    _, session = own_session(principal, dialog_id, session_id)
    own = (Message.message_id == message_id) & (Message.conversation_id == session.id) & (Message.role == "assistant")
    number = Message.select(Message.id).where(own).scalar()
    if number is None:
        raise NotFound("message", message_id)
    return int(number)


def chat_record(row: Dialog) -> DialogRecord:
    """The row as it leaves `api/db`."""
    values = {each.name: getattr(row, each.name) for each in fields(DialogRecord)}
    values["dataset_ids"] = tuple(values["dataset_ids"] or ())
    return DialogRecord(**values)
