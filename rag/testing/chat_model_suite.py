"""What every chat model does: inherit `ChatModelSuite` and give it a `model` fixture."""

import asyncio
import inspect
from collections.abc import AsyncIterator

import pytest

from rag.core.blocking import iterate
from rag.core.types import ChunkText, Turn
from rag.llm.base import ChatModel, ChatRequest, Delta, Grounding, Sampling

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
