from dataclasses import replace

import pytest
from pydantic import SecretStr

from rag.core.errors import ModelError, ModelOverloaded, ModelRefused
from rag.core.settings import load_settings
from rag.core.types import TokenUsage, ToolCall, Turn
from rag.llm.base import Capabilities, ChatRequest, ModelInfo, ReplySchema, Sampling, ToolSpec
from rag.llm.cohere_lane import CohereLane, CohereReader
from rag.llm.endpoint import Endpoint
from rag.llm.providers.table import FAMILIES
from rag.llm.registry import Registry
from rag.llm.upstream import UpstreamPool
from rag.testing.chat_model_suite import ChatModelSuite, ToolModelSuite, a_request, said_by
from rag.testing.upstream import FaultyUpstream, Plan
from tests.unit.rag.llm.conftest import SECRET, SHORT, OverUpstream

CAN = Capabilities(tools=True, parallel_tools=True, json_schema=True, vision=True, reasoning=True)
INFO = ModelInfo(name="command-a@Cohere", context_tokens=8192, max_output_tokens=1024, capabilities=CAN)
CALLS = (
    ToolCall(id="call_a", name="weather", arguments='{"city": "Zürich"}'),
    ToolCall(id="call_b", name="time", arguments="{}"),
)
WEATHER = ToolSpec(
    name="weather",
    description="Tells the weather.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)


@pytest.fixture
def cohere(upstream: FaultyUpstream, pool: UpstreamPool) -> CohereLane:
    endpoint = Endpoint(base_url=upstream.root, api_key=SecretStr(SECRET), model="command-a", family=FAMILIES["cohere"])
    return CohereLane(INFO, endpoint, pool=pool, deadlines=SHORT)


class TestContract(ChatModelSuite):
    @pytest.fixture
    def model(self, cohere: CohereLane) -> CohereLane:
        return cohere


class TestTools(ToolModelSuite):
    @pytest.fixture
    def steered(self, cohere: CohereLane, upstream: FaultyUpstream) -> OverUpstream:
        return OverUpstream(cohere, upstream)


@pytest.mark.parametrize("fault", ["none", "whole_reply"])
async def test_all_parts_of_a_reply_come_through(cohere: CohereLane, upstream: FaultyUpstream, fault: str) -> None:
    plan = Plan(reasoning=("Hm", "m."), tool_calls=CALLS, cached_tokens=4, arguments_split=1)
    upstream.will(replace(plan, fault=fault))  # type: ignore[arg-type]
    deltas = await said_by(cohere, a_request())
    assert "".join(d.text for d in deltas) == "Hello, world."
    assert "".join(d.reasoning for d in deltas) == "Hmm."
    assert deltas[-1].tool_calls == CALLS
    assert deltas[-1].finish == "tool_calls"
    assert deltas[-1].usage == TokenUsage(prompt_tokens=11, completion_tokens=8, cached_tokens=4)


@pytest.mark.parametrize("told", [10**12, float("inf"), True, -1, "9"])
def test_impossible_figures_count_nothing(told: object) -> None:
    reader = CohereReader()
    tokens = {"input_tokens": told, "output_tokens": 3.0}
    reader.read({"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": {"tokens": tokens}}})
    assert reader.last()[-1].usage == TokenUsage(completion_tokens=3)


async def test_fragments_come_where_they_are_asked_for(cohere: CohereLane, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(tool_calls=CALLS[:1], arguments_split=5))
    for wanted in (True, False):
        deltas = await said_by(cohere, replace(a_request(), tool_fragments=wanted))
        told = "".join(f.arguments for d in deltas for f in d.fragments)
        assert told == (CALLS[0].arguments if wanted else "")


async def test_the_request_is_cohere_s(cohere: CohereLane, upstream: FaultyUpstream) -> None:
    await said_by(
        cohere,
        ChatRequest(
            turns=(Turn(role="user", content="hi"),),
            tools=(WEATHER,),
            tool_choice="required",
            reply_schema=ReplySchema(name="answer", schema={"type": "object"}),
            sampling=Sampling(top_p=0.5, stop=("END",), max_tokens=9),
        ),
    )
    body = dict(upstream.requests[0].body)
    assert body.pop("tools")[0]["function"]["name"] == "weather"
    assert body.pop("response_format")["json_schema"]["type"] == "object"
    assert body == {
        "model": "command-a",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "p": 0.5,
        "stop_sequences": ["END"],
        "max_tokens": 9,
        "tool_choice": "REQUIRED",
    }


@pytest.mark.parametrize(
    ("plan", "error", "started"),
    [
        (Plan(fault="status", status=429, retry_after="7"), ModelOverloaded, False),
        (Plan(fault="status", status=401), ModelRefused, False),
        (Plan(fault="reset_headers"), ModelOverloaded, False),
        (Plan(fault="reset_midway"), ModelOverloaded, True),
    ],
)
async def test_failures(
    cohere: CohereLane, upstream: FaultyUpstream, plan: Plan, error: type[ModelError], started: bool
) -> None:
    upstream.will(plan)
    with pytest.raises(ModelError) as caught:
        await said_by(cohere, a_request())
    assert type(caught.value) is error
    assert caught.value.facts["started"] is started


async def test_a_stream_without_its_end_is_cut_off(cohere: CohereLane, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(fault="no_finish"))
    assert (await said_by(cohere, a_request()))[-1].finish == "cut_off"


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("COMPLETE", "stop"),
        ("STOP_SEQUENCE", "stop"),
        ("MAX_TOKENS", "length"),
        ("ERROR", "cut_off"),
        (None, "cut_off"),
    ],
)
def test_finish_reasons(reason: str, finish: str) -> None:
    reader = CohereReader()
    reader.read({"type": "message-end", "delta": {"finish_reason": reason}})
    assert reader.last()[-1].finish == finish


def test_a_plan_for_tools_is_reasoning() -> None:
    piece = {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I will look."}}}
    assert CohereReader().read(piece) == ("I will look.", "")
    assert CohereReader().read_whole({"error": "no"}) is None


def test_models_of_cohere_take_the_lane() -> None:
    registry = Registry(load_settings(environ={"COHERE_API_KEY": "x", "COHERE_API_BASE": "https://eu.example"}))
    model = registry.chat("command-a-03-2025@Cohere")
    assert isinstance(model, CohereLane)
    assert model._url == "https://eu.example/v2/chat"
