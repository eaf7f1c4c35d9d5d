"""Turns with tools over real sockets, in each format: what the provider is asked, and how often."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest

from rag.core.blocking import Lane, run_in
from rag.core.types import TokenUsage
from rag.llm import litellm_port
from rag.llm.base import ChatModel, ChatRequest, Delta, ToolSpec
from rag.llm.chat_model import LiteLLMBase
from rag.llm.deadlines import Deadlines
from rag.llm.endpoint import Endpoint
from rag.llm.openai_lane import OpenAiLane
from rag.llm.responses_lane import ResponsesLane
from rag.llm.tool_round import ToolResult
from rag.llm.tools import RoundLimits, run_rounds
from rag.llm.upstream import UpstreamPool
from rag.testing.chat_model_suite import FIND, READ, TWO_CALLS, a_request, streamed
from rag.testing.upstream import FaultyUpstream, Plan
from tests.unit.rag.llm.conftest import INFO

# LiteLLM's objects do not fit their own pydantic schema, and it leaves a client to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
PATIENT = Deadlines(first_token_s=5.0, next_token_s=5.0, answer_s=9.0)


class Bundle:
    """As much of a bundle as the rounds need."""

    def __init__(self, model: ChatModel) -> None:
        self._model = model

    def chat_streamly(self, request: ChatRequest) -> AsyncIterator[Delta]:
        return streamed(self._model, request)

    def count_tokens(self, text: str) -> int:
        return self._model.count_tokens(text)


class Told:
    """A tool that says its own name and what it was given."""

    def __init__(self, spec: ToolSpec) -> None:
        self.spec = spec

    async def call(self, arguments: Mapping[str, Any]) -> ToolResult:
        return ToolResult(text=f"{self.spec.name} was given {orjson.dumps(dict(arguments)).decode()}")


@pytest.fixture(params=["chat lane", "responses lane", "litellm openai", "litellm anthropic"])
async def model(
    request: pytest.FixtureRequest, endpoint: Endpoint, pool: UpstreamPool, upstream: FaultyUpstream
) -> AsyncIterator[ChatModel]:
    if request.param == "chat lane":
        yield OpenAiLane(INFO, endpoint, pool=pool, deadlines=PATIENT)
    elif request.param == "responses lane":
        yield ResponsesLane(INFO, endpoint, pool=pool, deadlines=PATIENT)
    else:
        await run_in(Lane.MODEL, litellm_port.load)
        claude = replace(endpoint, base_url=upstream.root, litellm_prefix="anthropic", model="claude-sonnet-4-5")
        yield LiteLLMBase(INFO, claude if "anthropic" in request.param else endpoint, deadlines=PATIENT)
        await litellm_port.close_clients()


async def turn(model: ChatModel, *, rounds: int = 4) -> list[Any]:
    tools = [Told(FIND), Told(READ)]
    return [event async for event in run_rounds(Bundle(model), a_request(), tools, RoundLimits(rounds=rounds))]


def said(events: list[Any]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


async def test_a_turn_with_tools_costs_two_requests(model: ChatModel, upstream: FaultyUpstream) -> None:
    upstream.will(
        Plan(tokens=("Let me see.",), tool_calls=TWO_CALLS, arguments_split=7), Plan(tokens=("It is", " in Geneva."))
    )
    events = await turn(model)
    assert said(events) == "Let me see.\n\nIt is in Geneva."
    assert len(upstream.requests) == 2
    assert isinstance(events[-1], Delta)
    assert (events[-1].finish, events[-1].usage) == ("stop", TokenUsage(prompt_tokens=22, completion_tokens=5))
    body = orjson.dumps(upstream.requests[1].body).decode()
    for call, result in zip(TWO_CALLS, ("find was given", "read was given {}"), strict=True):
        assert call.id in body
        assert result in body
    assert "B\u00fcro in Genf" in body


async def test_tools_and_prefix_are_the_same_bytes_in_both_requests(model: ChatModel, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(tokens=(), tool_calls=TWO_CALLS[:1]), Plan())
    await turn(model)
    first, second = (seen.body for seen in upstream.requests)
    assert orjson.dumps(first["tools"]) == orjson.dumps(second["tools"])
    turns = "input" if "input" in first else "messages"
    assert orjson.dumps(second[turns][: len(first[turns])]) == orjson.dumps(first[turns])


async def test_the_last_request_has_no_tools_and_answers(model: ChatModel, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(tokens=(), tool_calls=TWO_CALLS[:1]), Plan(tokens=("Geneva.",)))
    assert said(await turn(model, rounds=2)) == "Geneva."
    assert len(upstream.requests) == 2
    offered = [tool.get("name") or tool["function"]["name"] for tool in upstream.requests[1].body.get("tools", ())]
    assert not {FIND.name, READ.name} & set(offered)
