"""Changes to turns that were said already. For use inside `Database.write`.

A summary rests on the turns that it sums up: with one of them, those that cover it go.
"""

from api.db.tables import ConversationSummary, Message
from rag.core.errors import NotFound


def turn_of(session_id: str, message_id: str) -> int:
    """The number of the turn with a message of this id: its question, its answer, or an opener that has one.

    Raises:
        NotFound: kind `message`.
    """
    own = (Message.conversation_id == session_id) & (Message.message_id == message_id)
    number = Message.select(Message.turn).where(own).order_by(Message.turn).limit(1).scalar()
    if number is None:
        raise NotFound("message", message_id)
    return int(number)


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
