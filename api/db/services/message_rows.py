"""The rows of sessions and their messages. For use inside `Database.run` and `Database.write`.

A turn is two rows of one message id: the user's message, and the assistant's, which is `generating` until its end.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import peewee

from api.db.services.owned import in_groups
from api.db.services.records import ConversationRecord, MessageRecord, MessageStatus
from api.db.services.references import reference_of_json, reference_to_json
from api.db.tables import Conversation, ConversationSummary, Message
from rag.core.errors import Conflict
from rag.core.events import Done, Failed, Stopped
from rag.core.types import Reference, Turn

GENERATING = "generating"
_LONGEST_MODEL = Message.model.max_length
_HISTORY_MESSAGES = 40
"""Messages before a question that are looked at; how many the model gets is a matter of its budget."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewTurn:
    """Where a turn was put down: its number and the row of its answer."""

    turn: int
    answer_row: int


def add_opener(session: Conversation, text: str, created_at: float) -> None:
    """The assistant's first message: turn 0, without an id."""
    Message.create(conversation_id=session.id, turn=0, role="assistant", content=text, created_at=created_at)


def has_message(session_id: str, message_id: str) -> bool:
    """Whether a message of the session has this id."""
    return Message.select().where((Message.conversation_id == session_id) & (Message.message_id == message_id)).exists()


def add_turn(
    session_id: str, question: str, message_id: str, *, created_at: float, server_id: str = "", asked_with: Any = None
) -> NewTurn:
    """Put down the user's message and an empty answer, after all others of the session.

    Raises:
        Conflict: a message of the session has this id.
    """
    if has_message(session_id, message_id):
        raise Conflict(f"There is a message {message_id!r} in this session. Choose another id.", id=message_id)
    last = Message.select(peewee.fn.MAX(Message.turn)).where(Message.conversation_id == session_id).scalar()
    turn = (last or 0) + 1
    common = {"conversation_id": session_id, "turn": turn, "message_id": message_id, "created_at": created_at}
    Message.create(role="user", content=question, asked_with=asked_with, **common)
    answer = Message.create(role="assistant", status=GENERATING, server_id=server_id, **common)
    return NewTurn(turn=turn, answer_row=int(answer.id))


def turns_until(session_id: str, turn: int, *, after: int = -1, most: int = _HISTORY_MESSAGES) -> tuple[Turn, ...]:
    """The latest messages of the session up to the question of `turn`, which is the last; empty ones left out.

    Args:
        after: Only those of later turns than this one.
        most: Of the messages before the question.
    """
    before = (Message.turn < turn) | ((Message.turn == turn) & (Message.role == "user"))
    query = (
        Message.select(Message.turn, Message.role, Message.content)
        .where((Message.conversation_id == session_id) & (Message.turn > after) & before)
        .order_by(Message.turn.desc(), Message.role.asc())  # Downwards the answer comes before its question.
        .limit(most + 1)
    )
    rows = list(query)[::-1]
    return tuple(
        Turn(role="user" if row.role == "user" else "assistant", content=row.content)
        for row in rows
        if row.content or row.turn == turn
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Partial:
    """What a running answer has said so far; `reference` only if it is to be stored now."""

    text: str
    reference: Reference | None = None


def save_partial(partials: Mapping[int, Partial]) -> None:
    """Store running answers as they are, by row; what has ended is left alone."""
    for answer_row, partial in partials.items():
        values: dict[str, Any] = {"content": partial.text}
        if partial.reference is not None:
            values["reference"] = reference_to_json(partial.reference)
        Message.update(**values).where((Message.id == answer_row) & (Message.status == GENERATING)).execute()


def ended_elsewhere(answer_rows: Collection[int]) -> frozenset[int]:
    """Those of these rows, whose answers are being made here, that are gone, or that another server ended."""
    going_on: set[int] = set()
    for group in in_groups(answer_rows):
        own = Message.id.in_(group) & Message.status.in_((GENERATING, "interrupted"))
        going_on.update(int(row.id) for row in Message.select(Message.id).where(own))
    return frozenset(answer_rows) - going_on


def mark_stopped(answer_row: int) -> None:
    """End an answer that another server makes: that one sees it when it looks at the row."""
    running = (Message.id == answer_row) & (Message.status == GENERATING)
    Message.update(status="stopped").where(running).execute()


def save_end(
    answer_row: int, end: Done | Failed | Stopped, *, cited: Reference | None, model: str, created_at: float
) -> bool:
    """Store how an answer ended; False if its row is gone or has ended already.

    Args:
        cited: The sources that the text of an answer cites which was not completed.
        model: The one that answered, empty where that is not known.
    """
    values: dict[str, Any] = {"content": end.answer, "created_at": created_at, "model": model[:_LONGEST_MODEL]}
    match end:
        case Done():
            values |= {"status": "done", "prompt": end.prompt, "reference": reference_to_json(end.reference)}
            values["timings"] = end.timings_ms or None
            values["created_at"] = end.created_at or created_at
        case Failed():
            values |= {"status": "failed", "error": f"{end.code}: {end.message}"}
        case Stopped():
            values |= {"status": "interrupted" if end.reason == "interrupted" else "stopped"}
    if cited is not None:
        values["reference"] = reference_to_json(cited)
    # Only the server that makes an answer ends it: that another one gave it up for interrupted was too early.
    row = (Message.id == answer_row) & Message.status.in_((GENERATING, "interrupted"))
    return bool(Message.update(**values).where(row).execute())


def end_of(row: Message) -> Done | Failed | Stopped:
    """The event an answer ended with, from its row; one that is still generating counts as interrupted."""
    if row.status == "done":
        reference = reference_of_json(row.reference) or Reference()
        return Done(answer=row.content, reference=reference, prompt=row.prompt, created_at=row.created_at)
    if row.status == "failed":
        code, _, message = row.error.partition(": ")
        return Failed(code=code or "internal", message=message, answer=row.content)
    return Stopped(answer=row.content, reason="stopped" if row.status == "stopped" else "interrupted")


def delete_sessions(ids: Iterable[str]) -> None:
    """Delete sessions, their messages and summaries."""
    for group in in_groups(ids):
        Message.delete().where(Message.conversation_id.in_(group)).execute()
        ConversationSummary.delete().where(ConversationSummary.conversation_id.in_(group)).execute()
        Conversation.delete().where(Conversation.id.in_(group)).execute()


def session_records(rows: Sequence[Conversation]) -> list[ConversationRecord]:
    """The sessions with their messages, in order."""
    messages: dict[str, list[MessageRecord]] = {row.id: [] for row in rows}
    for group in in_groups(messages):
        query = Message.select().where(Message.conversation_id.in_(group))
        # Within a turn the question comes before its answer.
        for row in query.order_by(Message.conversation_id, Message.turn, Message.role.desc()):
            messages[row.conversation_id].append(message_record(row))
    return [
        ConversationRecord(
            id=row.id,
            dialog_id=row.dialog_id,
            tenant_id=row.tenant_id,
            name=row.name,
            user_id=row.user_id,
            messages=tuple(messages[row.id]),
            create_time=row.create_time,
            update_time=row.update_time,
            llm_id=row.llm_id,
            source=row.source,
            auto_title=row.auto_title,
        )
        for row in rows
    ]


def message_record(row: Message) -> MessageRecord:
    """The row as it leaves `api/db`."""
    return MessageRecord(
        role=row.role,
        content=row.content,
        turn=row.turn,
        status=cast(MessageStatus, row.status),
        message_id=row.message_id,
        created_at=row.created_at,
        reference=reference_of_json(row.reference),
        error=row.error,
        thumbup=row.thumbup,
        feedback=row.feedback,
        model=row.model,
        timings_ms=row.timings or {},
    )
