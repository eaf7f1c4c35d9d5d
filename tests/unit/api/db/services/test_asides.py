"""Summaries and titles: made beside answers, saved, and read by the next prompt."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.db.services.asides import Answered
from api.db.services.records import ConversationRecord, GivenMessage
from api.db.services.summary_rows import unsummed
from api.db.services.usage_service import UsageService
from api.db.tables import ConversationSummary, Usage
from rag.core.errors import ModelOverloaded
from rag.core.events import Done
from rag.llm.base import ChatRequest
from rag.testing.scripted_replies import ScriptedReplies, says
from tests.unit.api.db.services.talk import Talk, chatter
from tests.unit.api.db.services.world import ANN, World

NO_KNOWLEDGE = {"prompt_config": {"system": "Be brief.", "parameters": [], "refine_multiturn": False}}
ANSWER = "a word or two about what was asked "


def purpose(request: ChatRequest) -> str:
    first = request.turns[0].content
    return (
        "summary" if "Write the notes anew" in first else "title" if "title of two to six words" in first else "answer"
    )


class Model:
    """Answers, sums up as `summary` says, and gives titles; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, list[ChatRequest]] = {"answer": [], "summary": [], "title": []}
        self.summary: Any = "Topics: many."
        self.title: Any = '"Cash of the company."'
        self.chat = ScriptedReplies(self.reply)

    def reply(self, request: ChatRequest) -> Any:
        kind = purpose(request)
        self.asked[kind].append(request)
        if kind == "answer":
            return says(ANSWER)
        made = self.summary if kind == "summary" else self.title
        made = made(request) if callable(made) else made
        return [made] if isinstance(made, Exception) else says(made)

    def prompt(self) -> list[str]:
        return [turn.content for turn in self.asked["answer"][-1].turns]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
async def talk(world: World, model: Model) -> AsyncIterator[Talk]:
    made = Talk(world, model.chat, features={"summaries": "on"})
    yield made
    await made.sessions.close(5)


async def ask(talk: Talk, session: ConversationRecord, question: str) -> str:
    turn = await talk.sessions.begin_turn(ANN, session.dialog_id, session.id, question)
    events = talk.sessions.events(ANN, session.dialog_id, session.id, turn.message_id)
    assert isinstance([logged.event async for logged in events][-1], Done)
    return turn.message_id


async def asked(talk: Talk, session: ConversationRecord, turns: int, *, first: int = 1) -> list[str]:
    ids = []
    for number in range(first, first + turns):
        ids.append(await ask(talk, session, f"question {number}?"))
        await settled(talk)
    return ids


async def settled(talk: Talk) -> None:
    await asyncio.sleep(0)  # The keeper goes on after the last event.
    await talk.asides.settle()


async def saved(talk: Talk) -> list[tuple[int, str]]:
    query = ConversationSummary.select().order_by(ConversationSummary.turn)
    return await talk.world.db.run(lambda: [(row.turn, row.content) for row in query])


async def test_a_summary_takes_the_place_of_the_older_turns(talk: Talk, model: Model) -> None:
    _, session = await talk.session(**NO_KNOWLEDGE)
    await asked(talk, session, 7)
    assert model.asked["summary"] == []
    await asked(talk, session, 1, first=8)
    assert await saved(talk) == [(2, "Topics: many.")]
    (request,) = model.asked["summary"]
    for number, there in ((1, True), (2, True), (3, False)):
        assert (f"question {number}?" in request.turns[0].content) is there
    await ask(talk, session, "and now?")
    system, *rest = model.prompt()
    assert system.endswith("<notes>\nTopics: many.\n</notes>")
    assert rest[0] == "question 3?"
    assert len(rest) == 2 * 6 + 1
    found = await talk.sessions.find(ANN, session.id)
    assert len([each for each in found.messages if each.turn]) == 18, "the raw messages stay"


async def test_a_summary_is_extended_not_made_anew(talk: Talk, model: Model) -> None:
    model.summary = lambda request: f"Topics: {len(model.asked['summary'])}."
    _, session = await talk.session(**NO_KNOWLEDGE)
    await asked(talk, session, 10)
    first, second = model.asked["summary"]
    assert "Topics: 1." in second.turns[0].content
    assert "question 2?" not in second.turns[0].content
    assert "question 3?" in second.turns[0].content
    assert await saved(talk) == [(2, "Topics: 1."), (4, "Topics: 2.")]


async def test_the_prompt_stays_as_long_as_it_is(talk: Talk, model: Model) -> None:
    model.summary = "Topics: " + "cash and debt of the company " * 300
    _, session = await talk.session(**NO_KNOWLEDGE)
    count = model.chat.count_tokens
    sizes = {}
    for number in range(1, 101):
        await asked(talk, session, 1, first=number)
        sizes[2 * number] = sum(count(text) for text in model.prompt())
    print({message: size for message, size in sizes.items() if message % 20 == 0})
    assert sizes[200] <= 1.1 * sizes[20]
    later = [size for message, size in sizes.items() if message > 20]
    assert max(later) <= 1.1 * min(later)
    _, longest = max(await saved(talk))
    assert 400 < count(longest) <= 500


async def test_no_answer_waits_for_a_summary(talk: Talk, model: Model) -> None:
    _, session = await talk.session(**NO_KNOWLEDGE)
    await asked(talk, session, 8)
    gate = asyncio.Event()
    real = talk.asides._sum_up_once

    async def slow(answered: Answered) -> None:
        await gate.wait()
        await real(answered)

    talk.asides._sum_up_once = slow  # type: ignore[method-assign]
    for number in range(9, 16):
        await asyncio.wait_for(ask(talk, session, f"question {number}?"), 5)
    system, *rest = model.prompt()
    assert "Topics: many." in system, "the newest that is saved"
    assert rest[0] == "question 3?"
    assert len(rest) == 2 * 12 + 1
    gate.set()
    await settled(talk)
    assert [turn for turn, _ in await saved(talk)] == [2, 9], "one call for all that was due"
    assert len(model.asked["summary"]) == 2


@pytest.mark.parametrize(("features", "messages"), [({"summaries": "off"}, 40), ({}, 40)])
async def test_without_the_switch_the_history_stays(
    world: World, model: Model, features: dict[str, str], messages: int
) -> None:
    talk = Talk(world, model.chat, features=features)
    _, session = await talk.session(**NO_KNOWLEDGE)
    await asked(talk, session, 25)
    assert model.asked["summary"] == []
    system, *rest = model.prompt()
    assert "<notes>" not in system
    assert len(rest) == messages + 1
    await talk.sessions.close(5)


async def test_the_model_that_quotes_gets_no_summary_but_the_last_turns(world: World) -> None:
    chat = chatter("42", local=True)
    talk = Talk(world, chat, features={"summaries": "on"})
    _, session = await talk.session(**NO_KNOWLEDGE)
    await asked(talk, session, 12)
    assert len(chat.requests) == 12
    assert [turn.content for turn in chat.requests[-1].turns[1:]][0] == "question 5?"
    await talk.sessions.close(5)


async def test_a_summary_that_fails_is_made_after_the_next_answer(talk: Talk, model: Model) -> None:
    model.summary = ModelOverloaded("'m': busy", status=503)
    _, session = await talk.session(**NO_KNOWLEDGE)
    await asked(talk, session, 9)
    assert await saved(talk) == []
    assert len(model.prompt()) == 1 + 2 * 8 + 1
    model.summary = "Topics: late."
    await asked(talk, session, 1, first=10)
    assert await saved(talk) == [(4, "Topics: late.")]


async def test_a_summary_of_turns_that_changed_meanwhile_is_not_kept(talk: Talk, model: Model) -> None:
    chat, session = await talk.session(**NO_KNOWLEDGE)
    ids = await asked(talk, session, 7)
    begun, gate = asyncio.Event(), asyncio.Event()
    real = talk.asides._sum_up_once

    async def held(answered: Answered) -> None:
        due = await talk.world.db.run(lambda: unsummed(session.id))
        assert due is not None
        begun.set()
        await gate.wait()
        await real(answered)

    talk.asides._sum_up_once = held  # type: ignore[method-assign]
    await ask(talk, session, "question 8?")
    await begun.wait()
    await talk.sessions.delete_pair(ANN, chat.id, session.id, ids[0])
    gate.set()
    await settled(talk)
    assert await saved(talk) == []


async def test_a_long_session_that_was_brought_along_is_summed_up_once(talk: Talk, model: Model) -> None:
    _, session = await talk.session(**NO_KNOWLEDGE)
    roles = ("user", "assistant")
    given = [GivenMessage(role=roles[n % 2], content=f"told {n}", message_id=str(n // 2)) for n in range(2000)]  # type: ignore[arg-type]
    await talk.sessions.replace_messages(ANN, session.id, given)
    await asked(talk, session, 1)
    (request,) = model.asked["summary"]
    assert "told 1989" in request.turns[0].content
    assert "told 1899" not in request.turns[0].content
    assert [turn for turn, _ in await saved(talk)] == [995]


async def test_calls_beside_answers_count_for_their_message(world: World, model: Model) -> None:
    usage = UsageService(world.db, world.clock)
    talk = Talk(world, model.chat, features={"summaries": "on"}, usage=usage)
    chat, session = await talk.session(**NO_KNOWLEDGE)
    ids = await asked(talk, session, 8)
    await talk.models.close()
    first, last = [await talk.sessions.turn(ANN, chat.id, session.id, each) for each in (ids[0], ids[-1])]
    assert [calls.purpose for calls in first.usage.by_purpose] == ["answer"]
    assert [calls.purpose for calls in last.usage.by_purpose] == ["answer", "summary"]
    answer, summary = last.usage.by_purpose
    assert last.usage.total.prompt_tokens == answer.prompt_tokens + summary.prompt_tokens > 0
    assert last.usage.total.completion_tokens == answer.completion_tokens + summary.completion_tokens > 0
    assert (last.usage.total.calls, last.usage.total.unpriced, last.usage.total.cost_usd) == (2, 2, 0.0)
    (row,) = await world.db.run(lambda: list(Usage.select().where(Usage.message_id == ids[0])))
    assert set(row.steps) <= set(first.answer.timings_ms)
    assert "prompt" in row.steps
    await talk.sessions.close(5)


# ---- titles


async def titled(talk: Talk, model: Model, question: str, **more: Any) -> str:
    chat = await talk.assistants.create(ANN, {"name": "Chat", "llm_id": talk.chat.info.name} | NO_KNOWLEDGE)
    session = await talk.sessions.create(ANN, chat.id, **more)
    await ask(talk, session, question)
    await settled(talk)
    return (await talk.sessions.find(ANN, session.id)).name


async def test_a_session_that_asks_for_it_is_named(talk: Talk, model: Model) -> None:
    assert await titled(talk, model, "How much cash?", auto_title=True) == "Cash of the company"
    (request,) = model.asked["title"]
    assert "How much cash?" in request.turns[0].content
    assert ANSWER.strip() in request.turns[0].content


async def test_a_session_of_the_contract_keeps_its_name(talk: Talk, model: Model) -> None:
    assert await titled(talk, model, "How much cash?") == "New session"
    assert model.asked["title"] == []


@pytest.mark.parametrize("failing", [ModelOverloaded("'m': busy", status=503), "", "<think>hm"])
async def test_a_title_that_fails_comes_from_the_question(talk: Talk, model: Model, failing: Any) -> None:
    model.title = failing
    assert await titled(talk, model, "please tell me how much cash there is?", auto_title=True) == (
        "How much cash there is"
    )


async def test_a_name_that_was_given_meanwhile_stays(talk: Talk, model: Model) -> None:
    chat = await talk.assistants.create(ANN, {"name": "Chat", "llm_id": talk.chat.info.name} | NO_KNOWLEDGE)
    session = await talk.sessions.create(ANN, chat.id, auto_title=True)
    turn = await talk.sessions.begin_turn(ANN, chat.id, session.id, "cash?")
    await talk.sessions.update(ANN, chat.id, session.id, {"name": "Mine"})
    async for _ in talk.sessions.events(ANN, chat.id, session.id, turn.message_id):
        pass
    await settled(talk)
    await ask(talk, session, "debt?")
    await settled(talk)
    assert (await talk.sessions.find(ANN, session.id)).name == "Mine"


async def test_the_model_that_quotes_names_by_rule(world: World) -> None:
    talk = Talk(world, chatter("42", local=True))
    chat = await talk.assistants.create(ANN, {"name": "Chat", "llm_id": talk.chat.info.name} | NO_KNOWLEDGE)
    session = await talk.sessions.create(ANN, chat.id, auto_title=True)
    await ask(talk, session, "cash at the end of 2022?")
    await settled(talk)
    assert (await talk.sessions.find(ANN, session.id)).name == "Cash at the end of 2022"
    assert len(talk.chat.requests) == 1  # type: ignore[attr-defined]
    await talk.sessions.close(5)
