"""Sends of one session that come at once, that are repeated, and that are refused."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from api.db.services import turn_checks, turn_service
from api.db.services.dialog_service import AskOptions
from api.db.services.records import ConversationRecord, GivenMessage
from api.db.services.turn_ask import TurnHandle
from api.db.services.turn_replacing import Replacement
from api.db.tables import Message
from rag.core.errors import Conflict, InvalidInput, NotFound, RagError, StoreUnavailable
from rag.core.events import Done, Stopped, Token
from tests.unit.api.db.services.talk import Talk, chatter
from tests.unit.api.db.services.world import ANN, BOB, World

SLOW = "one two three four five six seven eight nine ten"


@pytest.fixture
async def talk(world: World) -> AsyncIterator[Talk]:
    made = Talk(world, chatter(lambda request: f"About {request.turns[-1].content}"))
    yield made
    await made.sessions.close(5)


@pytest.fixture
async def slow(world: World) -> AsyncIterator[Talk]:
    made = Talk(world, chatter(SLOW, wait_s=0.05))
    yield made
    await made.sessions.close(5)


async def events(talk: Talk, session: ConversationRecord, message_id: str) -> list[Any]:
    found = talk.sessions.events(ANN, session.dialog_id, session.id, message_id)
    return [logged.event async for logged in found]


async def stored(talk: Talk, session: ConversationRecord) -> list[tuple[str, str, str]]:
    found = await talk.sessions.find(ANN, session.id)
    return [(each.role, each.message_id or "", each.content) for each in found.messages if each.turn]


async def send(talk: Talk, seen: ConversationRecord, question: str, message_id: str, **more: Any) -> TurnHandle:
    """As a page does it that saw `seen`: with all that was said."""
    said = [
        GivenMessage(role=each.role, content=each.content, message_id=each.message_id or "") for each in seen.messages
    ]
    messages = more.pop("messages", said)
    return await talk.sessions.begin_turn(
        ANN,
        seen.dialog_id,
        seen.id,
        question,
        message_id=message_id,
        replacement=Replacement.of(seen, messages),
        **more,
    )


async def a_pair(talk: Talk) -> ConversationRecord:
    """A session in which one question was answered."""
    _, session = await talk.session()
    await send(talk, session, "a", "q1")
    assert isinstance((await events(talk, session, "q1"))[-1], Done)
    return await talk.sessions.find(ANN, session.id)


def broken(*_: Any, **__: Any) -> Any:
    raise StoreUnavailable("gone")


@pytest.mark.parametrize("why", ["id", "long id", "options", "rows"])
async def test_a_refused_send_changes_nothing(talk: Talk, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    session = await a_pair(talk)
    before = await stored(talk, session)
    new = [GivenMessage(role="user", content="changed", message_id="q0")]
    options, message_id = AskOptions(), {"id": "q0", "long id": "q" * 37}.get(why, "q2")
    if why == "options":
        options = replace(options, quote=False, variables={"x": 1}, document_ids=("d",))
        monkeypatch.setattr(turn_checks, "check_options", unkept)
    if why == "rows":
        monkeypatch.setattr(turn_service, "add_turn", broken)
    with pytest.raises((Conflict, InvalidInput, StoreUnavailable)):
        await send(talk, session, "b", message_id, messages=new, options=options)
    assert await stored(talk, session) == before


def unkept(_: AskOptions) -> None:
    raise InvalidInput("A value cannot be kept as JSON.")


async def test_a_refused_send_stops_nothing(slow: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    _, session = await slow.session()
    await send(slow, session, "a", "q1")
    monkeypatch.setattr(turn_service, "add_turn", broken)
    changed = [GivenMessage(role="user", content="z", message_id="q1")]
    for message_id in ("q1", "q2"):
        with pytest.raises((Conflict, StoreUnavailable)):
            await send(slow, session, "b", message_id, messages=changed)
    end = (await events(slow, session, "q1"))[-1]
    assert isinstance(end, Done)
    assert end.answer == SLOW


@pytest.mark.parametrize("apart_s", [0, 0.002, 0.008, 0.016])
async def test_the_same_send_twice_is_asked_once(slow: Talk, apart_s: float) -> None:
    _, session = await slow.session()

    async def again() -> TurnHandle:
        await asyncio.sleep(apart_s)
        seen = await slow.sessions.find(ANN, session.id)
        return await send(slow, seen, "a", "q1", messages=[])

    first, second = await asyncio.gather(send(slow, session, "a", "q1"), again(), return_exceptions=True)
    assert isinstance(first, TurnHandle)
    assert isinstance(second, Conflict)
    assert isinstance((await events(slow, session, "q1"))[-1], Done)
    assert await stored(slow, session) == [("user", "q1", "a"), ("assistant", "q1", SLOW)]


@pytest.mark.parametrize("apart_s", [0, 0.01, 0.2])
async def test_two_sends_at_once_lose_no_question(slow: Talk, apart_s: float) -> None:
    """The second does not know of the first, whether that began just now or is in the middle of its answer."""
    _, session = await slow.session()

    async def other() -> TurnHandle:
        await asyncio.sleep(apart_s)
        seen = await slow.sessions.find(ANN, session.id)
        return await send(slow, seen, "b", "q2", messages=[])

    first, second = await asyncio.gather(send(slow, session, "a", "q1"), other(), return_exceptions=True)
    assert isinstance(first, TurnHandle)
    assert isinstance(second, Conflict)
    assert "being answered" in second.message
    assert isinstance((await events(slow, session, "q1"))[-1], Done)
    assert await stored(slow, session) == [("user", "q1", "a"), ("assistant", "q1", SLOW)]
    # Once it is there the page may put another in its place.
    seen = await slow.sessions.find(ANN, session.id)
    await send(slow, seen, "b", "q2", messages=[])
    assert isinstance((await events(slow, session, "q2"))[-1], Done)
    assert await stored(slow, session) == [("user", "q2", "b"), ("assistant", "q2", SLOW)]


async def test_a_turn_that_came_after_the_call_is_not_removed(talk: Talk) -> None:
    session = await a_pair(talk)
    await send(talk, session, "b", "q2")
    assert isinstance((await events(talk, session, "q2"))[-1], Done)
    with pytest.raises(Conflict):
        await send(talk, session, "c", "q3")
    assert [each[1] for each in await stored(talk, session)] == ["q1", "q1", "q2", "q2"]


async def test_a_known_answer_is_stopped_where_its_text_is_replaced(slow: Talk) -> None:
    _, session = await slow.session()
    await send(slow, session, "a", "q1")
    await asyncio.sleep(0.15)
    seen = await slow.sessions.find(ANN, session.id)
    said = [
        GivenMessage(role="user", content="a", message_id="q1"),
        GivenMessage(role="assistant", content="one", message_id="q1"),
    ]
    ran = asyncio.create_task(events(slow, session, "q1"))
    await asyncio.sleep(0)
    await send(slow, seen, "b", "q2", messages=said)
    assert isinstance((await ran)[-1], Stopped)
    assert isinstance((await events(slow, session, "q2"))[-1], Done)
    assert await stored(slow, session) == [
        ("user", "q1", "a"),
        ("assistant", "q1", "one"),
        ("user", "q2", "b"),
        ("assistant", "q2", SLOW),
    ]
    assert [each.status for each in (await slow.sessions.find(ANN, session.id)).messages if each.turn] == [
        "done",
        "stopped",
        "done",
        "done",
    ]


@pytest.mark.parametrize("change", ["regenerate", "edit", "delete_pair", "replace_messages"])
async def test_a_send_beside_a_change_is_kept(talk: Talk, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    session = await a_pair(talk)
    place = (ANN, session.dialog_id, session.id)
    sent: list[asyncio.Task[TurnHandle]] = []
    stop, stop_one = talk.sessions._runner.stop_sessions, talk.sessions._runner.stop

    async def begins_a_turn() -> None:
        if not sent:
            sent.append(asyncio.create_task(talk.sessions.begin_turn(*place, "b", message_id="q2")))
            await asyncio.sleep(0.1)

    async def stop_slowly(*given: Any, **more: Any) -> None:
        await begins_a_turn()
        await stop(*given, **more)

    async def stop_one_slowly(*given: Any) -> bool:
        await begins_a_turn()
        return await stop_one(*given)

    monkeypatch.setattr(talk.sessions._runner, "stop_sessions", stop_slowly)
    monkeypatch.setattr(talk.sessions._runner, "stop", stop_one_slowly)
    changes: dict[str, Any] = {
        "regenerate": lambda: talk.sessions.regenerate(*place, "q1"),
        "edit": lambda: talk.sessions.edit(*place, "q1", "z"),
        "delete_pair": lambda: talk.sessions.delete_pair(*place, "q1"),
        "replace_messages": lambda: talk.sessions.replace_messages(ANN, session.id, []),
    }
    await changes[change]()
    assert (await sent[0]).message_id == "q2"
    assert isinstance((await events(talk, session, "q2"))[-1], Done)
    assert (await stored(talk, session))[-2:] == [("user", "q2", "b"), ("assistant", "q2", "About b")]


async def test_every_answer_that_runs_can_be_reached(slow: Talk) -> None:
    session = await a_pair(slow)
    place = (ANN, session.dialog_id, session.id)

    async def at(delay: float, call: Any) -> Any:
        await asyncio.sleep(delay)
        return await call

    done = await asyncio.gather(
        *(at(n / 300, slow.sessions.begin_turn(*place, f"s{n}")) for n in range(6)),
        *(at(n / 200, slow.sessions.regenerate(*place, "q1")) for n in range(3)),
        return_exceptions=True,
    )
    assert all(isinstance(each, TurnHandle | RagError) for each in done)
    running = {each.answer_row for each in slow.sessions._runner._turns.values() if not each.stop_reason}
    rows = await slow.world.db.run(lambda: {row.id for row in Message.select().where(Message.status == "generating")})
    assert running == rows


async def test_nobody_else_learns_of_a_message_or_ends_its_events(slow: Talk) -> None:
    _, session = await slow.session()
    await send(slow, session, "a", "q1")
    for state in ("running", "ended"):
        for replacement in (None, Replacement.of(session, [])):
            with pytest.raises(NotFound):
                await slow.sessions.begin_turn(
                    BOB, session.dialog_id, session.id, "x", message_id="q1", replacement=replacement
                )
            with pytest.raises(Conflict):
                await slow.sessions.begin_turn(
                    ANN, session.dialog_id, session.id, "x", message_id="q1", replacement=replacement
                )
        said = await events(slow, session, "q1")
        assert isinstance(said[-1], Done), state
        assert "".join(each.text for each in said if isinstance(each, Token)) == SLOW


async def test_a_question_without_an_answer_and_an_opener_with_an_id_are_deleted(talk: Talk) -> None:
    _, session = await talk.session()
    odd = [
        GivenMessage(role="assistant", content="Hello", message_id="o"),
        GivenMessage(role="user", content="a", message_id="q1"),
        GivenMessage(role="user", content="b", message_id="q2"),
        GivenMessage(role="assistant", content="c", message_id="a2"),
    ]
    place = (ANN, session.dialog_id, session.id)
    await talk.sessions.replace_messages(ANN, session.id, odd)
    assert len((await talk.sessions.delete_pair(*place, "o")).messages) == 3
    left = await talk.sessions.delete_pair(*place, "q1")
    assert [each.content for each in left.messages] == ["b", "c"]
    assert (await talk.sessions.delete_pair(*place, "a2")).messages == ()


async def test_what_stays_the_same_in_a_long_conversation_is_not_written_again(talk: Talk) -> None:
    _, session = await talk.session()
    said = [
        GivenMessage(role=role, content=f"m{n}", message_id=f"i{n}")  # type: ignore[arg-type]
        for n in range(1000)
        for role in ("user", "assistant")
    ]
    await talk.sessions.replace_messages(ANN, session.id, said)

    def rows() -> dict[tuple[str | None, str], int]:
        return {(row.message_id, row.role): row.id for row in Message.select()}

    before = await talk.world.db.run(rows)
    changed = [replace(said[0], content="other"), *said[1:]]
    await talk.sessions.replace_messages(ANN, session.id, changed)
    after = await talk.world.db.run(rows)
    assert {key for key in before if before[key] != after[key]} == {("i0", "user")}
    shorter = await talk.sessions.replace_messages(ANN, session.id, changed[2:])
    assert [each.content for each in shorter.messages] == [each.content for each in changed[2:]]
    assert (await talk.world.db.run(rows)).items() <= after.items()


async def test_many_messages_are_put_down_in_few_statements(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    _, session = await talk.session()
    said = [GivenMessage(role="user", content=f"m{n}", message_id=f"i{n}") for n in range(5000)]
    statements: list[str] = []
    bound = Message._meta.database.obj  # type: ignore[attr-defined]
    execute = bound.execute_sql

    def counted(sql: str, *given: Any, **more: Any) -> Any:
        statements.append(sql)
        return execute(sql, *given, **more)

    monkeypatch.setattr(bound, "execute_sql", counted)
    made = await talk.sessions.replace_messages(ANN, session.id, said)
    assert len(made.messages) == 5000
    assert len(statements) < 60
