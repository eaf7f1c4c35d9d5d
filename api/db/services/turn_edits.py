"""Changes to turns that were said already. For use inside `Database.write`.

A summary rests on the turns that it sums up: with one of them, those that cover it go.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from api.db.services.owned import in_groups
from api.db.services.records import GivenMessage
from api.db.tables import Conversation, ConversationSummary, Message
from rag.core.errors import NotFound

_KEPT = (
    *("content", "status", "reference", "prompt", "error", "thumbup", "feedback", "created_at"),
    *("model", "timings", "asked_with", "server_id"),
)


def turn_of(session_id: str, message_id: str) -> int:
    """The number of the turn whose messages have this id.

    Raises:
        NotFound: kind `message`.
    """
    return int(question_of(session_id, message_id).turn)


def question_of(session_id: str, message_id: str) -> Message:
    """The user's message of that id.

    Raises:
        NotFound: kind `message`.
    """
    own = (Message.conversation_id == session_id) & (Message.message_id == message_id) & (Message.role == "user")
    row: Message | None = Message.get_or_none(own)
    if row is None:
        raise NotFound("message", message_id)
    return row


def remove_from(session_id: str, turn: int) -> None:
    """Delete `turn` and all later ones."""
    Message.delete().where((Message.conversation_id == session_id) & (Message.turn >= turn)).execute()
    forget_summaries(session_id, turn)


def remove_turn(session_id: str, turn: int) -> None:
    """Delete a question and its answer."""
    Message.delete().where((Message.conversation_id == session_id) & (Message.turn == turn)).execute()
    forget_summaries(session_id, turn)


def forget_summaries(session_id: str, turn: int) -> None:
    """Delete the summaries that cover `turn`."""
    covers = (ConversationSummary.conversation_id == session_id) & (ConversationSummary.turn >= turn)
    ConversationSummary.delete().where(covers).execute()


@dataclass(frozen=True, slots=True)
class _Placed:
    turn: int
    given: GivenMessage


def first_change(session_id: str, messages: Sequence[GivenMessage]) -> int | None:
    """The first turn that `replace_messages` would touch, None where all stay as they are."""
    wanted, stored = _placed(messages), _stored(session_id)
    same = _same(wanted, stored)
    if same == len(wanted) == len(stored):
        return None
    left = [*(each.turn for each in wanted[same : same + 1]), *(row.turn for row in stored[same : same + 1])]
    return int(min(left))


def replace_messages(session: Conversation, messages: Sequence[GivenMessage], created_at: float) -> None:
    """Make `messages` those of the session. What is there already, by id and role, keeps all but its text."""
    wanted, stored = _placed(messages), _stored(session.id)
    same = _same(wanted, stored)
    if same == len(wanted) == len(stored):
        return
    known = {(row.message_id, row.role): row for row in stored[same:]}
    left = [row.id for row in stored[same:]]
    if left:
        forget_summaries(session.id, min(row.turn for row in stored[same:]))
        for group in in_groups(left):
            Message.delete().where(Message.id.in_(group)).execute()
    for each in wanted[same:]:
        given = each.given
        old = known.get((given.message_id, given.role)) if given.message_id else None
        values: dict[str, Any] = {name: getattr(old, name) for name in _KEPT} if old is not None else {}
        values = {"created_at": created_at} | values | {"content": given.content}
        Message.create(
            conversation_id=session.id,
            turn=each.turn,
            role=given.role,
            message_id=given.message_id or None,
            **values,
        )


def _placed(messages: Sequence[GivenMessage]) -> list[_Placed]:
    """Where each message goes: a question begins a turn, so does an answer where the turn has one; an answer before all
    questions is the opener."""
    placed: list[_Placed] = []
    turn = 0
    taken: set[str] = set()
    for given in messages:
        if given.role == "user" or given.role in taken:
            turn, taken = turn + 1, set()
        taken.add(given.role)
        placed.append(_Placed(turn, given))
    return placed


def _stored(session_id: str) -> list[Message]:
    query = Message.select().where(Message.conversation_id == session_id)
    return list(query.order_by(Message.turn, Message.role.desc()))


def _same(wanted: Sequence[_Placed], stored: Sequence[Message]) -> int:
    """How many messages at the beginning are the same."""
    count = 0
    for each, row in zip(wanted, stored, strict=False):
        given = each.given
        one = (each.turn, given.role, given.message_id or None, given.content)
        if one != (row.turn, row.role, row.message_id, row.content):
            break
        count += 1
    return count
