import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from api.db.services.dialog_service import AskOptions, Sampling
from api.db.services.records import ConversationRecord, GivenMessage, Page
from api.db.services.turn_ask import TurnHandle
from api.db.tables import ConversationSummary, Message
from rag.core.errors import Conflict, InvalidInput, NotFound
from rag.core.events import Done, Failed
from rag.core.types import Principal, Scope, Turn
from rag.testing.scripted_chat import ScriptedChat
from tests.unit.api.db.services.talk import WITH_DATASET, Talk, chatter
from tests.unit.api.db.services.world import ANN, BOB, World

SLOW = "one two three four five six seven eight nine ten"
VISITOR = Principal(tenant_id="ann", user_id="ann", scope=Scope.SHARE, credential="share_token")


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


async def ended(talk: Talk, session: ConversationRecord, turn: TurnHandle) -> Any:
    events = talk.sessions.events(ANN, session.dialog_id, session.id, turn.message_id)
    return [logged.event async for logged in events][-1]


async def said(talk: Talk, session: ConversationRecord, *questions: str, **more: Any) -> list[str]:
    """Ask these, one after the other; their ids."""
    ids = []
    for question in questions:
        turn = await talk.sessions.begin_turn(ANN, session.dialog_id, session.id, question, **more)
        assert isinstance(await ended(talk, session, turn), Done)
        ids.append(turn.message_id)
    return ids


async def lines(talk: Talk, session: ConversationRecord) -> list[tuple[int, str, str]]:
    found = await talk.sessions.find(ANN, session.id)
    return [(each.turn, each.role, each.content) for each in found.messages if each.turn]


async def test_a_question_is_asked_again_and_what_followed_is_gone(talk: Talk) -> None:
    chat, session = await talk.session()
    first, second, _ = await said(talk, session, "a", "b", "c")
    turn = await talk.sessions.regenerate(ANN, chat.id, session.id, second)
    assert isinstance(await ended(talk, session, turn), Done)
    assert turn.message_id not in (first, second)
    assert await lines(talk, session) == [
        (1, "user", "a"),
        (1, "assistant", "About a"),
        (2, "user", "b"),
        (2, "assistant", "About b"),
    ]
    assert [each.content for each in chat_turns(talk)[1:]] == ["a", "About a", "b"]
    with pytest.raises(NotFound):
        await talk.sessions.turn(ANN, chat.id, session.id, second)


def chat_turns(talk: Talk) -> tuple[Turn, ...]:
    assert isinstance(talk.chat, ScriptedChat)
    return talk.chat.requests[-1].turns


async def test_a_question_is_asked_again_with_what_its_call_had_set(talk: Talk) -> None:
    chat, session = await talk.session()
    options = replace(
        WITH_DATASET, sampling=Sampling(temperature=0.7, stop=("x",)), document_ids=("d",), variables={"who": 7}
    )
    (first,) = await said(talk, session, "a", options=options)
    again = await talk.sessions.regenerate(ANN, chat.id, session.id, first)
    await ended(talk, session, again)
    one, other = talk.retrieval.requests
    assert one == other
    assert one.document_ids == ("d",)
    assert isinstance(talk.chat, ScriptedChat)
    assert {request.sampling.temperature for request in talk.chat.requests} == {0.7}
    plain = await talk.sessions.regenerate(ANN, chat.id, session.id, again.message_id, options=AskOptions())
    await ended(talk, session, plain)
    assert talk.chat.requests[-1].sampling.temperature != 0.7
    assert len(talk.retrieval.requests) == 2


async def test_a_question_is_edited(talk: Talk) -> None:
    chat, session = await talk.session()
    first, _ = await said(talk, session, "a", "b")
    turn = await talk.sessions.edit(ANN, chat.id, session.id, first, "z \ud800")
    await ended(talk, session, turn)
    assert await lines(talk, session) == [(1, "user", "z ?"), (1, "assistant", "About z ?")]


async def test_an_answer_that_runs_is_stopped_when_it_is_asked_again(slow: Talk) -> None:
    chat, session = await slow.session()
    turn = await slow.sessions.begin_turn(ANN, chat.id, session.id, "a")
    await asyncio.sleep(0.1)
    again = await slow.sessions.regenerate(ANN, chat.id, session.id, turn.message_id)
    end = await ended(slow, session, again)
    assert isinstance(end, Done)
    assert await lines(slow, session) == [(1, "user", "a"), (1, "assistant", SLOW)]
    with pytest.raises(NotFound):
        await ended(slow, session, turn)


async def test_a_pair_is_deleted(talk: Talk) -> None:
    chat, session = await talk.session()
    _, second, _ = await said(talk, session, "a", "b", "c")
    left = await talk.sessions.delete_pair(ANN, chat.id, session.id, second)
    assert [(each.turn, each.content) for each in left.messages if each.role == "user"] == [(1, "a"), (3, "c")]
    await said(talk, session, "d")
    assert [each.content for each in chat_turns(talk)[1:]] == ["a", "About a", "c", "About c", "d"]


async def test_a_pair_that_runs_is_deleted(slow: Talk) -> None:
    chat, session = await slow.session()
    turn = await slow.sessions.begin_turn(ANN, chat.id, session.id, "a", message_id="mine")
    await asyncio.sleep(0.1)
    await slow.sessions.delete_pair(ANN, chat.id, session.id, turn.message_id)
    assert await lines(slow, session) == []
    again = await slow.sessions.begin_turn(ANN, chat.id, session.id, "b", message_id="mine")
    assert isinstance(await ended(slow, session, again), Done)
    assert await lines(slow, session) == [(1, "user", "b"), (1, "assistant", SLOW)]


async def test_an_answer_is_rated(talk: Talk) -> None:
    chat, session = await talk.session()
    (first,) = await said(talk, session, "a")
    rated = await talk.sessions.rate(ANN, chat.id, session.id, first, up=False, feedback="wrong year")
    assert [(each.thumbup, each.feedback) for each in rated.messages if each.turn] == [
        (None, None),
        (False, "wrong year"),
    ]
    await talk.sessions.rate(ANN, chat.id, session.id, first, up=True)
    found = await talk.sessions.turn(ANN, chat.id, session.id, first)
    assert (found.answer.thumbup, found.answer.feedback) == (True, None)


async def test_a_client_makes_the_ids(talk: Talk) -> None:
    chat, session = await talk.session()
    assert await said(talk, session, "a", message_id="mine") == ["mine"]
    with pytest.raises(Conflict):
        await talk.sessions.begin_turn(ANN, chat.id, session.id, "b", message_id="mine")
    with pytest.raises(InvalidInput):
        await talk.sessions.begin_turn(ANN, chat.id, session.id, "b", message_id="m" * 37)
    other = await talk.sessions.create(ANN, chat.id)
    assert await said(talk, other, "c", message_id="mine") == ["mine"]
    assert await lines(talk, session) == [(1, "user", "a"), (1, "assistant", "About a")]


async def test_an_id_is_refused_while_its_answer_runs(slow: Talk) -> None:
    chat, session = await slow.session()
    begun = [slow.sessions.begin_turn(ANN, chat.id, session.id, "a", message_id="mine") for _ in range(3)]
    first, *others = await asyncio.gather(*begun, return_exceptions=True)
    assert isinstance(first, TurnHandle)
    assert [type(each) for each in others] == [Conflict, Conflict]
    assert isinstance(await ended(slow, session, first), Done)


async def test_a_given_history_goes_over_the_stored_one(talk: Talk) -> None:
    _, session = await talk.session()
    await said(talk, session, "a")
    history = (Turn(role="user", content="x"), Turn(role="assistant", content="y"))
    await said(talk, session, "b", history=history)
    assert [each.content for each in chat_turns(talk)[1:]] == ["x", "y", "b"]


async def test_a_sessions_model_goes_over_the_chats_and_a_messages_over_both(world: World) -> None:
    one, two, three = (ScriptedChat(name, name=f"{name}@Test") for name in ("one", "two", "three"))
    talk = Talk(world, one, others=[two, three])
    chat, session = await talk.session()
    await said(talk, session, "a")
    changed = await talk.sessions.update(ANN, chat.id, session.id, {"llm_id": "two@Test"})
    assert changed.llm_id == "two@Test"
    await said(talk, session, "b")
    await said(talk, session, "c", options=AskOptions(model="three@Test"))
    found = await talk.sessions.find(ANN, session.id)
    answers = [each for each in found.messages if each.role == "assistant" and each.turn]
    assert [(each.content, each.model) for each in answers] == [
        ("one", "one@Test"),
        ("two", "two@Test"),
        ("three", "three@Test"),
    ]
    await talk.sessions.close(5)


async def test_an_unknown_model_is_an_error_of_its_message(talk: Talk) -> None:
    chat, session = await talk.session()
    await talk.sessions.update(ANN, chat.id, session.id, {"llm_id": "nobody@Nowhere"})
    turn = await talk.sessions.begin_turn(ANN, chat.id, session.id, "a")
    failed = await ended(talk, session, turn)
    assert isinstance(failed, Failed)
    assert failed.message == "Model(nobody@Nowhere) not authorized"
    await talk.sessions.update(ANN, chat.id, session.id, {"llm_id": ""})
    again = await talk.sessions.regenerate(ANN, chat.id, session.id, turn.message_id)
    assert isinstance(await ended(talk, session, again), Done)


async def test_sessions_of_share_tokens_are_apart(talk: Talk) -> None:
    chat, session = await talk.session()
    shared = await talk.sessions.create(VISITOR, chat.id)
    assert (session.source, shared.source) == ("api", "share")
    for who, own, other in ((ANN, session, shared), (VISITOR, shared, session)):
        assert [each.id for each in await talk.sessions.list(who, chat.id, Page())] == [own.id]
        assert (await talk.sessions.find(who, own.id)).id == own.id
        with pytest.raises(NotFound):
            await talk.sessions.find(who, other.id)
        with pytest.raises(NotFound):
            await talk.sessions.begin_turn(who, chat.id, other.id, "a")
    assert (await talk.sessions.delete(ANN, chat.id, None)).done == (session.id,)
    assert (await talk.sessions.find(VISITOR, shared.id)).id == shared.id


async def test_a_session_with_an_id_of_the_clients_own(talk: Talk) -> None:
    chat, session = await talk.session()
    made = await talk.sessions.create(ANN, chat.id, session_id="mine")
    assert made.id == "mine"
    for taken in ("mine", session.id):
        with pytest.raises(Conflict):
            await talk.sessions.create(ANN, chat.id, session_id=taken)
    with pytest.raises(InvalidInput):
        await talk.sessions.create(ANN, chat.id, session_id="x" * 33)


@pytest.mark.parametrize("call", ["regenerate", "edit", "delete_pair", "rate", "turn", "find", "replace_messages"])
async def test_what_is_foreign_is_not_found(talk: Talk, call: str) -> None:
    chat, session = await talk.session()
    (first,) = await said(talk, session, "a")
    for who, message in ((BOB, first), (ANN, "unknown")):
        place = (who, chat.id, session.id, message)
        attempts: dict[str, Any] = {
            "regenerate": lambda place=place: talk.sessions.regenerate(*place),
            "edit": lambda place=place: talk.sessions.edit(*place, "x"),
            "delete_pair": lambda place=place: talk.sessions.delete_pair(*place),
            "rate": lambda place=place: talk.sessions.rate(*place, up=True),
            "turn": lambda place=place: talk.sessions.turn(*place),
            "find": lambda: talk.sessions.find(BOB, session.id),
            "replace_messages": lambda: talk.sessions.replace_messages(BOB, session.id, ()),
        }
        with pytest.raises(NotFound):
            await attempts[call]()
    assert await lines(talk, session) == [(1, "user", "a"), (1, "assistant", "About a")]


def given(*messages: tuple[str, str, str]) -> list[GivenMessage]:
    return [
        GivenMessage(role=role, content=content, message_id=message_id)  # type: ignore[arg-type]
        for role, content, message_id in messages
    ]


async def test_messages_are_replaced_and_keep_their_sources(talk: Talk) -> None:
    chat, session = await talk.session(prompt_config={"prologue": "Hello!"})
    first, second = await said(talk, session, "a", "b", options=WITH_DATASET)
    await talk.sessions.rate(ANN, chat.id, session.id, second, up=True)
    before = await talk.sessions.find(ANN, session.id)
    wanted = given(("assistant", "Hello!", ""), ("user", "b", second), ("assistant", "My own words", second))
    after = await talk.sessions.replace_messages(ANN, session.id, wanted)
    assert [(each.turn, each.role, each.content) for each in after.messages] == [
        (0, "assistant", "Hello!"),
        (2, "user", "b"),
        (2, "assistant", "My own words"),
    ]
    old, new = before.messages[-1], after.messages[-1]
    assert new == replace(old, content="My own words")
    assert new.reference is not None
    assert new.thumbup is True
    assert not any(each.message_id == first for each in after.messages)


async def test_the_same_messages_change_no_row(talk: Talk) -> None:
    _, session = await talk.session(prompt_config={"prologue": "Hello!"})
    (first,) = await said(talk, session, "a")

    def rows() -> list[int]:
        return [row.id for row in Message.select().order_by(Message.id)]

    before = await talk.world.db.run(rows)
    same = given(("assistant", "Hello!", ""), ("user", "a", first), ("assistant", "About a", first))
    await talk.sessions.replace_messages(ANN, session.id, same)
    assert await talk.world.db.run(rows) == before


async def test_messages_of_any_order_find_a_place(talk: Talk) -> None:
    _, session = await talk.session()
    odd = given(("user", "a", "1"), ("user", "b", "2"), ("assistant", "c", "2"), ("assistant", "d", ""))
    after = await talk.sessions.replace_messages(ANN, session.id, odd)
    assert [(each.turn, each.role, each.content) for each in after.messages] == [
        (1, "user", "a"),
        (2, "user", "b"),
        (2, "assistant", "c"),
        (3, "assistant", "d"),
    ]
    with pytest.raises(InvalidInput):
        await talk.sessions.replace_messages(ANN, session.id, given(("user", "a", "1" * 37)))
    assert (await talk.sessions.replace_messages(ANN, session.id, ())).messages == ()


async def test_changes_take_the_summaries_that_cover_them(talk: Talk) -> None:
    chat, session = await talk.session()
    ids = await said(talk, session, "a", "b", "c")

    async def summaries_after(change: Any) -> list[int]:
        def write() -> None:
            ConversationSummary.delete().execute()
            for number, message_id in enumerate(ids, 1):
                ConversationSummary.create(
                    conversation_id=session.id, turn=number, message_id=message_id, content="s", create_time=1
                )

        await talk.world.db.write(write)
        await change
        query = ConversationSummary.select().order_by(ConversationSummary.turn)
        return await talk.world.db.run(lambda: [row.turn for row in query])

    place = (ANN, chat.id, session.id)
    opener = (await talk.sessions.find(ANN, session.id)).messages[0].content
    replaced = given(("assistant", opener, ""), ("user", "a", ids[0]), ("assistant", "Changed", ids[0]))
    assert await summaries_after(talk.sessions.replace_messages(ANN, session.id, replaced)) == []
    ids[1:] = await said(talk, session, "b", "c")
    assert await summaries_after(talk.sessions.delete_pair(*place, ids[2])) == [1, 2]
    assert await summaries_after(talk.sessions.regenerate(*place, ids[1])) == [1]
    assert await summaries_after(talk.sessions.delete(ANN, chat.id, [session.id])) == []
