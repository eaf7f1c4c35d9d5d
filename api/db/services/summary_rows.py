"""Saved summaries of sessions, and what of a conversation is to be summed up. For use inside `Database.run` and
`Database.write`.

A prompt has the newest saved summary and the turns since. Sums are made of whole turns, and extended: a new one reads
the one before it and the turns that follow.
"""

from dataclasses import dataclass

from api.db.services.message_rows import turns_until
from api.db.services.turn_runner import Past
from api.db.tables import ConversationSummary, Message
from rag.core.types import Turn

SUMMED_UP_BEYOND = 15
"""Messages since the last summary: with more, the older ones are summed up."""
_KEPT_TURNS = 6
"""Turns that stay as they are then: a summary is made every second turn, and the prompt's history hardly changes."""
_MOST_READ = 80
"""Messages that one summary reads at most, the latest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unsummed:
    """What is to be summed up: `turns` follow on what `before` sums up; `turn` and `message_id` are the last one's.

    `first_turn` and `messages` tell whether it is still all the same when the summary is there.
    """

    before: str
    turns: tuple[Turn, ...]
    first_turn: int
    turn: int
    message_id: str
    messages: int


def summed_past(session_id: str, turn: int) -> Past:
    """The conversation up to the question of `turn`, with the newest summary that does not cover it."""
    row = _newest(session_id, turn - 1)
    if row is None:
        return Past(turns=turns_until(session_id, turn))
    return Past(turns=turns_until(session_id, turn, after=row.turn), summary=row.content)


def recent_past(session_id: str, turn: int) -> Past:
    """The conversation up to the question of `turn`, without its oldest turns."""
    return Past(turns=turns_until(session_id, turn, most=SUMMED_UP_BEYOND))


def unsummed(session_id: str) -> Unsummed | None:
    """What the session's next summary is to be made of; None while there is little since the last one."""
    last = _newest(session_id)
    begin = last.turn + 1 if last is not None else 1
    rows = list(_messages(session_id, begin))
    if len(rows) <= SUMMED_UP_BEYOND:
        return None
    numbers = sorted({row.turn for row in rows})[:-_KEPT_TURNS]
    if not numbers:
        return None
    folded = [row for row in rows if row.turn <= numbers[-1]]
    if any(row.status == "generating" for row in folded):
        return None
    return Unsummed(
        before=last.content if last is not None else "",
        turns=_said(folded[-_MOST_READ:]),
        first_turn=begin,
        turn=numbers[-1],
        message_id=folded[-1].message_id or "",
        messages=len(folded),
    )


def save_summary(session_id: str, made_of: Unsummed, content: str, created_ms: int) -> bool:
    """Keep a summary; False if its turns have changed meanwhile, or another one was faster."""
    rows = [row for row in _messages(session_id, made_of.first_turn) if row.turn <= made_of.turn]
    if len(rows) != made_of.messages or (rows[-1].message_id or "") != made_of.message_id:
        return False
    newest = _newest(session_id)
    if newest is not None and newest.turn >= made_of.first_turn:
        return False
    ConversationSummary.create(
        conversation_id=session_id,
        turn=made_of.turn,
        message_id=made_of.message_id,
        content=content,
        create_time=created_ms,
    )
    return True


def _newest(session_id: str, up_to: int | None = None) -> ConversationSummary | None:
    own = ConversationSummary.conversation_id == session_id
    if up_to is not None:
        own &= ConversationSummary.turn <= up_to
    query = ConversationSummary.select().where(own).order_by(ConversationSummary.turn.desc())
    row: ConversationSummary | None = query.first()
    return row


def _said(rows: list[Message]) -> tuple[Turn, ...]:
    """What was said in these; empty messages are left out."""
    query = Message.select(Message.role, Message.content).where(Message.id.in_([row.id for row in rows]))
    return tuple(
        Turn(role="user" if row.role == "user" else "assistant", content=row.content)
        for row in query.order_by(Message.turn, Message.role.desc())
        if row.content
    )


def _messages(session_id: str, begin: int) -> list[Message]:
    """Without their texts: there may be ten thousand."""
    columns = (Message.id, Message.turn, Message.role, Message.message_id, Message.status)
    query = Message.select(*columns).where((Message.conversation_id == session_id) & (Message.turn >= begin))
    return list(query.order_by(Message.turn, Message.role.desc()))
