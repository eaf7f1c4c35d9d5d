"""Answers with tools: sources joined, failures survived, stops heard, and everything as before without tools."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from orjson import dumps
from pydantic import SecretStr

from api.db.services.dialog_service import AskOptions
from api.db.services.records import ConversationRecord, ModelCall, RetrievalRequest
from api.db.services.tool_sources import READ_SPEC, SEARCH_SPEC
from api.db.tables import Dialog
from rag.core.errors import ModelOverloaded, ModelRefused, StoreUnavailable
from rag.core.events import (
    Cited,
    Done,
    Failed,
    Reasoning,
    RetrievalFinished,
    RetrievalStarted,
    Started,
    Token,
    ToolArguments,
    ToolFinished,
    ToolStarted,
    Usage,
)
from rag.core.tool_settings import ToolSettings
from rag.core.types import Hit, Picture, Principal, Reference, Retrieved, TokenUsage, Turn
from rag.llm.base import ChatRequest, Delta, ModelInfo, ToolFragment, ToolSpec
from rag.llm.deadlines import Deadlines
from rag.llm.endpoint import Endpoint
from rag.llm.openai_lane import OpenAiLane
from rag.llm.tool_round import ToolResult
from rag.llm.upstream import UpstreamPool
from rag.testing.scripted_chat import ABLE
from rag.testing.scripted_replies import ScriptedReplies, call, calls, says
from rag.testing.upstream import FaultyUpstream, Plan
from tests.unit.api.db.services.talk import CASH, DEBT, RAIN, Talk, all_of, hits, only, spoken
from tests.unit.api.db.services.world import ANN, World

EMPTY = "Nothing found, sorry."
SEARCH = call("search_knowledge", '{"question": "rain?"}')
HELD = hits(CASH, DEBT, RAIN)


class ByQuestion:
    """Finds by the first word of the question; counts the questions."""

    def __init__(self, found: Mapping[str, Sequence[Hit]]) -> None:
        self.found = found
        self.requests: list[RetrievalRequest] = []
        self.error: StoreUnavailable | None = None

    async def retrieve(self, principal: Principal, request: RetrievalRequest) -> Retrieved:
        self.requests.append(request)
        if self.error is not None and len(self.requests) > 1:
            raise self.error
        found = tuple(self.found.get(request.question.split()[0].strip("?"), ()))
        return Retrieved(hits=found, total=len(found))


class Weather:
    """An MCP server of one tool, in the place of real ones."""

    def __init__(self, work: Any = None) -> None:
        self.work = work
        self.spec = ToolSpec(
            name="weather__now", description="Weather.", parameters={"type": "object", "properties": {}}
        )

    @property
    def names(self) -> frozenset[str]:
        return frozenset({"weather", "dead"})

    async def tools(self, server: str) -> Sequence[Any]:
        return [self] if server == "weather" else []

    async def call(self, arguments: Mapping[str, Any]) -> ToolResult:
        if self.work is not None:
            return await self.work()
        return ToolResult(text="sunny")


def talk(world: World, *replies: Any, found: Mapping[str, Sequence[Hit]] | None = None, **more: Any) -> Talk:
    retrieval = ByQuestion({"cash": HELD[:1], "rain": HELD} if found is None else found)
    return Talk(world, ScriptedReplies(*replies), mcp=more.pop("mcp", Weather()), retrieval=retrieval, **more)


async def turn_of(made: Talk, session: ConversationRecord, question: str) -> list[Any]:
    """The events of a stored turn over one dataset."""
    chat_id, options = session.dialog_id, AskOptions(dataset_ids=("k1",))
    turn = await made.sessions.begin_turn(ANN, chat_id, session.id, question, options=options)
    return [logged.event async for logged in made.sessions.events(ANN, chat_id, session.id, turn.message_id)]


def asked(made: Talk, question: str = "cash?", *, tools: Any = ("search_knowledge",), **prompt: Any) -> Any:
    return made.ask(question, dialog=made.dialog(prompt={"tools": list(tools), **prompt}))


def shown(events: list[Any]) -> str:
    return "".join(event.text for event in events if isinstance(event, Token))


async def test_what_a_tool_finds_joins_the_sources_of_the_answer(world: World) -> None:
    made = talk(world, calls(SEARCH, text="I look."), says("Cash is 42 [ID:0]. It rained [ID:2]."))
    events = await all_of(asked(made))
    assert [type(event) for event in events if not isinstance(event, Token)] == [
        Started, RetrievalStarted, RetrievalFinished, ToolStarted, ToolFinished, RetrievalFinished, Cited, Usage, Done,
    ]  # fmt: skip
    first, joined = [event.reference for event in events if isinstance(event, RetrievalFinished)]
    assert [chunk.content for chunk in first.chunks] == [CASH]
    assert [(chunk.index, chunk.content) for chunk in joined.chunks] == [(0, CASH), (1, DEBT), (2, RAIN)]
    done = only(events, Done)
    assert done.answer == "I look.\n\nCash is 42 [ID:0]. It rained [ID:2]."
    assert done.reference.chunks == joined.chunks == only(events, Cited).reference.chunks
    assert [each.document_name for each in done.reference.documents] == ["report0.pdf", "report2.pdf"]
    assert len(made.chat.requests) == 2
    (result,) = [turn for turn in made.chat.requests[1].turns if turn.role == "tool"]
    assert "<source id=2>" in result.content
    assert "Found as well, shown before: [ID:0]" in result.content
    assert made.retrieval.requests[1].dataset_ids == ("k1",)
    assert only(events, Usage).usage == TokenUsage(prompt_tokens=20, completion_tokens=10)


async def test_the_joined_sources_are_saved_with_the_message(world: World) -> None:
    made = talk(world, calls(SEARCH), says("It rained [ID:2]."))
    _, session = await made.session(prompt_config={"tools": ["search_knowledge"]})
    done = only(await turn_of(made, session, "cash?"), Done)
    row = await made.answer_row(session)
    assert (row.status, row.content) == ("done", "It rained [ID:2].")
    assert row.reference == done.reference
    assert [chunk.content for chunk in done.reference.chunks] == [CASH, DEBT, RAIN]
    await made.sessions.close(5)


async def test_without_the_capability_all_is_as_before(world: World) -> None:
    made = Talk(world, ScriptedReplies(says("Cash is 42 [ID:0]."), tools=False))
    events = await all_of(asked(made, tools=["search_knowledge", "weather"], agentic=True))
    assert [type(event) for event in events if not isinstance(event, Token)] == [
        Started, RetrievalStarted, RetrievalFinished, Cited, Usage, Done,
    ]  # fmt: skip
    assert made.chat.requests[0].tools == ()


@pytest.mark.parametrize("tools", [None, "search_knowledge", [], [5], ["nonsense"], ["dead"]])
async def test_without_a_usable_name_there_are_no_tools(world: World, tools: Any) -> None:
    made = talk(world, says("Cash is 42 [ID:0]."))
    done = only(await all_of(made.ask("cash?", dialog=made.dialog(prompt={"tools": tools}))), Done)
    assert made.chat.requests[0].tools == ()
    assert done.reference.chunks


async def test_the_settings_enable_tools_where_a_chat_names_none(world: World) -> None:
    made = talk(world, says("x"), tools=ToolSettings(enabled=("read_document", "weather")))
    await all_of(made.ask("cash?"))
    await all_of(asked(made, tools=()))
    assert [[spec.name for spec in request.tools] for request in made.chat.requests] == [
        ["read_document", "weather__now"],
        [],
    ]


async def test_tools_that_search_need_datasets(world: World) -> None:
    made = talk(world, says("x"))
    dialog = made.dialog(dataset_ids=(), prompt={"tools": ["search_knowledge", "read_document", "weather"]})
    await all_of(made.ask("cash?", dialog=dialog))
    assert [spec.name for spec in made.chat.requests[0].tools] == ["weather__now"]


async def test_the_specs_are_the_built_in_ones(world: World) -> None:
    made = talk(world, says("x"))
    await all_of(asked(made, tools=["search_knowledge", "read_document"]))
    assert made.chat.requests[0].tools == (SEARCH_SPEC, READ_SPEC)


# ---- agentic: the model searches by itself


async def test_an_agentic_chat_searches_only_through_the_model(world: World) -> None:
    made = talk(world, calls(SEARCH), says("Cash is 42 [ID:0]. It rained [ID:2]."))
    events = await all_of(asked(made, tools=(), agentic=True))
    assert [request.question for request in made.retrieval.requests] == ["rain?"]
    first, second = made.chat.requests
    assert "Search it with the tool search_knowledge" in first.turns[0].content
    assert "[ID:n]" in first.turns[0].content
    assert first.turns[0] == second.turns[0]
    done = only(events, Done)
    assert [chunk.content for chunk in done.reference.chunks] == [CASH, DEBT, RAIN]
    assert done.answer == "Cash is 42 [ID:0]. It rained [ID:2]."


async def test_an_agentic_answer_that_needs_no_search_has_no_sources(world: World) -> None:
    made = talk(world, says("Hello!"))
    events = await all_of(asked(made, "Hi", agentic=True, empty_response=EMPTY))
    assert only(events, Done).answer == "Hello!"
    assert only(events, Done).reference == Reference()
    assert not [event for event in events if isinstance(event, RetrievalFinished)]


async def test_an_agentic_search_that_finds_nothing_gives_the_empty_response(world: World) -> None:
    made = talk(world, calls(SEARCH, text="I look."), says("I make it up."), found={})
    events = await all_of(asked(made, agentic=True, empty_response=EMPTY))
    assert shown(events) == f"I look.\n\n{EMPTY}"
    assert only(events, Done).answer == EMPTY
    assert only(events, Done).reference == only(events, RetrievalFinished).reference == Reference()


async def test_an_agentic_search_that_finds_later_gives_what_was_held_back(world: World) -> None:
    again = call("search_knowledge", '{"question": "cash?"}', "again")
    made = talk(world, calls(SEARCH), calls(again, text="Once more."), says("42 [ID:0]."), found={"cash": HELD[:1]})
    events = await all_of(asked(made, agentic=True, empty_response=EMPTY))
    assert shown(events) == "Once more.\n\n42 [ID:0]."
    assert only(events, Done).answer == "Once more.\n\n42 [ID:0]."


async def test_a_failed_search_is_not_an_empty_one(world: World) -> None:
    made = talk(world, calls(call("search_knowledge", "{}")), says("I cannot search now."), found={})
    events = await all_of(asked(made, agentic=True, empty_response=EMPTY))
    assert only(events, Done).answer == "I cannot search now."


async def test_nothing_found_at_first_still_ends_with_the_empty_response(world: World) -> None:
    made = talk(world, says("x"), found={})
    events = await all_of(asked(made, empty_response=EMPTY))
    assert only(events, Done).answer == EMPTY
    assert made.chat.requests == []


async def test_without_quotes_found_passages_leave_no_sources_and_no_marks(world: World) -> None:
    made = talk(world, calls(SEARCH), says("It rained [ID:2]."))
    done = only(await all_of(asked(made, quote=False)), Done)
    assert (done.answer, done.reference) == ("It rained.", Reference())


async def test_marks_are_put_in_for_what_tools_found(world: World) -> None:
    made = talk(world, calls(SEARCH), says(RAIN))
    done = only(await all_of(asked(made)), Done)
    assert done.answer == f"{RAIN} [ID:2]"


# ---- failures


async def test_a_failed_tool_is_told_and_the_answer_goes_on(world: World) -> None:
    made = talk(world, calls(SEARCH), says("Cash is 42 [ID:0]."))
    made.retrieval.error = StoreUnavailable("The index does not answer.")
    events = await all_of(asked(made))
    assert only(events, ToolFinished).error == "The index does not answer."
    assert only(events, Done).answer == "Cash is 42 [ID:0]."
    assert made.chat.requests[1].turns[-1].content == "Error: The index does not answer."


async def test_a_model_that_only_ever_calls_ends_in_a_clear_error(world: World) -> None:
    made = talk(world, calls(SEARCH), tools=ToolSettings(rounds=2))
    events = await all_of(asked(made))
    assert only(events, Failed).code == "model_bad_output"
    assert [len(request.tools) for request in made.chat.requests] == [1, 0]


def refusing_tools(request: ChatRequest) -> Any:
    if request.tools:
        return [ModelRefused("'m': Invalid schema for function 'weather__now'.", status=400)]
    return says("Without tools it works.")


async def test_a_refused_tool_schema_fails_its_message_and_the_conversation_goes_on(world: World) -> None:
    made = talk(world, refusing_tools)
    chat, session = await made.session(prompt_config={"tools": ["weather"], "refine_multiturn": False})
    assert "Invalid schema" in only(await turn_of(made, session, "cash?"), Failed).message
    row = await made.answer_row(session)
    assert (row.status, row.error) == ("failed", "model_refused: 'm': Invalid schema for function 'weather__now'.")
    await made.assistants.update(ANN, chat.id, {"prompt_config": {**chat.prompt_config, "tools": []}})
    await turn_of(made, session, "cash?")
    row = await made.answer_row(session, 2)
    assert (row.status, row.content) == ("done", "Without tools it works.")
    await made.sessions.close(5)


# ---- stopping


async def test_leaving_in_the_middle_of_a_tool_cancels_it(world: World) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> ToolResult:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    made = talk(world, calls(call("weather__now"), text="I look."), says("x"), mcp=Weather(work))

    async def read() -> None:
        async with aclosing(asked(made, tools=["weather"])) as events:
            async for _ in events:
                pass

    reader = asyncio.create_task(read())
    await asyncio.wait_for(began.wait(), 5)
    at = time.monotonic()
    reader.cancel()
    await asyncio.wait({reader})
    assert cancelled.is_set()
    assert time.monotonic() - at < 0.2
    assert len(made.chat.requests) == 1


async def test_a_stopped_turn_keeps_its_text_and_the_sources_that_tools_found(world: World) -> None:
    made = talk(world, calls(SEARCH), [Delta(text="It rained [ID:2]."), asyncio.Event()])
    chat, session = await made.session(prompt_config={"tools": ["search_knowledge"]})
    options = AskOptions(dataset_ids=("k1",))
    turn = await made.sessions.begin_turn(ANN, chat.id, session.id, "cash?", options=options)
    async for logged in made.sessions.events(ANN, chat.id, session.id, turn.message_id):
        if isinstance(logged.event, Token):
            break
    await made.sessions.stop_turn(ANN, chat.id, session.id, turn.message_id)
    row = await made.answer_row(session)
    assert (row.status, row.content) == ("stopped", "It rained [ID:2].")
    assert row.reference is not None
    assert [chunk.content for chunk in row.reference.chunks] == [CASH, DEBT, RAIN]
    assert [each.document_name for each in row.reference.documents] == ["report2.pdf"]
    await made.sessions.close(5)


# ---- the rest of a request


async def test_pictures_of_the_history_reach_every_round(world: World) -> None:
    picture = Picture(media_type="image/png", data=b"png")
    made = talk(world, calls(call("weather__now")), says("x"))
    turns = (
        Turn(role="user", content="", pictures=(picture,)),
        Turn(role="assistant", content="A cat."),
        Turn(role="user", content="cash?", pictures=(picture,)),
    )
    dialog = made.dialog(prompt={"tools": ["weather"], "refine_multiturn": False})
    await all_of(made.dialogs.chat(ANN, dialog, turns, message_id="m"))
    for request in made.chat.requests:
        assert [turn.pictures for turn in request.turns if turn.role == "user"] == [(picture,), (picture,)]


@pytest.mark.parametrize("position", ["on", "off"])
async def test_pieces_of_arguments_are_shown_where_the_flag_says_so(world: World, position: str) -> None:
    def script(request: ChatRequest) -> Any:
        if len(made.chat.requests) > 1:
            return says("x")
        pieces = [Delta(fragments=(ToolFragment(index=0, name="weather__now", arguments="{}"),))]
        return [*(pieces if request.tool_fragments else []), *calls(call("weather__now"))]

    made = talk(world, script, features={"partial_tool_streaming": position})
    events = await all_of(asked(made, tools=["weather"]))
    pieces = [event for event in events if isinstance(event, ToolArguments)]
    assert pieces == ([ToolArguments(index=0, name="weather__now", text="{}")] if position == "on" else [])


@pytest.mark.parametrize("position", ["on", "off"])
async def test_caching_is_asked_for_where_the_flag_says_so(world: World, position: str) -> None:
    made = talk(world, calls(SEARCH), says("x"), features={"prompt_caching": position})
    await all_of(asked(made))
    assert [request.cache_prefix for request in made.chat.requests] == [position == "on"] * 2


async def test_pictures_of_the_history_are_named_to_a_model_that_cannot_see(world: World) -> None:
    chat = ScriptedReplies(says("x"))
    chat.info = replace(chat.info, capabilities=replace(chat.info.capabilities, vision=False))
    made = Talk(world, chat, mcp=Weather())
    picture = Picture(media_type="image/png", data=b"png")
    turns = (
        Turn(role="user", content="This?", pictures=(picture,)),
        Turn(role="assistant", content="A cat."),
        Turn(role="user", content="cash?"),
    )
    dialog = made.dialog(prompt={"refine_multiturn": False})
    assert only(await all_of(made.dialogs.chat(ANN, dialog, turns, message_id="m")), Done).answer
    asked_turn = chat.requests[0].turns[1]
    assert (asked_turn.content, asked_turn.pictures) == ("This?\n(A picture, which you cannot see.)", ())


async def test_reasoning_between_tools_is_shown(world: World) -> None:
    made = talk(world, [Delta(reasoning="Hm."), *calls(SEARCH)], [Delta(reasoning="Ah."), *says("x")])
    events = await all_of(asked(made))
    assert [event.text for event in events if isinstance(event, Reasoning)] == ["Hm.", "Ah."]


# ---- over HTTP, and on other models

READS = Plan(
    tool_calls=(call("search_knowledge", '{"question": "rain?"}'),), tools_first=True, tokens=("Rain", " [ID:2].")
)


@asynccontextmanager
async def over_http(upstream: FaultyUpstream) -> AsyncIterator[OpenAiLane]:
    pool = UpstreamPool()
    await pool.open()
    info = ModelInfo(name="mock@OpenAI", context_tokens=8192, max_output_tokens=1024, capabilities=ABLE)
    endpoint = Endpoint(base_url=upstream.url, api_key=SecretStr("sk-secret"), model="mock")
    try:
        yield OpenAiLane(info, endpoint, pool=pool, deadlines=Deadlines(first_token_s=5, next_token_s=5, answer_s=20))
    finally:
        await pool.close()


async def test_over_http_a_turn_with_one_tool_costs_two_requests_and_two_rows(world: World) -> None:
    rows: list[ModelCall] = []

    class Sink:
        async def record(self, call: ModelCall) -> None:
            rows.append(call)

    async with FaultyUpstream().serving() as upstream, over_http(upstream) as lane:
        upstream.will(READS)
        retrieval = ByQuestion({"cash": HELD[:1], "rain": HELD})
        made = Talk(world, lane, mcp=Weather(), retrieval=retrieval, usage=Sink())
        events = await all_of(asked(made, tools=["search_knowledge", "read_document"]))
        await made.models.settle()
    done = only(events, Done)
    assert done.answer == "Rain [ID:2]."
    assert done.reference.chunks[2].content == RAIN
    first, second = [seen.body for seen in upstream.requests]
    assert dumps(first["tools"]) == dumps(second["tools"])
    assert dumps(second["messages"]).startswith(dumps(first["messages"])[:-1])
    assert [message["role"] for message in second["messages"]] == ["system", "user", "assistant", "tool"]
    assert [(row.purpose, row.tool_calls) for row in rows] == [("answer", 1), ("answer", 0)]


async def test_over_http_the_last_request_has_no_tools(world: World) -> None:
    async with FaultyUpstream().serving() as upstream, over_http(upstream) as lane:
        upstream.will(*[Plan(tool_calls=(call("weather__now"),), tokens=())] * 2, Plan(tokens=("Enough",)))
        made = Talk(world, lane, mcp=Weather(), tools=ToolSettings(rounds=3))
        events = await all_of(asked(made, tools=["weather"]))
    assert only(events, Done).answer == "Enough"
    assert ["tools" in seen.body for seen in upstream.requests] == [True, True, False]


async def test_over_http_stopping_in_a_reply_closes_the_providers_connection(world: World) -> None:
    async with FaultyUpstream().serving() as upstream, over_http(upstream) as lane:
        upstream.will(Plan(tool_calls=(call("weather__now"),), tokens=()), Plan(fault="hang_midway", after=1))
        made = Talk(world, lane, mcp=Weather())
        async with aclosing(asked(made, tools=["weather"])) as events:
            async for event in events:
                if isinstance(event, Token):
                    break
            at = time.monotonic()
        assert time.monotonic() - at < 0.2
        async with asyncio.timeout(2):
            while not upstream.closed_early:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("position", ["on", "off"])
async def test_fallback_models_of_the_chat_answer_where_the_flag_says_so(world: World, position: str) -> None:
    broken = ScriptedReplies([ModelOverloaded("'m': busy", status=503)], name="broken@Testing")
    other = ScriptedReplies(calls(call("weather__now")), says("From the other."), name="other@Testing")
    made = Talk(world, broken, others=[other], mcp=Weather(), features={"fallback": position})
    setting = {"fallback_models": ["gone@Nowhere", "other@Testing", 5]}
    events = await all_of(made.ask("cash?", dialog=made.dialog(llm_setting=setting, prompt={"tools": ["weather"]})))
    if position == "on":
        assert only(events, Done).answer == "From the other."
        assert only(events, Usage).model == "other@Testing"
    else:
        assert only(events, Failed).code == "model_overloaded"
        assert other.requests == []


async def test_a_model_that_is_gone_fails_its_message_and_the_next_one_answers(world: World) -> None:
    other = ScriptedReplies(says("From the other."), name="other@Testing")
    made = talk(world, says("From the first."), others=[other])
    chat, session = await made.session(prompt_config={"refine_multiturn": False})
    assert only(await turn_of(made, session, "cash?"), Done).answer == "From the first."

    def rename(model: str) -> None:
        Dialog.update(llm_id=model).where(Dialog.id == chat.id).execute()

    await world.db.write(lambda: rename("gone@Nowhere"))
    assert "gone@Nowhere" in only(await turn_of(made, session, "cash?"), Failed).message
    assert (await made.answer_row(session, 2)).status == "failed"
    await made.assistants.update(ANN, chat.id, {"llm_id": "other@Testing"})
    assert only(await turn_of(made, session, "cash?"), Done).answer == "From the other."
    texts = [turn.content for turn in other.requests[0].turns if turn.role != "system"]
    assert texts == ["cash?", "From the first.", "cash?", "cash?"]


# ---- conversations that are too long


async def test_turns_that_the_estimate_has_no_room_for_are_counted(world: World) -> None:
    made = Talk(world, ScriptedReplies(says("x"), context_tokens=1200), mcp=Weather())
    long = "word " * 300
    events = await all_of(made.ask(long, "answer", long, "answer", "now?"))
    done = only(events, Done)
    assert done.dropped_turns == 4
    assert "The 4 oldest turns: the model has no room for them." in done.prompt


async def test_turns_that_the_provider_has_no_room_for_are_dropped_once_and_counted(world: World) -> None:
    too_long = ModelRefused("'m': maximum context length is 8192 tokens", status=400)
    made = talk(world, [too_long], says("x"))
    dialog = made.dialog(prompt={"refine_multiturn": False})
    done = only(await all_of(made.ask("old " * 50, "answer", "cash?", dialog=dialog)), Done)
    assert (done.answer, done.dropped_turns) == ("x", 2)
    assert "The 2 oldest turns" in done.prompt
    assert [turn.role for turn in made.chat.requests[1].turns] == ["system", "user"]


async def test_nothing_to_drop_is_the_providers_error(world: World) -> None:
    too_long = ModelRefused("'m': maximum context length is 8192 tokens", status=400)
    made = talk(world, [too_long])
    failed = only(await all_of(made.ask("cash?")), Failed)
    assert "maximum context length" in failed.message
    assert len(made.chat.requests) == 1


async def test_a_whole_conversation_says_that_nothing_was_dropped(world: World) -> None:
    made = talk(world, says("x"))
    done = only(await all_of(made.ask("a", "b", "cash?", dialog=made.dialog(prompt={"refine_multiturn": False}))), Done)
    assert done.dropped_turns == 0
    assert "Left out" not in done.prompt


async def test_what_tools_add_stays_within_the_context(world: World) -> None:
    async def work() -> ToolResult:
        return ToolResult(text="word " * 20_000)

    def script(request: ChatRequest) -> Any:
        return calls(call("weather__now", call_id=str(len(request.turns)))) if request.tools else says("x")

    chat = ScriptedReplies(script, context_tokens=4096)
    made = Talk(world, chat, mcp=Weather(work), tools=ToolSettings(rounds=6, result_tokens=2000))
    await all_of(made.dialogs.chat(ANN, made.dialog(prompt={"tools": ["weather"]}), spoken("cash?")))
    last = chat.requests[-1]
    assert sum(chat.count_tokens(turn.content) for turn in last.turns) + 512 <= 4096


# ---- long conversations


def long_talk(messages: int) -> tuple[Turn, ...]:
    """So many messages of history, and a question."""
    roles = ("user", "assistant")
    history = tuple(Turn(role=roles[n % 2], content=f"message {n} [ID:{n}]") for n in range(messages))  # type: ignore[arg-type]
    return (*history, Turn(role="user", content="cash?"))


async def test_a_summary_stands_before_the_turns(world: World) -> None:
    made = talk(world, says("Cash is 42 [ID:0]."))
    dialog = made.dialog(prompt={"refine_multiturn": False})
    given = "They spoke of {knowledge}."
    events = await all_of(made.dialogs.chat(ANN, dialog, long_talk(4), message_id="m", session_id="s1", summary=given))
    (request,) = made.chat.requests
    system, *rest = request.turns
    assert "<notes>\nThey spoke of {knowledge}.\n</notes>" in system.content
    assert [turn.content.split()[1] for turn in rest[:-1]] == ["0", "1", "2", "3"]
    assert given in only(events, Done).prompt
