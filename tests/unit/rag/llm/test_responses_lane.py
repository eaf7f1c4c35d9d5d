import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from rag.core.errors import ModelBadOutput, ModelError, ModelOverloaded, ModelRefused, ModelTimeout
from rag.core.settings import load_settings
from rag.core.types import TokenUsage
from rag.llm.base import Delta
from rag.llm.deadlines import Deadlines
from rag.llm.endpoint import Endpoint
from rag.llm.registry import Registry, read_models_file
from rag.llm.responses_lane import ResponsesLane
from rag.llm.upstream import UpstreamPool
from rag.testing.chat_model_suite import TWO_CALLS, ChatModelSuite, ToolModelSuite, a_request, said_by, with_tools
from rag.testing.upstream import FaultyUpstream, Plan
from tests.unit.rag.llm.conftest import INFO, SECRET, SHORT, OverUpstream


@pytest.fixture
def lane(endpoint: Endpoint, pool: UpstreamPool) -> ResponsesLane:
    return ResponsesLane(INFO, endpoint, pool=pool, deadlines=SHORT)


class TestContract(ChatModelSuite):
    @pytest.fixture
    def model(self, lane: ResponsesLane) -> ResponsesLane:
        return lane


class TestTools(ToolModelSuite):
    @pytest.fixture
    def steered(self, lane: ResponsesLane, upstream: FaultyUpstream) -> OverUpstream:
        return OverUpstream(lane, upstream)


async def fails(lane: ResponsesLane) -> tuple[str, ModelError]:
    """What was said before the error, and the error."""
    said: list[Delta] = []

    async def listen() -> None:
        async for delta in lane.stream(a_request()):
            said.append(delta)  # What came before the error is wanted.

    with pytest.raises(ModelError) as caught:
        await listen()
    return "".join(delta.text for delta in said), caught.value


async def test_text_thinking_and_usage_come_through(lane: ResponsesLane, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(reasoning=("Hm", "m."), finish="length", cached_tokens=3, reasoning_tokens=2))
    deltas = await said_by(lane, a_request())
    assert "".join(d.text for d in deltas) == "Hello, world."
    assert "".join(d.reasoning for d in deltas) == "Hmm."
    usage = TokenUsage(prompt_tokens=11, completion_tokens=6, cached_tokens=3, reasoning_tokens=2)
    assert deltas[-1] == Delta(usage=usage, finish="length")
    (seen,) = upstream.requests
    assert seen.path == "/v1/responses"
    assert seen.headers["Authorization"] == f"Bearer {SECRET}"
    assert seen.body == {
        "model": "mock",
        "input": [{"role": "user", "content": a_request().turns[0].content}],
        "stream": True,
        "store": False,
        "include": ["reasoning.encrypted_content"],
    }


@pytest.mark.parametrize("index", ["right", "missing", "same"])
async def test_calls_however_they_are_numbered(lane: ResponsesLane, upstream: FaultyUpstream, index: Any) -> None:
    upstream.will(Plan(tokens=(), tool_calls=TWO_CALLS, tool_index=index, arguments_split=1, interleaved=True))
    last = (await said_by(lane, with_tools()))[-1]
    assert (last.tool_calls, last.finish) == (TWO_CALLS, "tool_calls")


async def test_a_line_of_ten_megabytes_does_not_hold_the_loop(lane: ResponsesLane, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(long_line_bytes=10 << 20))
    patient = ResponsesLane(lane.info, lane._endpoint, pool=lane._pool, deadlines=Deadlines())
    assert "".join(d.text for d in await said_by(patient, a_request())) == "Hello, world."


@pytest.mark.parametrize(
    ("plan", "error", "facts"),
    [
        (Plan(fault="status", status=429, retry_after="7"), ModelOverloaded, {"retry_after_s": 7.0, "status": 429}),
        (Plan(fault="status", status=401, error={"message": f"bad key {SECRET}"}), ModelRefused, {"status": 401}),
        (Plan(fault="hang_before"), ModelTimeout, {}),
        (Plan(fault="cut_before"), ModelOverloaded, {}),
        (Plan(fault="reset_headers"), ModelOverloaded, {}),
        (Plan(fault="not_a_provider"), ModelBadOutput, {}),
        (Plan(fault="garbage", after=0), ModelBadOutput, {}),
        (Plan(fault="error_in_stream", after=0), ModelOverloaded, {}),
        (Plan(raw=b""), ModelOverloaded, {}),
    ],
)
async def test_failures_before_the_first_token(
    lane: ResponsesLane, upstream: FaultyUpstream, plan: Plan, error: type[ModelError], facts: dict[str, object]
) -> None:
    upstream.will(plan)
    said, raised = await fails(lane)
    assert type(raised) is error
    assert said == ""
    assert raised.facts["started"] is False
    assert facts.items() <= raised.facts.items()
    assert SECRET not in str(raised)


@pytest.mark.parametrize(
    ("fault", "error"),
    [("hang_midway", ModelTimeout), ("cut_midway", ModelOverloaded), ("error_in_stream", ModelOverloaded)],
)
async def test_failures_in_the_middle(
    lane: ResponsesLane, upstream: FaultyUpstream, fault: Any, error: type[ModelError]
) -> None:
    upstream.will(Plan(fault=fault, wait_s=0.02))
    said, raised = await fails(lane)
    assert type(raised) is error
    assert said == "Hello, "
    assert raised.facts["started"] is True


@pytest.mark.parametrize(
    ("event", "error", "says"),
    [
        (
            {"type": "response.failed", "response": {"error": {"code": "server_error", "message": "the model broke"}}},
            ModelOverloaded,
            "the model broke",
        ),
        ({"type": "response.failed", "response": None}, ModelOverloaded, "the reply failed"),
        ({"type": "error", "code": "rate_limit_exceeded", "message": "slow down"}, ModelOverloaded, "slow down"),
        ({"type": "error", "error": {"code": "invalid_prompt", "message": "not that"}}, ModelRefused, "not that"),
    ],
)
async def test_a_reply_that_fails_says_why(
    lane: ResponsesLane, upstream: FaultyUpstream, event: dict[str, Any], error: type[ModelError], says: str
) -> None:
    upstream.will(Plan(raw=b"data: " + orjson.dumps(event) + b"\n\n"))
    _, raised = await fails(lane)
    assert type(raised) is error
    assert says in str(raised)


async def test_a_server_that_does_not_stream_is_understood(lane: ResponsesLane, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(fault="whole_reply", reasoning=("Hm",)))
    deltas = await said_by(lane, a_request())
    assert [(d.reasoning, d.text) for d in deltas] == [("Hm", "Hello, world."), ("", "")]
    assert deltas[-1].finish == "stop"


async def test_a_reply_read_to_its_end_keeps_the_connection(lane: ResponsesLane, pool: UpstreamPool) -> None:
    for _ in range(3):
        await said_by(lane, a_request())
    connector = pool.session.connector
    assert connector is not None
    assert sum(len(free) for free in connector._conns.values()) == 1


async def test_leaving_ends_the_request_at_the_provider(lane: ResponsesLane, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(tokens=["a "] * 1000, wait_s=0.02))
    stream = lane.stream(a_request())
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    await asyncio.sleep(0.2)
    assert upstream.closed_early == 1


def test_a_provider_can_speak_responses() -> None:
    file = read_models_file()
    entry = file.providers["OpenAI"].model_copy(update={"transport": "responses"})
    registry = Registry(
        load_settings(environ={"OPENAI_API_KEY": "sk-visible"}),
        models_file=file.model_copy(update={"providers": {"OpenAI": entry}}),
    )
    model = registry.chat("gpt-5@OpenAI")
    assert isinstance(model, ResponsesLane)
    assert "sk-visible" not in repr(vars(model))


def test_azure_has_responses_beside_its_deployments(endpoint: Endpoint) -> None:
    azure = replace(endpoint, base_url="https://mine.example/", api_version="v1 preview")
    assert azure.url("/responses") == "https://mine.example/openai/responses?api-version=v1%20preview"
    chat = "https://mine.example/openai/deployments/mock/chat/completions?api-version=v1%20preview"
    assert azure.url("/chat/completions") == chat
