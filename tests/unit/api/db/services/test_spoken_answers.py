"""Stored answers that are said aloud: saved when their text is there, told as ended when their speech is."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from api.db.services.model_catalogue import ModelCatalogue
from api.db.services.records import ConversationRecord, ModelCall
from api.db.services.turn_ask import TurnHandle
from rag.core.clock import SystemClock
from rag.core.events import DialogEvent, Done, Spoken
from rag.core.settings import Settings
from rag.testing.models import FixedModels
from tests.unit.api.db.services.talk import CASH, WITH_DATASET, Talk, chatter
from tests.unit.api.db.services.world import ANN, World


class Voice:
    """A model that speaks once it may."""

    name = "voice@Acme"

    def __init__(self) -> None:
        self.may = asyncio.Event()

    async def speak(self, text: str) -> AsyncIterator[bytes]:
        await self.may.wait()
        yield text.encode()


class SpeakingModels(ModelCatalogue):
    """All tenants have the voice."""

    def _default(self, tenant_id: str, column: str) -> str:
        return Voice.name if column == "tts_id" else super()._default(tenant_id, column)


@pytest.fixture
async def voice() -> Voice:
    return Voice()


class Calls:
    """What was called; the rows of usage."""

    def __init__(self) -> None:
        self.made: list[ModelCall] = []

    async def record(self, call: ModelCall) -> None:
        self.made.append(call)


@pytest.fixture
async def calls() -> Calls:
    return Calls()


@pytest.fixture
async def talk(world: World, voice: Voice, calls: Calls) -> AsyncIterator[Talk]:
    talk = Talk(world, chatter(f"{CASH} [ID:0]"))
    talk.models = SpeakingModels(Settings(), FixedModels([talk.chat], others=[voice]), usage=calls)
    talk.dialogs._models = talk.models
    yield talk
    await talk.sessions.close(5)


async def said(talk: Talk) -> tuple[ConversationRecord, TurnHandle]:
    """A turn whose text is there, and whose speech is not."""
    chat, session = await talk.session(prompt_config={"tts": True})
    turn = await talk.sessions.begin_turn(ANN, chat.id, session.id, "How much cash?", options=WITH_DATASET)
    async with asyncio.timeout(5):
        while (await talk.answer_row(session)).status == "generating":
            await asyncio.sleep(0.01)
    return session, turn


async def test_the_end_is_told_after_the_speech(talk: Talk, voice: Voice) -> None:
    session, turn = await said(talk)
    row = await talk.answer_row(session)
    assert (row.status, row.content) == ("done", f"{CASH} [ID:0]")
    events: list[DialogEvent] = []

    async def read() -> None:
        events.extend([each.event async for each in talk.log.subscribe(turn.stream)])

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    assert not reading.done()
    voice.may.set()
    await reading
    assert isinstance(events[-1], Done)
    assert CASH.encode() in b"".join(each.audio for each in events if isinstance(each, Spoken))


async def test_what_was_spoken_is_noted_for_the_message(talk: Talk, voice: Voice, calls: Calls) -> None:
    voice.may.set()
    session, turn = await said(talk)
    assert isinstance([each.event async for each in talk.log.subscribe(turn.stream)][-1], Done)
    await talk.models.settle()
    spoken = [each for each in calls.made if each.purpose == "speak"]
    answered = next(each for each in calls.made if each.purpose == "answer")
    assert spoken
    for call in spoken:
        assert (call.dialog_id, call.conversation_id, call.message_id) == (
            session.dialog_id,
            session.id,
            turn.message_id,
        )
        assert (call.tenant_id, call.key_id) == (answered.tenant_id, answered.key_id)


@pytest.mark.parametrize("how", ["stop", "close"])
async def test_what_ends_the_speech_leaves_the_answer_complete(talk: Talk, how: str) -> None:
    session, turn = await said(talk)
    async with asyncio.timeout(2):
        if how == "stop":
            await talk.sessions.stop_turn(ANN, session.dialog_id, session.id, turn.message_id)
        else:
            await talk.sessions.close(2)
    row = await talk.answer_row(session)
    assert (row.status, row.content) == ("done", f"{CASH} [ID:0]")
    assert row.reference is not None
    assert [each.index for each in row.reference.chunks] == [0, 1]
    assert isinstance([each.event async for each in talk.log.subscribe(turn.stream)][-1], Done)


async def test_the_next_question_does_not_wait_for_the_speech(talk: Talk) -> None:
    session, _ = await said(talk)
    began = SystemClock().monotonic()
    await talk.sessions.begin_turn(ANN, session.dialog_id, session.id, "And debt?", options=WITH_DATASET)
    async with asyncio.timeout(5):
        while (await talk.answer_row(session, 2)).status == "generating":
            await asyncio.sleep(0.01)
    assert SystemClock().monotonic() - began < 3
