import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from api.db.services.conversation_service import ConversationService, LoggedEvent, TurnHandle
from api.db.services.records import BatchResult, ConversationRecord, Page
from api.db.tables import Conversation, Message
from rag.core.errors import Conflict, InvalidInput, ModelOverloaded, NotFound, StoreUnavailable
from rag.core.events import Done, Failed, RetrievalFinished, Started, Stopped, Token
from tests.unit.api.db.services.talk import WITH_DATASET, Talk, chatter, only
from tests.unit.api.db.services.world import ANN, BOB, World

SLOW = "one two three four five six seven eight nine ten"


async def follow(talk: Talk, session: ConversationRecord, turn: TurnHandle, *, after: int = 0) -> list[LoggedEvent]:
    events = talk.sessions.events(ANN, session.dialog_id, session.id, turn.message_id, after=after)
    return [logged async for logged in events]


async def begin(talk: Talk, session: ConversationRecord, question: str = "How much cash?") -> TurnHandle:
    return await talk.sessions.begin_turn(ANN, session.dialog_id, session.id, question, options=WITH_DATASET)


async def started(talk: Talk, session: ConversationRecord, turn: TurnHandle, tokens: int = 1) -> None:
    """Wait until some tokens have been said."""
    seen = 0
    async for logged in talk.sessions.events(ANN, session.dialog_id, session.id, turn.message_id):
        seen += isinstance(logged.event, Token)
        if seen >= tokens:
            return


@pytest.fixture
async def slow(world: World) -> AsyncIterator[Talk]:
    talk = Talk(world, chatter(f"{SLOW} [ID:0].", wait_s=0.05))
    yield talk
    await talk.sessions.close(5)


@pytest.fixture
async def quick(world: World) -> AsyncIterator[Talk]:
    talk = Talk(world, chatter("It was 42 billion [ID: 0]."))
    yield talk
    await talk.sessions.close(5)


async def test_a_new_session_begins_with_the_opener(quick: Talk) -> None:
    chat, session = await quick.session(prompt_config={"prologue": "Hello!"})
    assert (session.dialog_id, session.tenant_id, session.name, session.user_id) == (chat.id, "ann", "New session", "")
    (opener,) = session.messages
    assert (opener.role, opener.content, opener.turn, opener.message_id) == ("assistant", "Hello!", 0, None)
    assert await quick.sessions.get(ANN, chat.id, session.id) == session


async def test_a_turn_is_saved_with_its_sources(quick: Talk) -> None:
    chat, session = await quick.session()
    turn = await begin(quick, session)
    events = [logged.event for logged in await follow(quick, session, turn)]
    assert events[0] == Started(message_id=turn.message_id, session_id=session.id)
    done = only(events, Done)
    _, question, answer = (await quick.sessions.get(ANN, chat.id, session.id)).messages
    assert (question.role, question.content, question.turn) == ("user", "How much cash?", 1)
    assert question.message_id == answer.message_id == turn.message_id
    assert (answer.content, answer.status, answer.turn) == ("It was 42 billion [ID:0].", "done", 1)
    assert answer.reference == done.reference
    assert [chunk.index for chunk in done.reference.chunks] == [0, 1]
    assert answer.created_at == done.created_at


async def test_the_turn_is_on_the_disk_before_anything_else(slow: Talk) -> None:
    slow.retrieval.gate = asyncio.Event()
    chat, session = await slow.session()
    await begin(slow, session)
    _, question, answer = (await slow.sessions.get(ANN, chat.id, session.id)).messages
    assert (question.content, answer.content, answer.status) == ("How much cash?", "", "generating")


async def test_a_reader_that_leaves_changes_nothing(slow: Talk) -> None:
    _, session = await slow.session()
    turn = await begin(slow, session)
    reader = asyncio.create_task(follow(slow, session, turn))
    await started(slow, session, turn)
    reader.cancel()
    events = await follow(slow, session, turn)
    assert isinstance(events[-1].event, Done)
    assert (await slow.answer_row(session)).status == "done"


async def test_a_reader_comes_back_where_it_was(slow: Talk) -> None:
    _, session = await slow.session()
    turn = await begin(slow, session)
    seen: list[LoggedEvent] = []
    while not seen or not isinstance(seen[-1].event, Done):
        after = seen[-1].event_id if seen else 0
        async for logged in slow.sessions.events(ANN, session.dialog_id, session.id, turn.message_id, after=after):
            seen.append(logged)
            break
    assert [logged.event_id for logged in seen] == list(range(1, len(seen) + 1))
    assert seen == await follow(slow, session, turn)


async def test_partial_text_is_saved_with_the_sources_it_cites(world: World) -> None:
    talk = Talk(world, chatter(f"Cash [ID:0] {SLOW}", wait_s=0.05), save_s=0.05)
    _, session = await talk.session()
    turn = await begin(talk, session)
    await started(talk, session, turn, 5)
    await asyncio.sleep(0.1)
    row = await talk.answer_row(session)
    assert row.status == "generating"
    assert row.content.startswith("Cash [ID:0] one")
    assert row.reference is not None
    assert [each.count for each in row.reference.documents] == [1]
    await talk.sessions.close(5)


async def test_stop_keeps_the_text_and_what_it_cites(world: World) -> None:
    talk = Talk(world, chatter(f"Cash [ID:0] {SLOW}", wait_s=0.05))
    chat, session = await talk.session()
    turn = await begin(talk, session)
    await started(talk, session, turn, 4)
    await talk.sessions.stop_turn(ANN, chat.id, session.id, turn.message_id)
    row = await talk.answer_row(session)
    assert row.status == "stopped"
    assert row.content.startswith("Cash [ID:0] one")
    assert not row.content.endswith("ten")
    assert row.reference is not None
    assert len(row.reference.chunks) == 2
    assert talk.chat.closed == 1
    stopped = (await follow(talk, session, turn))[-1].event
    assert stopped == Stopped(answer=row.content, reason="stopped")
    await talk.sessions.stop_turn(ANN, chat.id, session.id, turn.message_id)
    await talk.sessions.close(5)


@pytest.mark.parametrize("where", ["at once", "search", "queue"])
async def test_stop_before_the_first_token(slow: Talk, where: str) -> None:
    chat, session = await slow.session()
    slow.retrieval.gate = asyncio.Event()
    if where == "queue":
        await begin(slow, session)
    turn = await begin(slow, session)
    if where != "at once":
        await asyncio.sleep(0.05)
    await slow.sessions.stop_turn(ANN, chat.id, session.id, turn.message_id)
    row = await slow.answer_row(session, 2 if where == "queue" else 1)
    assert (row.status, row.content, row.reference) == ("stopped", "", None)


@pytest.mark.parametrize("wait_s", [0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.03, 0.06])
async def test_stop_at_any_time_leaves_an_end_that_all_agree_on(quick: Talk, wait_s: float) -> None:
    chat, session = await quick.session()
    turn = await begin(quick, session)
    await asyncio.sleep(wait_s)
    await quick.sessions.stop_turn(ANN, chat.id, session.id, turn.message_id)
    row = await quick.answer_row(session)
    last = (await follow(quick, session, turn))[-1].event
    assert row.status in ("done", "stopped")
    assert isinstance(last, Done if row.status == "done" else Stopped)
    assert last.answer == row.content  # type: ignore[union-attr]


@pytest.mark.parametrize("fail_after", [0, 2])
async def test_a_failing_model_leaves_a_failed_turn_with_its_text(world: World, fail_after: int) -> None:
    error = ModelOverloaded("Busy: try later.", started=fail_after > 0)
    talk = Talk(world, chatter("Cash [ID:0] was", fail=error, fail_after=fail_after))
    _, session = await talk.session()
    turn = await begin(talk, session)
    text = "Cash [ID:0]" if fail_after else ""
    failed = Failed(code="model_overloaded", message="Busy: try later.", answer=text)
    assert (await follow(talk, session, turn))[-1].event == failed
    row = await talk.answer_row(session)
    assert (row.status, row.content, row.error) == ("failed", text, "model_overloaded: Busy: try later.")
    assert (row.reference is not None) == bool(fail_after)
    await talk.log.drop(turn.stream)
    assert [logged.event for logged in await follow(talk, session, turn)] == [failed]
    await talk.sessions.close(5)


async def test_an_unforeseen_error_ends_the_turn_without_its_text(quick: Talk) -> None:
    quick.retrieval.error = ZeroDivisionError("secret")
    _, session = await quick.session()
    turn = await begin(quick, session)
    failed = only([logged.event for logged in await follow(quick, session, turn)], Failed)
    assert failed.code == "internal"
    assert "secret" not in failed.message
    assert (await quick.answer_row(session)).status == "failed"


@pytest.mark.parametrize("status", ["done", "stopped", "interrupted", "failed", "generating"])
async def test_old_answers_are_told_from_their_rows(quick: Talk, world: World, status: str) -> None:
    _, session = await quick.session()
    turn = await begin(quick, session)
    await follow(quick, session, turn)
    done = await quick.answer_row(session)
    await world.db.write(
        lambda: Message.update(status=status, error="model_error: No.").where(Message.role == "assistant").execute()
    )
    await quick.log.drop(turn.stream)
    (logged,) = await follow(quick, session, turn, after=17)
    assert logged.event_id == 18
    event = logged.event
    assert event.answer == done.content  # type: ignore[union-attr]
    if status == "done":
        assert isinstance(event, Done)
        assert event.reference == done.reference
    elif status == "failed":
        assert event == Failed(code="model_error", message="No.", answer=done.content)
    else:
        assert event == Stopped(answer=done.content, reason="stopped" if status == "stopped" else "interrupted")


async def test_two_turns_at_once_are_ordered_and_both_kept(slow: Talk) -> None:
    chat, session = await slow.session()
    turns = await asyncio.gather(*(begin(slow, session, f"Question {n}?") for n in range(3)))
    for turn in turns:
        assert isinstance((await follow(slow, session, turn))[-1].event, Done)
    messages = (await slow.sessions.get(ANN, chat.id, session.id)).messages
    assert [(each.turn, each.role) for each in messages] == [
        (0, "assistant"), *((turn, role) for turn in (1, 2, 3) for role in ("user", "assistant")),
    ]  # fmt: skip
    assert all(each.status == "done" for each in messages)
    answers = [request for request in slow.chat.requests if request.grounding is not None]
    assert [sum(turn.role == "assistant" for turn in request.turns) for request in answers] == [0, 1, 2]


async def test_fifty_sessions_at_once_do_not_mix(world: World) -> None:
    talk = Talk(world, chatter(lambda request: f"Cash: 42 [ID:0]. Echo {request.turns[-1].content}.", wait_s=0.002))
    chat, _ = await talk.session()
    sessions = [await talk.sessions.create(ANN, chat.id, name=f"s{n}") for n in range(50)]
    turns = await asyncio.gather(*(begin(talk, session, f"q{n}") for n, session in enumerate(sessions)))
    await asyncio.gather(*(follow(talk, session, turn) for session, turn in zip(sessions, turns, strict=True)))
    for number, session in enumerate(sessions):
        _, question, answer = (await talk.sessions.get(ANN, chat.id, session.id)).messages
        assert (question.content, answer.content, answer.status) == (
            f"q{number}",
            f"Cash: 42 [ID:0]. Echo q{number}.",
            "done",
        )
    await talk.sessions.close(5)


async def test_a_turn_goes_on_when_the_one_who_asked_is_cancelled(slow: Talk) -> None:
    chat, session = await slow.session()
    asking = asyncio.create_task(begin(slow, session))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    async with asyncio.timeout(10):
        while len((await slow.sessions.get(ANN, chat.id, session.id)).messages) < 3:
            await asyncio.sleep(0.01)
        while (await slow.answer_row(session)).status == "generating":
            await asyncio.sleep(0.05)
    assert (await slow.answer_row(session)).status == "done"


async def test_deleting_a_session_stops_its_turns(slow: Talk) -> None:
    chat, session = await slow.session()
    other = await slow.sessions.create(ANN, chat.id)
    turn, going_on = await begin(slow, session), await begin(slow, other)
    reader = asyncio.create_task(follow(slow, session, turn))
    await started(slow, session, turn)
    assert await slow.sessions.delete(ANN, chat.id, [session.id, "x", session.id]) == BatchResult(
        done=(session.id,), unknown=("x",), duplicates=(session.id,)
    )
    assert isinstance((await reader)[-1].event, Stopped)
    with pytest.raises(NotFound) as caught:
        await follow(slow, session, turn)
    assert caught.value.kind == "session"
    assert isinstance((await follow(slow, other, going_on))[-1].event, Done)
    assert await slow.sessions.delete(ANN, chat.id, None) == BatchResult(done=(other.id,))
    assert await slow.world.db.run(lambda: Message.select().count() + Conversation.select().count()) == 0


async def test_close_ends_running_turns_and_saves_them(world: World) -> None:
    tasks = asyncio.all_tasks()
    talk = Talk(world, chatter(f"{SLOW} end", wait_s=0.05))
    _, session = await talk.session()
    turn, waiting = await begin(talk, session), await begin(talk, session)
    reader = asyncio.create_task(follow(talk, session, turn))
    await started(talk, session, turn, 2)
    began = time.monotonic()
    await talk.sessions.close(5)
    assert time.monotonic() - began < 2
    last = (await reader)[-1].event
    row = await talk.answer_row(session)
    assert row.status == "interrupted"
    assert row.content.startswith("one two")
    assert last == Stopped(answer=row.content, reason="interrupted")
    assert (await talk.answer_row(session, 2)).status == "interrupted"
    assert waiting.message_id != turn.message_id
    with pytest.raises(Conflict):
        await begin(talk, session)
    await talk.models.settle()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks
    await talk.sessions.close(5)


async def test_no_task_is_left_after_an_answer(quick: Talk) -> None:
    tasks = asyncio.all_tasks()
    _, session = await quick.session()
    await follow(quick, session, await begin(quick, session))
    await quick.sessions.close(5)
    await quick.models.settle()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks


async def test_a_dead_process_leaves_interrupted_answers_with_their_text(slow: Talk) -> None:
    _, session = await slow.session()
    turn = await begin(slow, session)
    await started(slow, session, turn, 3)
    await asyncio.sleep(0.15)
    other = Talk(slow.world, slow.chat)
    assert await other.sessions.recover() == 1
    assert await other.sessions.recover() == 0
    row = await slow.answer_row(session)
    assert row.status == "interrupted"
    assert row.content.startswith("one two")
    (logged,) = await follow(other, session, turn)
    assert logged.event == Stopped(answer=row.content, reason="interrupted")
    await follow(slow, session, turn)
    assert (await slow.answer_row(session)).status == "done", "it was not dead after all: nothing is lost"


class FullDisk:
    """The rows, until the disk is full."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self.full = False

    async def run(self, fn: Any) -> Any:
        return await self._db.run(fn)

    async def write(self, fn: Any) -> Any:
        if self.full:
            raise StoreUnavailable("The disk is full.")
        return await self._db.write(fn)


async def test_an_answer_that_cannot_be_saved_ends_with_the_reason(world: World) -> None:
    talk = Talk(world, chatter(SLOW, wait_s=0.02), save_s=0.05)
    disk = FullDisk(world.db)
    _, session = await talk.session()
    service = ConversationService(disk, world.clock, talk.log, talk.dialogs, talk.settings)  # type: ignore[arg-type]
    talk.sessions = service
    turn = await begin(talk, session)
    disk.full = True
    last = (await follow(talk, session, turn))[-1].event
    assert last == Failed(code="store_unavailable", message="The disk is full.", answer=SLOW)
    with pytest.raises(StoreUnavailable):
        await begin(talk, session)
    disk.full = False
    assert isinstance((await follow(talk, session, await begin(talk, session)))[-1].event, Done)
    await service.close(5)


async def test_what_is_not_the_principals_is_not_found(quick: Talk) -> None:
    chat, session = await quick.session()
    turn = await begin(quick, session)
    await follow(quick, session, turn)
    other_chat = await quick.assistants.create(ANN, {"name": "other", "llm_id": chat.llm_id})
    bobs = await quick.assistants.create(BOB, {"name": "bobs", "llm_id": chat.llm_id})
    service = quick.sessions
    for principal, dialog_id, session_id, kind in [
        (BOB, chat.id, session.id, "session"),
        (BOB, bobs.id, session.id, "session"),
        (ANN, other_chat.id, session.id, "session"),
        (ANN, chat.id, "' OR 1=1 --", "session"),
        (ANN, "nothing", session.id, "session"),
    ]:
        calls: list[Any] = [
            service.get(principal, dialog_id, session_id),
            service.update(principal, dialog_id, session_id, {"name": "x"}),
            service.begin_turn(principal, dialog_id, session_id, "q"),
            service.stop_turn(principal, dialog_id, session_id, turn.message_id),
            anext(aiter(service.events(principal, dialog_id, session_id, turn.message_id))),
        ]
        for call in calls:
            with pytest.raises(NotFound) as caught:
                await call
            assert caught.value.kind == kind
    for call in (service.create(BOB, chat.id), service.list(BOB, chat.id, Page()), service.delete(BOB, chat.id, None)):
        with pytest.raises(NotFound):
            await call
    assert (await service.delete(ANN, other_chat.id, [session.id])).unknown == (session.id,)
    second = await service.create(ANN, chat.id)
    with pytest.raises(NotFound) as caught:
        await follow(quick, second, turn)
    assert caught.value.kind == "message"
    assert len((await service.get(ANN, chat.id, session.id)).messages) == 3


async def test_sessions_of_a_deleted_chat_are_out_of_reach(quick: Talk) -> None:
    chat, session = await quick.session()
    await quick.assistants.delete(ANN, [chat.id])
    with pytest.raises(NotFound):
        await quick.sessions.get(ANN, chat.id, session.id)


async def test_lists_are_paged_ordered_and_narrowed(quick: Talk) -> None:
    chat, first = await quick.session()
    made = [first] + [await quick.sessions.create(ANN, chat.id, name=f"s{n}", user_id=f"u{n % 2}") for n in range(4)]
    listed = await quick.sessions.list(ANN, chat.id, Page(size=2))
    assert [each.name for each in listed] == ["s3", "s2"]
    assert await quick.sessions.list(ANN, chat.id, Page(), user_id="u1", name="s3") == [made[4]]
    assert await quick.sessions.list(ANN, chat.id, Page(), id="nothing") == []
    ordered = await quick.sessions.list(ANN, chat.id, Page(order_by="name", descending=False))
    assert [each.name for each in ordered] == ["New session", "s0", "s1", "s2", "s3"]
    for column in ("messages", "x; DROP TABLE message"):
        with pytest.raises(InvalidInput) as caught:
            await quick.sessions.list(ANN, chat.id, Page(order_by=column))
        assert caught.value.facts["field"] == "orderby"


async def test_an_update_changes_name_and_user(quick: Talk) -> None:
    chat, session = await quick.session()
    changed = await quick.sessions.update(ANN, chat.id, session.id, {"name": "Talk", "user_id": "u"})
    assert (changed.name, changed.user_id) == ("Talk", "u")
    assert changed.update_time > session.update_time
    assert changed.messages == session.messages
    for wrong in ({"name": ""}, {"name": None}, {"name": "x" * 256}, {"dialog_id": "x"}, {"user_id": 3}):
        with pytest.raises(InvalidInput):
            await quick.sessions.update(ANN, chat.id, session.id, wrong)
    assert (await quick.sessions.get(ANN, chat.id, session.id)).name == "Talk"


async def test_a_slow_reader_holds_up_neither_the_answer_nor_others(quick: Talk) -> None:
    _, session = await quick.session()
    turn = await begin(quick, session)
    slow_reader = aiter(quick.sessions.events(ANN, session.dialog_id, session.id, turn.message_id))
    first = await anext(slow_reader)
    events = await follow(quick, session, turn)
    assert [first, *[logged async for logged in slow_reader]] == events


@pytest.mark.parametrize("question", ["", "x" * 10**6, "\u0000", "😀", "\ud800", "{knowledge}"])
async def test_any_question_is_kept_and_answered(quick: Talk, question: str) -> None:
    chat, session = await quick.session()
    turn = await begin(quick, session, question)
    assert isinstance((await follow(quick, session, turn))[-1].event, Done)
    kept = (await quick.sessions.get(ANN, chat.id, session.id)).messages[1].content
    assert kept == question.encode("utf-8", "replace").decode()


async def test_a_session_of_many_messages_stays_quick(quick: Talk, world: World) -> None:
    _, session = await quick.session()

    def fill() -> None:
        common = {"conversation_id": session.id, "status": "done", "prompt": "", "error": "", "created_at": 0.0}
        rows = [
            common | {"turn": turn, "role": role, "content": f"{role} {turn}"}
            for turn in range(1, 2501)
            for role in ("user", "assistant")
        ]
        for start in range(0, len(rows), 100):
            Message.insert_many(rows[start : start + 100]).execute()

    await world.db.write(fill)
    turn = await begin(quick, session)
    events = [logged.event for logged in await follow(quick, session, turn)]
    assert only(events, RetrievalFinished).reference.chunks
    request = quick.chat.requests[-1]
    assert len(request.turns) < 50
    assert request.turns[-1].content == "How much cash?"
    assert request.turns[-2].content == "assistant 2500"


async def test_an_end_is_stored_once(quick: Talk, world: World) -> None:
    """A second end, as after a crash that was taken over, changes nothing."""
    _, session = await quick.session()
    turn = await begin(quick, session)
    await follow(quick, session, turn)
    before = await quick.answer_row(session)
    assert await quick.sessions.recover() == 0
    assert await quick.answer_row(session) == before
    assert replace(before, content="x") != before
