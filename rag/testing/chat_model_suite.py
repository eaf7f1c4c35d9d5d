"""What every chat model does: inherit `ChatModelSuite` and give it a `model` fixture. What one does that uses tools:
`ToolModelSuite`, with a `steered` fixture."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Protocol

import pytest

from rag.core.blocking import iterate
from rag.core.types import ChunkText, Picture, ToolCall, Turn
from rag.llm.base import ChatModel, ChatRequest, Delta, Grounding, ReplySchema, Sampling, ToolSpec
from rag.testing.upstream_plan import Plan

PASSAGE = "The office of Acme is in Geneva. It was opened in 1998 and has 300 desks."


def passage(content: str = PASSAGE, *, number: int = 0, name: str = "acme.txt") -> ChunkText:
    """A chunk as an answer is given it."""
    return ChunkText(
        chunk_id=f"chunk{number}",
        document_id=f"document{number}",
        version_id="version",
        dataset_id="dataset",
        document_name=name,
        ordinal=number,
        content=content,
    )


def a_request(question: str = "Where is the office of Acme?", *passages: ChunkText) -> ChatRequest:
    """A question over one passage, or over those given."""
    grounding = Grounding(question=question, passages=passages or (passage(),))
    return ChatRequest(turns=(Turn(role="user", content=question),), grounding=grounding)


def streamed(model: ChatModel, request: ChatRequest) -> AsyncIterator[Delta]:
    """The reply, whichever kind of `stream` the model has."""
    if inspect.isasyncgenfunction(model.stream):
        return model.stream(request)
    return iterate(lambda: model.stream(request))  # type: ignore[arg-type,return-value]


async def said_by(model: ChatModel, request: ChatRequest) -> list[Delta]:
    return [delta async for delta in streamed(model, request)]


class ChatModelSuite:
    """The contract of `rag.llm.base.ChatModel`."""

    async def test_it_says_something_and_then_ends(self, model: ChatModel) -> None:
        deltas = await said_by(model, a_request())
        assert "".join(delta.text for delta in deltas).strip()
        assert deltas[-1].finish == "stop"
        assert [delta.finish for delta in deltas[:-1]] == [None] * (len(deltas) - 1)

    async def test_no_delta_is_empty(self, model: ChatModel) -> None:
        for delta in await said_by(model, a_request()):
            assert delta.text or delta.reasoning or delta.usage or delta.finish

    async def test_it_tells_what_it_took(self, model: ChatModel) -> None:
        usage = [delta.usage for delta in await said_by(model, a_request()) if delta.usage]
        assert len(usage) == 1
        assert usage[0].completion_tokens > 0

    async def test_calls_side_by_side_do_not_mix(self, model: ChatModel) -> None:
        alone = [delta.text for delta in await said_by(model, a_request())]
        together = await asyncio.gather(*(said_by(model, a_request()) for _ in range(4)))
        for deltas in together:
            assert "".join(d.text for d in deltas) == "".join(alone)

    async def test_it_can_be_left_early_and_used_again(self, model: ChatModel) -> None:
        stream = streamed(model, a_request())
        async for _ in stream:
            break
        await stream.aclose()  # type: ignore[attr-defined]
        assert await said_by(model, a_request())

    async def test_it_keeps_nothing_of_a_request(self, model: ChatModel) -> None:
        before = {name: id(value) for name, value in vars(model).items()}
        await said_by(model, a_request("A secret question about the office of Acme?"))
        assert {name: id(value) for name, value in vars(model).items()} == before

    async def test_sampling_is_taken(self, model: ChatModel) -> None:
        sampling = Sampling(temperature=0.1, top_p=0.3, presence_penalty=0.4, frequency_penalty=0.7, max_tokens=512)
        request = ChatRequest(turns=a_request().turns, grounding=a_request().grounding, sampling=sampling)
        assert await said_by(model, request)

    def test_its_name_carries_its_provider(self, model: ChatModel) -> None:
        name, _, provider = model.info.name.rpartition("@")
        assert name
        assert provider

    @pytest.mark.parametrize("text", ["", "one", "two words", "資料探勘", "🙂" * 10])
    def test_tokens_are_counted(self, model: ChatModel, text: str) -> None:
        assert (model.count_tokens(text) > 0) == bool(text)


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a model is made to reply. `wait_s` passes before the first word and between words."""

    words: tuple[str, ...] = ()
    reasoning: tuple[str, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    cut_off: bool = False
    wait_s: float = 0.0

    def as_plan(self, *, interleaved: bool = True) -> Plan:
        """The same for the failing upstream, with arguments in small pieces that take turns where the format lets
        them."""
        pieces = len(self.words) + len(self.reasoning)
        plan = Plan(tokens=self.words, reasoning=self.reasoning, tool_calls=self.calls, wait_s=self.wait_s)
        plan = replace(plan, arguments_split=3, interleaved=interleaved, first_wait_s=self.wait_s)
        return replace(plan, fault="no_finish", after=pieces) if self.cut_off else plan


class Steered(Protocol):
    """A model that says what it is told to."""

    def model(self, said: Said) -> ChatModel: ...

    def left(self) -> int:
        """How many of its replies were left before their end, as the provider sees it."""
        ...


FIND = ToolSpec(
    name="find",
    description="Finds passages.",
    parameters={"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
)
READ = ToolSpec(name="read", description="Reads a document.", parameters={"type": "object", "properties": {}})
TWO_CALLS = (
    ToolCall(id="call_a", name="find", arguments='{"query": "Büro in Genf", "top": [1, 2]}'),
    ToolCall(id="call_b", name="read", arguments="{}"),
)
_REACHES_S = 0.2


def with_tools(*, fragments: bool = False) -> ChatRequest:
    return replace(a_request(), tools=(FIND, READ), tool_fragments=fragments)


class ToolModelSuite:
    """The contract of `rag.llm.base.ChatModel` for models with all capabilities."""

    async def test_a_call_is_told_whole(self, steered: Steered) -> None:
        deltas = await said_by(steered.model(Said(calls=TWO_CALLS[:1])), with_tools())
        assert [delta.tool_calls for delta in deltas if delta.tool_calls] == [TWO_CALLS[:1]]
        assert deltas[-1].finish == "tool_calls"
        assert "".join(delta.text for delta in deltas) == ""

    async def test_parallel_calls_do_not_mix(self, steered: Steered) -> None:
        deltas = await said_by(steered.model(Said(calls=TWO_CALLS)), with_tools())
        assert deltas[-1].tool_calls == TWO_CALLS

    async def test_text_shows_before_the_calls(self, steered: Steered) -> None:
        deltas = await said_by(steered.model(Said(words=("Let me", " see."), calls=TWO_CALLS)), with_tools())
        assert "".join(delta.text for delta in deltas) == "Let me see."
        assert deltas[0].text
        assert not deltas[0].tool_calls
        assert (deltas[-1].tool_calls, deltas[-1].finish) == (TWO_CALLS, "tool_calls")

    async def test_fragments_come_only_if_wanted_and_add_up(self, steered: Steered) -> None:
        said = Said(calls=TWO_CALLS)
        assert not any(delta.fragments for delta in await said_by(steered.model(said), with_tools()))
        deltas = await said_by(steered.model(said), with_tools(fragments=True))
        fragments = [fragment for delta in deltas for fragment in delta.fragments]
        for number, call in enumerate(TWO_CALLS):
            own = [fragment for fragment in fragments if fragment.index == number]
            assert own[0].name == call.name
            assert "".join(fragment.arguments for fragment in own) == call.arguments
        assert deltas[-1].tool_calls == TWO_CALLS

    async def test_no_delta_is_empty(self, steered: Steered) -> None:
        said = Said(words=("Let me see.",), reasoning=("Hm",), calls=TWO_CALLS)
        for delta in await said_by(steered.model(said), with_tools()):
            assert delta != Delta()

    async def test_reasoning_is_apart_from_the_text(self, steered: Steered) -> None:
        deltas = await said_by(steered.model(Said(words=("Yes", "."), reasoning=("Hm", "m"))), a_request())
        assert "".join(delta.reasoning for delta in deltas) == "Hmm"
        assert "".join(delta.text for delta in deltas) == "Yes."

    async def test_usage_comes_once_and_last(self, steered: Steered) -> None:
        deltas = await said_by(steered.model(Said(words=("Yes", "."), calls=TWO_CALLS)), with_tools())
        assert [delta.usage is not None for delta in deltas] == [False] * (len(deltas) - 1) + [True]

    async def test_a_reply_without_an_end_was_cut_off(self, steered: Steered) -> None:
        deltas = await said_by(steered.model(Said(words=("Yes", ", but"), cut_off=True)), a_request())
        assert "".join(delta.text for delta in deltas) == "Yes, but"
        assert [delta.finish for delta in deltas if delta.finish] == ["cut_off"]

    async def test_what_came_of_tools_is_taken(self, steered: Steered) -> None:
        asked = Turn(role="assistant", content="", tool_calls=TWO_CALLS)
        results = [Turn(role="tool", content="Found.", tool_call_id=call.id) for call in TWO_CALLS]
        request = replace(with_tools(), turns=(*a_request().turns, asked, *results))
        model = steered.model(Said(words=("Yes.",)))
        assert "".join(delta.text for delta in await said_by(model, request)) == "Yes."
        again = replace(request, tools=())
        assert "".join(delta.text for delta in await said_by(model, again)) == "Yes."

    async def test_pictures_and_reply_schemas_are_taken(self, steered: Steered) -> None:
        picture = Picture(media_type="image/png", data=b"\x89PNG")
        schema = ReplySchema(name="answer", schema={"type": "object", "properties": {"a": {"type": "string"}}})
        turn = Turn(role="user", content="What is this?", pictures=(picture,))
        request = ChatRequest(turns=(turn,), reply_schema=schema, cache_prefix=True)
        deltas = await said_by(steered.model(Said(words=('{"a": "b"}',))), request)
        assert "".join(delta.text for delta in deltas) == '{"a": "b"}'

    async def test_cancelling_reaches_the_provider_at_once(self, steered: Steered) -> None:
        model = steered.model(Said(words=("a ",) * 1000, wait_s=0.02))
        first = asyncio.Event()

        async def listen() -> None:
            async for _ in streamed(model, a_request()):
                first.set()

        task = asyncio.ensure_future(listen())
        await asyncio.wait_for(first.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await self._left_once(steered)

    async def test_cancelling_before_the_first_word_reaches_the_provider_at_once(self, steered: Steered) -> None:
        task = asyncio.ensure_future(said_by(steered.model(Said(words=("a ",), wait_s=20.0)), a_request()))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await self._left_once(steered)

    async def test_leaving_reaches_the_provider_at_once(self, steered: Steered) -> None:
        stream = streamed(steered.model(Said(words=("a ",) * 1000, wait_s=0.02)), a_request())
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        await self._left_once(steered)

    async def _left_once(self, steered: Steered) -> None:
        async with asyncio.timeout(_REACHES_S):
            while not steered.left():
                await asyncio.sleep(0.005)
        assert steered.left() == 1
