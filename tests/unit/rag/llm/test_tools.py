"""The rounds of a turn with tools, over a scripted model and tools that misbehave in every way."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import pytest

from rag.core.errors import ModelRefused, NotFound
from rag.core.events import ToolStarted
from rag.core.types import TokenUsage, ToolCall, Turn
from rag.llm import tool_round
from rag.llm.base import ChatRequest, Delta, ToolFragment, ToolSpec
from rag.llm.tool_arguments import MOST_CHARS
from rag.llm.tool_round import ToolResult
from rag.llm.tools import RoundLimits, ToolEnded, TurnsDropped, run_rounds
from rag.testing.scripted_replies import ScriptedReplies, call, calls, says

SYSTEM = Turn(role="system", content="You have tools.")
QUESTION = Turn(role="user", content="What?")
LIMITS = RoundLimits(timeout_s=5)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


class Upstream:
    """The part of a bundle that the rounds use, straight on the model."""

    def __init__(self, model: ScriptedReplies) -> None:
        self.model = model

    def chat_streamly(self, request: ChatRequest) -> AsyncIterator[Delta]:
        return self.model.stream(request)

    def count_tokens(self, text: str) -> int:
        return self.model.count_tokens(text)


class Made:
    """A tool of one function."""

    def __init__(
        self,
        name: str,
        work: Callable[[Mapping[str, Any]], Awaitable[ToolResult]],
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self.spec = ToolSpec(name=name, description="d", parameters=parameters or {"type": "object", "properties": {}})
        self.work = work
        self.got: list[Mapping[str, Any]] = []

    async def call(self, arguments: Mapping[str, Any]) -> ToolResult:
        self.got.append(arguments)
        return await self.work(arguments)


def returning(name: str, text: str, **more: Any) -> Made:
    async def work(_: Mapping[str, Any]) -> ToolResult:
        return ToolResult(text=text)

    return Made(name, work, **more)


async def never(_: Mapping[str, Any]) -> ToolResult:
    await asyncio.Event().wait()
    raise AssertionError


def request(**more: Any) -> ChatRequest:
    return ChatRequest(turns=(SYSTEM, QUESTION), **more)


async def rounds(model: ScriptedReplies, *tools: Made, limits: RoundLimits = LIMITS, **more: Any) -> list[Any]:
    return [event async for event in run_rounds(Upstream(model), request(**more), tools, limits)]


def text_of(events: list[Any]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def results(model: ScriptedReplies, number: int = 1) -> list[Turn]:
    return [turn for turn in model.requests[number].turns if turn.role == "tool"]


async def test_a_turn_with_one_tool_costs_two_requests() -> None:
    model = ScriptedReplies(calls(call("weather", '{"city":"Graz"}'), text="I look."), says("It is sunny."))
    tool = returning("weather", "sunny", parameters=SCHEMA)
    events = await rounds(model, tool)
    assert len(model.requests) == 2
    assert text_of(events) == "I look.\n\nIt is sunny."
    assert tool.got == [{"city": "Graz"}]
    asked = ToolCall(id="id_weather", name="weather", arguments='{"city":"Graz"}')
    assert model.requests[1].turns == (
        SYSTEM,
        QUESTION,
        Turn(role="assistant", content="I look.", tool_calls=(asked,)),
        Turn(role="tool", content="sunny", tool_call_id="id_weather"),
    )
    kinds = [type(event) for event in events if not isinstance(event, Delta)]
    assert kinds == [ToolStarted, ToolEnded]
    assert events[-1] == Delta(usage=TokenUsage(prompt_tokens=20, completion_tokens=10), finish="stop")


async def test_text_is_shown_while_the_model_still_writes_its_call() -> None:
    gate = asyncio.Event()
    model = ScriptedReplies(
        [Delta(text="I look."), gate, Delta(tool_calls=(call("t"),), finish="tool_calls")], says("Done.")
    )
    async with aclosing(run_rounds(Upstream(model), request(), [returning("t", "x")], LIMITS)) as events:
        first = await asyncio.wait_for(anext(events), 1)
        assert first == Delta(text="I look.")
        gate.set()
        assert text_of([event async for event in events]) == "\n\nDone."


async def test_the_tools_of_a_round_run_side_by_side() -> None:
    here = {"a": asyncio.Event(), "b": asyncio.Event()}

    def meeting(mine: str, other: str) -> Made:
        async def work(_: Mapping[str, Any]) -> ToolResult:
            here[mine].set()
            await here[other].wait()
            return ToolResult(text=mine)

        return Made(mine, work)

    model = ScriptedReplies(calls(call("a"), call("b")), says("Both."))
    await asyncio.wait_for(rounds(model, meeting("a", "b"), meeting("b", "a")), 2)
    assert [turn.content for turn in results(model)] == ["a", "b"]


async def test_results_go_back_in_the_order_of_the_calls_and_are_told_as_they_come() -> None:
    early_told = asyncio.Event()

    async def late(_: Mapping[str, Any]) -> ToolResult:
        await early_told.wait()
        return ToolResult(text="late")

    model = ScriptedReplies(calls(call("late"), call("early")), says("x"))
    tools = [Made("late", late), returning("early", "early")]
    ended = []
    async for event in run_rounds(Upstream(model), request(), tools, LIMITS):
        if isinstance(event, ToolEnded):
            ended.append(event.call.name)
            early_told.set()
    assert ended == ["early", "late"]
    assert [turn.content for turn in results(model)] == ["late", "early"]


async def raising(_: Mapping[str, Any]) -> ToolResult:
    raise ZeroDivisionError("secret detail")


async def missing(_: Mapping[str, Any]) -> ToolResult:
    raise NotFound("document", "d1")


async def cancelling(_: Mapping[str, Any]) -> ToolResult:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("work", "words"),
    [(raising, "Error: The tool failed."), (missing, "No document 'd1'"), (cancelling, "was cancelled")],
)
async def test_a_tool_that_raises_is_told_in_words(work: Any, words: str) -> None:
    model = ScriptedReplies(calls(call("bad"), call("good")), says("I go on."))
    events = await rounds(model, Made("bad", work), returning("good", "fine"))
    bad, good = results(model)
    assert words in bad.content
    assert "secret detail" not in bad.content
    assert good.content == "fine"
    assert text_of(events) == "I go on."


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (call("nobody"), "There is no tool 'nobody'. There are: weather."),
        (call("weather", '{"city":'), "not valid JSON"),
        (call("weather", "[1]"), "must be a JSON object"),
        (call("weather", '{"city": 5}'), "$.city: 5 is not of type 'string'"),
        (call("weather", ""), "'city' is a required property"),
        (call("weather", '{"city":"' + "x" * 70_000 + '"}'), "too long"),
        (call("weather", "[" * 3000 + "]" * 3000), "not valid JSON"),
        (ToolCall(id="x", name="weather", arguments="{", problem="it is cut"), "cannot be used: it is cut"),
    ],
)
async def test_calls_that_cannot_be_used_are_told_in_words(wanted: ToolCall, words: str) -> None:
    tool = returning("weather", "sunny", parameters=SCHEMA)
    model = ScriptedReplies(calls(wanted), says("Sorry."))
    events = await rounds(model, tool)
    (result,) = results(model)
    assert words in result.content
    assert tool.got == []
    assert [event.result.error != "" for event in events if isinstance(event, ToolEnded)] == [True]
    assert sum(len(each.arguments) for turn in model.requests[1].turns for each in turn.tool_calls) < 17_000
    assert all(len(event.arguments) <= MOST_CHARS for event in events if isinstance(event, ToolStarted))


async def test_a_schema_that_points_elsewhere_is_never_fetched() -> None:
    tool = returning("t", "ran", parameters={"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}})
    model = ScriptedReplies(calls(call("t", '{"a": 1}')), says("x"))
    await rounds(model, tool)
    assert results(model)[0].content == "ran"


async def test_a_pattern_that_backtracks_holds_nobody_up() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
    tool = returning("t", "ran", parameters=schema)
    model = ScriptedReplies(calls(call("t", '{"a": "' + "a" * 60 + '!"}')), says("x"))
    await asyncio.wait_for(rounds(model, tool), 5)
    assert results(model)[0].content == "ran"


async def test_ids_and_names_that_a_provider_would_refuse_are_made_usable() -> None:
    model = ScriptedReplies(calls(call("a", call_id="1"), call("a", call_id="1"), call("b c!", call_id="")), says("x"))
    await rounds(model, returning("a", "x"))
    asked = model.requests[1].turns[2].tool_calls
    assert len({each.id for each in asked}) == 3
    assert [each.name for each in asked] == ["a", "a", "b_c_"]
    assert [turn.tool_call_id for turn in results(model)] == [each.id for each in asked]


async def test_a_tool_that_never_returns_ends_at_its_deadline() -> None:
    model = ScriptedReplies(calls(call("stuck"), call("good")), says("I go on."))
    began = time.monotonic()
    events = await rounds(model, Made("stuck", never), returning("good", "fine"), limits=RoundLimits(timeout_s=0.2))
    assert time.monotonic() - began < 2
    stuck, good = results(model)
    assert "no result within 0.2 seconds" in stuck.content
    assert good.content == "fine"
    assert text_of(events) == "I go on."


async def test_a_tool_that_ignores_cancellation_holds_nobody_up() -> None:
    release, began = asyncio.Event(), time.monotonic()

    async def stubborn(_: Mapping[str, Any]) -> ToolResult:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        raise ValueError("after its time")

    model = ScriptedReplies(calls(call("stubborn")), says("I go on."))
    events = await rounds(model, Made("stubborn", stubborn), limits=RoundLimits(timeout_s=0.1))
    assert time.monotonic() - began < 2
    assert text_of(events) == "I go on."
    (left,) = tool_round._left
    release.set()
    await asyncio.wait({left})
    await asyncio.sleep(0)
    assert not tool_round._left


class Cleaning:
    """A tool that waits for ever, and takes 50 ms to put away what it used."""

    def __init__(self) -> None:
        self.began, self.cleaned = asyncio.Event(), asyncio.Event()

    async def __call__(self, _: Mapping[str, Any]) -> ToolResult:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            self.cleaned.set()
        raise AssertionError


async def test_a_tool_that_was_too_slow_may_clean_up() -> None:
    """The reader awaits between events, as one that writes them down: the tool has begun to clean up by then."""
    cleaning = [Cleaning(), Cleaning()]
    tools = [Made(name, work) for name, work in zip("ab", cleaning, strict=True)]
    model = ScriptedReplies(calls(call("a"), call("b")), says("I go on."))
    async for _ in run_rounds(Upstream(model), request(), tools, RoundLimits(timeout_s=0.1)):
        await asyncio.sleep(0.002)
    await asyncio.wait_for(asyncio.gather(*(each.cleaned.wait() for each in cleaning)), 1)
    assert "no result" in results(model)[1].content


async def test_leaving_right_after_a_timeout_lets_it_clean_up_too() -> None:
    cleaning = Cleaning()
    model = ScriptedReplies(calls(call("t")), says("x"))
    async with aclosing(
        run_rounds(Upstream(model), request(), [Made("t", cleaning)], RoundLimits(timeout_s=0.1))
    ) as events:
        async for event in events:
            if isinstance(event, ToolEnded):
                await asyncio.sleep(0.002)
                break
    await asyncio.wait_for(cleaning.cleaned.wait(), 1)


async def test_leaving_cancels_a_tool_that_handles_a_timeout_of_its_own() -> None:
    """It was cancelled once, but by itself: it would go on."""
    handling, cancelled = asyncio.Event(), asyncio.Event()

    async def trying(_: Mapping[str, Any]) -> ToolResult:
        try:
            async with asyncio.timeout(0.01):
                try:
                    await asyncio.Event().wait()
                finally:
                    handling.set()
                    await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    model = ScriptedReplies(calls(call("t")), says("x"))
    events = run_rounds(Upstream(model), request(), [Made("t", trying)], LIMITS)
    assert isinstance(await anext(events), ToolStarted)
    await asyncio.wait_for(handling.wait(), 1)
    await events.aclose()
    await asyncio.wait_for(cancelled.wait(), 1)


async def test_fifty_megabytes_are_cut_to_the_budget_with_a_mark() -> None:
    huge = "word " * (10 << 20)
    model = ScriptedReplies(calls(call("huge")), says("x"))
    await rounds(model, returning("huge", huge), limits=RoundLimits(result_tokens=200))
    (result,) = results(model)
    assert "[The result was cut here: the first" in result.content
    assert f"of {len(huge)} characters are shown.]" in result.content
    assert model.count_tokens(result.content) <= 210


async def test_results_of_all_rounds_share_the_room_that_is_left() -> None:
    model = ScriptedReplies(calls(call("t")), calls(call("t")), calls(call("t")), says("x"))
    await rounds(model, returning("t", "y" * 3000), limits=RoundLimits(rounds=4, result_tokens=900, room_tokens=1100))
    first, second, third = results(model, 3)
    assert model.count_tokens(first.content) > 800
    assert model.count_tokens(second.content) < 250
    assert "no room" in third.content


async def test_the_last_request_has_no_tools_and_an_answer_comes() -> None:
    def script(asked: ChatRequest) -> Any:
        return calls(call("t")) if asked.tools else says("That is all.")

    model = ScriptedReplies(script)
    events = await rounds(model, returning("t", "x"), limits=RoundLimits(rounds=3))
    assert [len(asked.tools) for asked in model.requests] == [1, 1, 0]
    assert text_of(events) == "That is all."


async def test_a_model_that_calls_without_having_tools_is_not_asked_again() -> None:
    model = ScriptedReplies(calls(call("t")))
    events = await rounds(model, returning("t", "x"), limits=RoundLimits(rounds=2))
    assert len(model.requests) == 2
    assert text_of(events) == ""


async def test_system_and_tools_stay_the_same_over_the_rounds() -> None:
    model = ScriptedReplies(calls(call("a")), calls(call("b")), says("x"))
    await rounds(model, returning("a", "1"), returning("b", "2"), tool_choice="required", cache_prefix=True)
    one, two, three = model.requests
    assert one.turns[0] == two.turns[0] == three.turns[0]
    assert one.tools == two.tools == three.tools
    assert two.turns[: len(one.turns)] == one.turns
    assert three.turns[: len(two.turns)] == two.turns
    assert [each.tool_choice for each in model.requests] == ["required", "auto", "auto"]
    assert all(each.cache_prefix for each in model.requests)


async def test_too_many_calls_of_a_round_are_refused() -> None:
    tool = returning("t", "x")
    model = ScriptedReplies(calls(*(call("t", call_id=str(n)) for n in range(5))), says("x"))
    await rounds(model, tool, limits=RoundLimits(calls=2))
    assert len(tool.got) == 2
    assert sum("Too many calls" in turn.content for turn in results(model)) == 3


async def test_reasoning_goes_back_with_its_round() -> None:
    model = ScriptedReplies([Delta(reasoning="Hm."), *calls(call("t"))], says("x"))
    events = await rounds(model, returning("t", "x"))
    assert model.requests[1].turns[2].reasoning == "Hm."
    assert [event.reasoning for event in events if isinstance(event, Delta) and event.reasoning] == ["Hm."]


async def test_fragments_pass_where_they_are_asked_for() -> None:
    pieces = (ToolFragment(index=0, name="t", arguments="{"), ToolFragment(index=0, arguments="}"))
    model = ScriptedReplies([Delta(fragments=(piece,)) for piece in pieces] + calls(call("t")), says("x"))
    events = await rounds(model, returning("t", "x"), tool_fragments=True)
    assert model.requests[0].tool_fragments
    assert tuple(f for event in events if isinstance(event, Delta) for f in event.fragments) == pieces


async def test_leaving_in_the_middle_of_a_tool_cancels_it_at_once() -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def slow(_: Mapping[str, Any]) -> ToolResult:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    model = ScriptedReplies(calls(call("slow")), says("x"))
    events = run_rounds(Upstream(model), request(), [Made("slow", slow)], LIMITS)

    async def read() -> None:
        async with aclosing(events):
            async for _ in events:
                pass

    reader = asyncio.create_task(read())
    await began.wait()
    at = time.monotonic()
    reader.cancel()
    await asyncio.wait({reader})
    assert reader.cancelled()
    assert cancelled.is_set()
    assert time.monotonic() - at < 0.2
    assert len(model.requests) == 1


async def test_leaving_in_the_middle_of_a_reply_ends_the_models_stream() -> None:
    model = ScriptedReplies([Delta(text="a"), asyncio.Event()])
    events = run_rounds(Upstream(model), request(), [returning("t", "x")], LIMITS)
    await anext(events)
    at = time.monotonic()
    await events.aclose()
    assert model.closed == 1
    assert time.monotonic() - at < 0.2


async def test_a_stubborn_tool_does_not_hold_up_leaving() -> None:
    release, began = asyncio.Event(), asyncio.Event()

    async def stubborn(_: Mapping[str, Any]) -> ToolResult:
        while not release.is_set():
            began.set()
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return ToolResult(text="late")

    model = ScriptedReplies(calls(call("stubborn")), says("x"))
    events = run_rounds(Upstream(model), request(), [Made("stubborn", stubborn)], LIMITS)
    assert isinstance(await anext(events), ToolStarted)
    await began.wait()
    at = time.monotonic()
    await events.aclose()
    assert time.monotonic() - at < 0.2
    (left,) = tool_round._left
    release.set()
    await asyncio.wait({left})


async def test_a_refused_schema_is_the_models_error() -> None:
    model = ScriptedReplies([ModelRefused("Invalid schema for function 't'.", status=400)])
    with pytest.raises(ModelRefused, match="Invalid schema"):
        await rounds(model, returning("t", "x"))


async def test_oldest_turns_go_for_good_when_results_overflow_the_context() -> None:
    too_long = ModelRefused("This model's maximum context length is 8192 tokens.", status=400)
    model = ScriptedReplies(calls(call("t")), [too_long], calls(call("t", call_id="2")), says("x"))
    history = (Turn(role="user", content="Old? " * 50), Turn(role="assistant", content="Old. " * 50))
    asked = ChatRequest(turns=(SYSTEM, *history, QUESTION))
    events = [event async for event in run_rounds(Upstream(model), asked, [returning("t", "x")], LIMITS)]
    (dropped,) = [event for event in events if isinstance(event, TurnsDropped)]
    assert dropped.count == 2
    assert len(model.requests) == 4
    assert [turn.role for turn in model.requests[3].turns] == ["system", "user", *["assistant", "tool"] * 2]
    assert text_of(events) == "x"


# ---- research: rounds before the answer is written

CLOSING = Turn(role="user", content="Answer now.")
RESEARCH = RoundLimits(timeout_s=5, closing=CLOSING)


def thought(events: list[Any]) -> str:
    return "".join(event.reasoning for event in events if isinstance(event, Delta))


async def test_research_is_thinking_and_the_answer_comes_in_a_request_of_its_own() -> None:
    model = ScriptedReplies(calls(call("look"), text="I look."), says("That is enough."), says("It is 42."))
    events = await rounds(model, returning("look", "found it"), limits=RESEARCH)
    assert text_of(events) == "It is 42."
    assert thought(events) == "I look.\nThat is enough.\n"
    assert [len(each.tools) for each in model.requests] == [1, 1, 0]
    last = model.requests[-1].turns
    assert [turn.role for turn in last] == ["system", "user", "assistant", "tool", "assistant", "user"]
    assert (last[-2].content, last[-1]) == ("That is enough.", CLOSING)
    assert events[-1].usage == TokenUsage(prompt_tokens=30, completion_tokens=15)


async def test_research_ends_with_its_rounds() -> None:
    model = ScriptedReplies(calls(call("look")), calls(call("look")), says("It is 42."))
    limits = RoundLimits(rounds=3, timeout_s=5, closing=CLOSING)
    assert text_of(await rounds(model, returning("look", "more"), limits=limits)) == "It is 42."
    assert model.requests[-1].turns[-1] == CLOSING
    assert model.requests[-1].tools == ()


async def test_research_ends_with_its_tokens() -> None:
    model = ScriptedReplies(calls(call("look")), says("It is 42."))
    limits = RoundLimits(rounds=9, timeout_s=5, closing=CLOSING, research_tokens=15)
    assert text_of(await rounds(model, returning("look", "more"), limits=limits)) == "It is 42."
    assert [turn.content for turn in model.requests[-1].turns[-2:]] == ["more", "Answer now."]


async def test_research_that_takes_too_long_is_left_in_the_middle_of_a_reply() -> None:
    model = ScriptedReplies([Delta(text="Hmm"), asyncio.Event()], says("It is 42."))
    limits = RoundLimits(rounds=9, timeout_s=5, closing=CLOSING, research_s=0.1)
    events = await rounds(model, returning("look", "more"), limits=limits)
    assert (text_of(events), thought(events)) == ("It is 42.", "Hmm\n")
    assert model.closed == 1


async def test_a_tool_gets_no_more_time_than_research_has_left() -> None:
    model = ScriptedReplies(calls(call("slow")), says("It is 42."))
    limits = RoundLimits(rounds=9, timeout_s=60, closing=CLOSING, research_s=0.2)
    began = time.monotonic()
    events = await rounds(model, Made("slow", never), limits=limits)
    assert text_of(events) == "It is 42."
    assert time.monotonic() - began < 5
    assert [event.result.error[:24] for event in events if isinstance(event, ToolEnded)] == ["The tool gave no result "]


async def test_a_question_that_needs_no_research_is_still_answered() -> None:
    model = ScriptedReplies(says(""), says("Hello."))
    assert text_of(await rounds(model, returning("look", "more"), limits=RESEARCH)) == "Hello."
    assert model.requests[-1].turns == (SYSTEM, QUESTION, CLOSING)
