"""Chats that are deleted while they answer."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from api.db.services.records import Page
from rag.core.errors import NotFound
from rag.core.events import Done, Started, Stopped
from rag.core.types import Scope
from tests.unit.api.db.services.talk import WITH_DATASET, Talk, chatter
from tests.unit.api.db.services.world import ANN, World

SLOW = "one two three four five six seven eight nine ten"


@pytest.fixture
async def talk(world: World) -> AsyncIterator[Talk]:
    talk = Talk(world, chatter(SLOW, wait_s=0.05))
    yield talk
    await talk.sessions.close(5)


async def end_of(talk: Talk, stream: str) -> object:
    return [logged.event async for logged in talk.log.subscribe(stream)][-1]


@pytest.mark.parametrize("together", [False, True])
async def test_deleting_a_chat_stops_its_answers(talk: Talk, together: bool) -> None:
    chat, session = await talk.session()
    public = replace(ANN, scope=Scope.SHARE)
    shared = await talk.sessions.create(public, chat.id)
    kept, other = await talk.session(name="Other")
    turn, going_on = [
        await talk.sessions.begin_turn(ANN, each.dialog_id, each.id, "How much cash?", options=WITH_DATASET)
        for each in (session, other)
    ]
    asked = await talk.sessions.begin_turn(public, chat.id, shared.id, "How much cash?", options=WITH_DATASET)
    async for logged in talk.log.subscribe(turn.stream):
        if not isinstance(logged.event, Started):
            break
    if together:
        await talk.assistants.delete_together(ANN, [chat.id])
    else:
        await talk.assistants.delete(ANN, [chat.id])
    async with asyncio.timeout(0.2):
        ends = [await end_of(talk, each.stream) for each in (turn, asked)]
    assert [each.reason for each in ends if isinstance(each, Stopped)] == ["deleted", "deleted"]
    assert isinstance(await end_of(talk, going_on.stream), Done)
    assert (await talk.answer_row(other)).status == "done"
    assert (await talk.assistants.get(ANN, kept.id)).id == kept.id


async def test_an_answer_that_begins_while_its_chat_is_deleted_does_not_run_on(talk: Talk) -> None:
    chat, session = await talk.session()
    asking = asyncio.create_task(
        talk.sessions.begin_turn(ANN, chat.id, session.id, "How much cash?", options=WITH_DATASET)
    )
    await asyncio.sleep(0)
    await talk.assistants.delete(ANN, None)
    (asked,) = await asyncio.gather(asking, return_exceptions=True)
    if isinstance(asked, NotFound):
        assert asked.kind == "chat"
    else:
        assert not isinstance(asked, BaseException)
        async with asyncio.timeout(0.2):
            assert isinstance(await end_of(talk, asked.stream), Stopped)
    assert await talk.assistants.list(ANN, Page()) == []
