"""The end of the process: one limit of time for all that is to be saved."""

import asyncio
import time
from typing import Any

import pytest

from rag.core.events import DialogEvent
from tests.unit.api.db.services.talk import WITH_DATASET, Talk, chatter
from tests.unit.api.db.services.world import ANN, World


async def test_closing_has_one_limit_for_all_its_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Talk(world, chatter("one two three four", wait_s=0.2))
    chat, running = await talk.session()
    beginning = await talk.sessions.create(ANN, chat.id)
    await talk.sessions.begin_turn(ANN, chat.id, running.id, "How much cash?", options=WITH_DATASET)
    stuck, write = asyncio.Event(), world.db.write

    async def never_begun(stream: str, event: DialogEvent) -> int:
        await stuck.wait()
        return 0

    async def never_saved(work: Any) -> Any:
        await stuck.wait()
        return await write(work)

    async def never_made() -> None:
        await stuck.wait()

    monkeypatch.setattr(talk.log, "append", never_begun)
    monkeypatch.setattr(world.db, "write", never_saved)
    monkeypatch.setattr(talk.asides, "close", never_made)
    asked = asyncio.create_task(talk.sessions.begin_turn(ANN, chat.id, beginning.id, "And debt?", options=WITH_DATASET))
    await asyncio.sleep(0.05)
    began = time.monotonic()
    async with asyncio.timeout(5):
        await talk.sessions.close(1)
        await talk.sessions.close(1)  # As the server and the block that opened the services both do.
    assert time.monotonic() - began < 1.7
    monkeypatch.undo()
    stuck.set()
    await asyncio.gather(asked, return_exceptions=True)
    while (await talk.answer_row(running)).status == "generating":
        await asyncio.sleep(0.01)
    assert (await talk.answer_row(running)).status == "interrupted"


async def test_running_answers_are_saved_while_a_stuck_beginning_is_waited_for(world: World) -> None:
    talk = Talk(world, chatter("one two three four", wait_s=0.2))
    chat, session = await talk.session()
    other = await talk.sessions.create(ANN, chat.id)
    await talk.sessions.begin_turn(ANN, chat.id, session.id, "How much cash?", options=WITH_DATASET)
    stuck, append = asyncio.Event(), talk.log.append

    async def slow_to_begin(stream: str, event: DialogEvent) -> int:
        if stream.startswith(other.id):
            await stuck.wait()
        return await append(stream, event)

    talk.log.append = slow_to_begin  # type: ignore[method-assign]
    asked = asyncio.create_task(talk.sessions.begin_turn(ANN, chat.id, other.id, "And debt?", options=WITH_DATASET))
    await asyncio.sleep(0.05)
    await talk.sessions.close(0.5)
    assert (await talk.answer_row(session)).status == "interrupted"
    stuck.set()
    await asyncio.gather(asked, return_exceptions=True)
