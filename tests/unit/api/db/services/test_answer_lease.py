"""Several servers on the same rows: each answers for its own."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.db.services.answer_lease import LEASE_S, AnswerLease
from api.db.services.conversation_service import ConversationService
from api.db.services.records import ConversationRecord, GivenMessage
from api.db.tables import AnswerServer
from rag.core.clock import SystemClock
from rag.core.events import Done, Stopped
from rag.eventlog.memory import MemoryEventLog
from tests.unit.api.db.services.talk import Talk, chatter
from tests.unit.api.db.services.world import ANN, World

SLOW = "one two three four five six seven eight nine ten"


@pytest.fixture
async def talk(world: World) -> AsyncIterator[Talk]:
    made = Talk(world, chatter(SLOW, wait_s=0.05))
    yield made
    await made.sessions.close(5)


def server(talk: Talk, home: str, *, shared: bool = True) -> ConversationService:
    lease = AnswerLease(talk.world.db, talk.world.clock, home=home, shared=shared)
    log = MemoryEventLog(SystemClock(), retention_s=600)
    return ConversationService(talk.world.db, talk.world.clock, log, talk.dialogs, talk.settings, lease=lease)


async def running(talk: Talk, service: ConversationService) -> tuple[ConversationRecord, str]:
    chat, session = await talk.session()
    turn = await service.begin_turn(ANN, chat.id, session.id, "cash?")
    return session, turn.message_id


async def status(talk: Talk, session: ConversationRecord) -> str:
    return (await talk.answer_row(session)).status


async def test_a_server_that_starts_leaves_the_answers_of_others(talk: Talk) -> None:
    one, other = server(talk, "one"), server(talk, "other")
    assert await one.recover() == 0
    session, message = await running(talk, one)
    assert await other.recover() == 0
    assert await status(talk, session) == "generating"
    events = [each.event async for each in other.events(ANN, session.dialog_id, session.id, message)]
    assert [type(each) for each in events] == [Done], "its end, once it is there"
    assert await status(talk, session) == "done"
    await one.close(5)
    await other.close(5)
    assert await talk.world.db.run(lambda: AnswerServer.select().count()) == 0


async def test_a_server_that_died_is_noticed_when_its_lease_runs_out(talk: Talk) -> None:
    dead, other = server(talk, "dead"), server(talk, "other")
    await dead.recover()
    session, message = await running(talk, dead)
    turn = dead._runner._turns[f"{session.id}/{message}"]
    assert turn.producer is not None
    assert turn.keeper is not None
    turn.keeper.cancel()
    turn.producer.cancel()
    await asyncio.sleep(0.01)
    assert await other.recover() == 0
    talk.world.clock.pass_s(LEASE_S + 1)
    assert await other._lease.begin() == 1
    assert await status(talk, session) == "interrupted"
    events = [each.event async for each in other.events(ANN, session.dialog_id, session.id, message)]
    assert [type(each) for each in events] == [Stopped]
    await other.close(5)
    await dead.close(5)


async def test_a_server_that_starts_again_in_its_home_needs_not_wait(talk: Talk) -> None:
    before, after = server(talk, "home"), server(talk, "home")
    await before.recover()
    session, _ = await running(talk, before)
    assert await after.recover() == 1
    assert await status(talk, session) == "interrupted"
    await before.close(5)
    await after.close(5)


async def test_rows_of_one_server_need_no_lease(talk: Talk) -> None:
    one = server(talk, "home", shared=False)
    session, _ = await running(talk, one)
    assert await server(talk, "elsewhere", shared=False).recover() == 1
    assert await status(talk, session) == "interrupted"
    assert await talk.world.db.run(lambda: AnswerServer.select().count()) == 0
    await one.close(5)


async def test_what_an_answer_said_goes_over_what_others_thought_of_its_server(talk: Talk) -> None:
    """Its server was away for a while and took longer than its lease."""
    slow, other = server(talk, "slow"), server(talk, "other")
    await slow.recover()
    session, message = await running(talk, slow)
    talk.world.clock.pass_s(LEASE_S + 1)
    assert await other.recover() == 1
    assert await status(talk, session) == "interrupted"
    async for _ in slow.events(ANN, session.dialog_id, session.id, message):
        pass
    answer = await talk.answer_row(session)
    assert (answer.status, answer.content) == ("done", SLOW)
    await slow.close(5)
    await other.close(5)


@pytest.mark.parametrize("change", ["stop_turn", "delete_pair", "regenerate", "edit", "replace_messages", "delete"])
async def test_what_another_server_ends_is_not_answered_on(talk: Talk, change: str) -> None:
    one, other = server(talk, "one"), server(talk, "other")
    await one.recover()
    await other.recover()
    session, message = await running(talk, one)
    place = (ANN, session.dialog_id, session.id)
    said = [GivenMessage(role="user", content="cash!", message_id=message)]
    changes: dict[str, Any] = {
        "stop_turn": lambda: other.stop_turn(*place, message),
        "delete_pair": lambda: other.delete_pair(*place, message),
        "regenerate": lambda: other.regenerate(*place, message),
        "edit": lambda: other.edit(*place, message, "debt?"),
        "replace_messages": lambda: other.replace_messages(ANN, session.id, said),
        "delete": lambda: other.delete(ANN, session.dialog_id, [session.id]),
    }
    await asyncio.sleep(0.15)
    await changes[change]()
    events = [each.event async for each in one._log.subscribe(f"{session.id}/{message}")]
    assert isinstance(events[-1], Stopped)
    assert events[-1].answer != SLOW
    if change == "stop_turn":
        row = await talk.answer_row(session)
        assert row.status == "stopped"
        assert row.content
        assert SLOW.startswith(row.content)
    if change in ("regenerate", "edit"):
        await other.close(5)
        assert await status(talk, session) in ("interrupted", "done")
    await one.close(5)
    await other.close(5)


async def test_a_silent_answer_is_ended_by_another_server(world: World) -> None:
    talk = Talk(world, chatter(SLOW, wait_s=5))
    one, other = server(talk, "one"), server(talk, "other")
    await one.recover()
    await other.recover()
    session, message = await running(talk, one)
    await other.stop_turn(ANN, session.dialog_id, session.id, message)
    async with asyncio.timeout(2):
        events = [each.event async for each in one._log.subscribe(f"{session.id}/{message}")]
    assert isinstance(events[-1], Stopped)
    for each in (one, other, talk.sessions):
        await each.close(5)
