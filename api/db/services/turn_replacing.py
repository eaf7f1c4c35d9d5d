"""A list of messages that takes the place of those of a session. For use inside `Database.run` and `Database.write`."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from api.db.services.message_rows import GENERATING
from api.db.services.owned import in_groups
from api.db.services.records import ConversationRecord, GivenMessage
from api.db.services.turn_edits import forget_summaries
from api.db.tables import Message
from rag.core.errors import Conflict

_KEPT = (
    *("status", "reference", "prompt", "error", "thumbup", "feedback", "created_at"),
    *("model", "timings", "asked_with", "server_id"),
)
_MOST_ROWS = 400
_MOST_CHARACTERS = 1 << 20
"""Of one statement that puts rows down."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Replacement:
    """`messages` are to be those of the session. `settled` are the ids of the turns that had ended when the call came:
    of the others, those that `messages` do not have are unknown to the client, and are not removed. None: the
    turns that have ended now."""

    messages: tuple[GivenMessage, ...]
    settled: frozenset[str] | None = None

    @classmethod
    def of(cls, session: ConversationRecord, messages: Iterable[GivenMessage]) -> "Replacement":
        """`session` is what was stored when the call came."""
        running = {each.message_id for each in session.messages if each.status == GENERATING}
        known = {each.message_id for each in session.messages if each.message_id is not None}
        return cls(messages=tuple(messages), settled=frozenset(known - running))


class _Placed(NamedTuple):
    """A message, and where it is or is to be."""

    turn: int
    role: str
    message_id: str | None
    content: str


class _Stored(NamedTuple):
    """A message's row, without what may be long and is not compared."""

    id: int
    status: str
    placed: _Placed


class _Plan(NamedTuple):
    """`cut` is the first turn that is touched, None where all stays."""

    cut: int | None
    gone: list[_Stored]
    new: list[_Placed]


def check_replaceable(session_id: str, replacement: Replacement) -> None:
    """Return if `replace_messages` would do it.

    Raises:
        Conflict: a turn that the client does not know would be removed.
    """
    _plan(session_id, replacement)


def replace_messages(session_id: str, replacement: Replacement, created_at: float) -> int | None:
    """Make the messages those of the session; the first turn that was touched, None where all stays as it is.

    Rows that stay the same are left alone. What is there by id and role keeps all but its text. Answers of touched
    turns that are being made become `stopped`: whoever makes them sees it.

    Raises:
        Conflict: as `check_replaceable`.
    """
    plan = _plan(session_id, replacement)
    if plan.cut is None:
        return None
    kept = _kept_values(plan)
    forget_summaries(session_id, plan.cut)
    for ids in in_groups([row.id for row in plan.gone]):
        Message.delete().where(Message.id.in_(ids)).execute()
    plain = dict.fromkeys(_KEPT) | _DEFAULTS | {"created_at": created_at}
    for group in _groups(plan.new):
        rows = [
            plain | kept.get((each.message_id, each.role), {}) | each._asdict() | {"conversation_id": session_id}
            for each in group
        ]
        Message.insert_many(rows).execute()
    running = (Message.conversation_id == session_id) & (Message.turn >= plan.cut) & (Message.status == GENERATING)
    Message.update(status="stopped").where(running).execute()
    return plan.cut


_DEFAULTS = {"status": "done", "prompt": "", "error": "", "model": "", "server_id": ""}


def _plan(session_id: str, replacement: Replacement) -> _Plan:
    stored = _stored(session_id)
    _check_known(stored, replacement)
    turns = {(row.placed.message_id, row.placed.role): row.placed.turn for row in stored}
    wanted = _placed(replacement.messages, turns)
    same = {row.placed for row in stored} & set(wanted)
    gone = [row for row in stored if row.placed not in same]
    new = [each for each in wanted if each not in same]
    touched = [each.turn for each in (*(row.placed for row in gone), *new)]
    return _Plan(cut=min(touched, default=None), gone=gone, new=new)


def _check_known(stored: Sequence[_Stored], replacement: Replacement) -> None:
    given = {each.message_id for each in replacement.messages}
    settled = replacement.settled
    if settled is None:
        running = {row.placed.message_id for row in stored if row.status == GENERATING}
        settled = frozenset(row.placed.message_id for row in stored if row.placed.message_id) - running
    for message_id in dict.fromkeys(row.placed.message_id for row in stored):
        if message_id is not None and message_id not in given and message_id not in settled:
            raise Conflict(
                "Another question of this conversation is being answered. Ask again when its answer is there.",
                id=message_id,
            )


def _placed(messages: Sequence[GivenMessage], turns: dict[tuple[str | None, str], int]) -> list[_Placed]:
    """Where each message goes: a question begins a turn, so does an answer where the turn has one; an answer before all
    questions is the opener. A turn that is stored keeps its number where it can."""
    placed: list[_Placed] = []
    turn = 0
    taken: set[str] = set()
    for given in messages:
        message_id = given.message_id or None
        if given.role == "user" or given.role in taken:
            turn, taken = max(turn + 1, turns.get((message_id, given.role), 0) if message_id else 0), set()
        taken.add(given.role)
        placed.append(_Placed(turn, given.role, message_id, given.content))
    return placed


def _stored(session_id: str) -> list[_Stored]:
    columns = (Message.id, Message.status, Message.turn, Message.role, Message.message_id, Message.content)
    query = Message.select(*columns).where(Message.conversation_id == session_id)
    rows: Iterable[Any] = query.tuples()
    return [_Stored(number, status, _Placed(*where)) for number, status, *where in rows]


def _kept_values(plan: _Plan) -> dict[tuple[str | None, str], dict[str, Any]]:
    """What the rows that are put down anew had, by id and role."""
    again = {(each.message_id, each.role) for each in plan.new if each.message_id is not None}
    ids = [row.id for row in plan.gone if (row.placed.message_id, row.placed.role) in again]
    kept: dict[tuple[str | None, str], dict[str, Any]] = {}
    for group in in_groups(ids):
        for row in Message.select().where(Message.id.in_(group)):
            kept[row.message_id, row.role] = {name: getattr(row, name) for name in _KEPT}
    return kept


def _groups(rows: Iterable[_Placed]) -> Iterator[list[_Placed]]:
    """`rows` in lists that fit a statement; a row that is long stands alone."""
    group: list[_Placed] = []
    size = 0
    for row in rows:
        if group and (len(group) == _MOST_ROWS or size + len(row.content) > _MOST_CHARACTERS):
            yield group
            group, size = [], 0
        group.append(row)
        size += len(row.content)
    if group:
        yield group
