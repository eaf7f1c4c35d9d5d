from collections.abc import AsyncIterator
from typing import Any

import pytest

from rag.core.errors import ModelError, ModelOverloaded, ModelRefused
from rag.core.types import Turn
from rag.llm.base import ChatRequest, Delta
from rag.llm.overflow import TurnsDropped, is_too_long, stream_fitting, without_oldest
from rag.testing.scripted_replies import ScriptedReplies, says

TOO_LONG = ModelRefused("'m': it says: maximum context length is 8192 tokens", status=400)


def user(text: str) -> Turn:
    return Turn(role="user", content=text)


def assistant(text: str) -> Turn:
    return Turn(role="assistant", content=text)


SYSTEM = Turn(role="system", content="S")
LONG = (SYSTEM, user("a" * 90), assistant("b" * 90), user("c" * 9), assistant("d" * 9), user("now?"))


class Upstream:
    def __init__(self, model: ScriptedReplies) -> None:
        self.model = model

    def chat_streamly(self, request: ChatRequest) -> AsyncIterator[Delta]:
        return self.model.stream(request)


async def streamed(model: ScriptedReplies, turns: tuple[Turn, ...] = LONG) -> list[Any]:
    return [event async for event in stream_fitting(Upstream(model), ChatRequest(turns=turns))]


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "The input token count (40000) exceeds the maximum number of tokens allowed (32768).",
        "context_length_exceeded",
        "too many tokens: total tokens 9000 exceed",
        "Input is too long for requested model.",
        "Please reduce the length of the messages or completion.",
    ],
)
def test_providers_words_for_too_long_are_known(message: str) -> None:
    assert is_too_long(ModelRefused(message, status=400))


@pytest.mark.parametrize(
    "error",
    [
        ModelRefused("The provider refused the key", status=401),
        ModelOverloaded("rate limit: too many tokens per minute", status=429),
        ModelRefused("maximum context length", status=400, started=True),
        ModelRefused("Invalid schema for function 'x'", status=400),
    ],
)
def test_other_refusals_are_not_mistaken_for_it(error: ModelError) -> None:
    assert not is_too_long(error)


def test_status_413_says_it_without_words() -> None:
    assert is_too_long(ModelRefused("no", status=413))


def test_the_oldest_turns_go_first_and_the_question_stays() -> None:
    assert without_oldest(LONG) == (SYSTEM, user("c" * 9), assistant("d" * 9), user("now?"))


def test_without_a_history_nothing_goes() -> None:
    alone = (SYSTEM, user("now?"))
    assert without_oldest(alone) == alone


def test_the_rounds_after_the_question_stay() -> None:
    tail = (assistant("calls"), Turn(role="tool", content="x" * 999, tool_call_id="1"))
    assert without_oldest((*LONG, *tail))[-3:] == (user("now?"), *tail)


async def test_too_long_is_tried_once_more_without_the_oldest_turns() -> None:
    model = ScriptedReplies([TOO_LONG], says("fine"))
    dropped, *rest = await streamed(model)
    assert isinstance(dropped, TurnsDropped)
    assert (dropped.count, dropped.kept) == (2, model.requests[1].turns)
    assert [event.text for event in rest] == ["fine", ""]


async def test_it_is_tried_once_only() -> None:
    model = ScriptedReplies([TOO_LONG])
    with pytest.raises(ModelRefused):
        await streamed(model)
    assert len(model.requests) == 2


async def test_without_a_history_the_error_comes_at_once() -> None:
    model = ScriptedReplies([TOO_LONG])
    with pytest.raises(ModelRefused):
        await streamed(model, (SYSTEM, user("now?")))
    assert len(model.requests) == 1


async def test_what_has_begun_is_not_begun_again() -> None:
    model = ScriptedReplies([Delta(text="a"), TOO_LONG], says("b"))
    with pytest.raises(ModelRefused):
        await streamed(model)
    assert len(model.requests) == 1
