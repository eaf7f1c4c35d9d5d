"""Sessions and their messages on the wire (sessions.md sections 1 and 2)."""

from typing import Any

from api.apps.envelope import times
from api.apps.wire_reference import stored_chunk_wire
from api.db.services.records import ConversationRecord, MessageRecord


def session_wire(session: ConversationRecord, *, folded: bool) -> dict[str, Any]:
    """A session object; `llm_id` is ours and only there where the session has a model of its own.

    Args:
        folded: Whether answers carry their references, as in the list; a new session's do not.
    """
    own = {"llm_id": session.llm_id} if session.llm_id else {}
    return (
        {
            "id": session.id,
            "chat_id": session.dialog_id,
            "name": session.name,
            "user_id": session.user_id,
            "messages": [message_wire(message, folded=folded) for message in session.messages],
        }
        | own
        | times(session.create_time, session.update_time)
    )


def message_wire(message: MessageRecord, *, folded: bool) -> dict[str, Any]:
    """A message; `status` is ours and only there when the answer is not simply done."""
    wire: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.message_id is not None:
        wire["id"] = message.message_id
    if message.role != "user":
        if message.turn > 0:
            wire["created_at"] = message.created_at
        if folded:
            chunks = message.reference.chunks if message.reference else ()
            wire["reference"] = [stored_chunk_wire(chunk) for chunk in chunks]
        if message.status != "done":
            wire["status"] = message.status
    if message.thumbup is not None:
        wire["thumbup"] = message.thumbup
    if message.feedback is not None:
        wire["feedback"] = message.feedback
    return wire
