"""One turn in full, as it leaves `api/db`."""

from dataclasses import dataclass

from api.db.services.message_rows import message_record
from api.db.services.message_usage import MessageUsage
from api.db.services.records import MessageRecord
from api.db.tables import Message


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnRecord:
    """A question and its answer. `question` is None where the session was given an answer without one; `prompt` is what
    the model was asked with, for the debug view."""

    session_id: str
    message_id: str
    question: MessageRecord | None
    answer: MessageRecord
    prompt: str
    usage: MessageUsage


def question_before(answer: Message) -> Message | None:
    """The user's message of the answer's turn."""
    same = (Message.conversation_id == answer.conversation_id) & (Message.turn == answer.turn)
    row: Message | None = Message.get_or_none(same & (Message.role == "user"))
    return row


def turn_record(answer: Message, question: Message | None, usage: MessageUsage) -> TurnRecord:
    """The rows of a turn together."""
    return TurnRecord(
        session_id=answer.conversation_id,
        message_id=answer.message_id or "",
        question=message_record(question) if question is not None else None,
        answer=message_record(answer),
        prompt=answer.prompt,
        usage=usage,
    )
