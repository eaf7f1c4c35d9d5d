import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest
from aiohttp import web
from pydantic import SecretStr

from rag.core.errors import InvalidInput, ModelBadOutput, ModelError, ModelOverloaded, ModelRefused, ModelTimeout
from rag.core.types import TokenUsage, Turn
from rag.llm.base import ChatRequest, Delta, Sampling
from rag.llm.deadlines import Deadlines
from rag.llm.endpoint import Endpoint
from rag.llm.openai_lane import OpenAiLane
from rag.llm.upstream import UpstreamPool
from rag.testing.chat_model_suite import TWO_CALLS, ChatModelSuite, ToolModelSuite, a_request, said_by, with_tools
from rag.testing.upstream import FaultyUpstream, Plan
from tests.unit.rag.llm.conftest import SECRET, SHORT, OverUpstream


class TestContract(ChatModelSuite):
    @pytest.fixture
    def model(self, lane: OpenAiLane) -> OpenAiLane:
        return lane


class TestTools(ToolModelSuite):
    @pytest.fixture
    def steered(self, lane: OpenAiLane, upstream: FaultyUpstream) -> OverUpstream:
        return OverUpstream(lane, upstream)


async def fails(lane: OpenAiLane) -> tuple[str, ModelError]:
    """What was said before the error, and the error."""
    said: list[Delta] = []

    async def listen() -> None:
        async for delta in lane.stream(a_request()):
            said.append(delta)  # What came before the error is wanted.

    with pytest.raises(ModelError) as caught:
        await listen()
    return "".join(delta.text for delta in said), caught.value


async def test_text_usage_and_finish_come_through(lane: OpenAiLane, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(reasoning=("Hm", "m."), finish="length"))
    deltas = await said_by(lane, a_request())
    assert "".join(d.text for d in deltas) == "Hello, world."
    assert "".join(d.reasoning for d in deltas) == "Hmm."
    assert deltas[-1] == Delta(usage=TokenUsage(prompt_tokens=11, completion_tokens=6), finish="length")


async def test_what_arrived_together_leaves_together(lane: OpenAiLane, upstream: FaultyUpstream) -> None:
    events = [{"choices": [{"delta": {"content": f"{n} "}, "finish_reason": None}]} for n in range(50)]
    events.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    upstream.will(Plan(raw=b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)))
    deltas = await said_by(lane, a_request())
    assert len(deltas) < 10
    assert "".join(d.text for d in deltas) == "".join(f"{n} " for n in range(50))


@pytest.mark.parametrize(
    ("plan", "error", "facts"),
    [
        (Plan(fault="status", status=429, retry_after="7"), ModelOverloaded, {"retry_after_s": 7.0, "status": 429}),
        (Plan(fault="status", status=503), ModelOverloaded, {"status": 503}),
        (Plan(fault="status", status=500), ModelOverloaded, {"status": 500}),
        (Plan(fault="status", status=408), ModelTimeout, {"status": 408}),
        (Plan(fault="status", status=401, error={"message": f"bad key {SECRET}"}), ModelRefused, {"status": 401}),
        (Plan(fault="status", status=429, error={"code": "insufficient_quota"}), ModelRefused, {"status": 429}),
        (Plan(fault="status", status=302), ModelRefused, {"status": 302}),
        (Plan(fault="hang_before"), ModelTimeout, {}),
        (Plan(fault="cut_before"), ModelOverloaded, {}),
        (Plan(fault="reset_connect"), ModelOverloaded, {}),
        (Plan(fault="reset_headers"), ModelOverloaded, {}),
        (Plan(fault="not_a_provider"), ModelBadOutput, {}),
        (Plan(fault="garbage", after=0), ModelBadOutput, {}),
        (Plan(raw=b""), ModelOverloaded, {}),
    ],
)
async def test_failures_before_the_first_token(
    lane: OpenAiLane, upstream: FaultyUpstream, plan: Plan, error: type[ModelError], facts: dict[str, object]
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
    [
        ("hang_midway", ModelTimeout),
        ("cut_midway", ModelOverloaded),
        ("reset_midway", ModelOverloaded),
        ("garbage", ModelBadOutput),
        ("error_in_stream", ModelOverloaded),
    ],
)
async def test_failures_in_the_middle(
    lane: OpenAiLane, upstream: FaultyUpstream, fault: str, error: type[ModelError]
) -> None:
    upstream.will(Plan(fault=fault, wait_s=0.02))  # type: ignore[arg-type]
    said, raised = await fails(lane)
    assert type(raised) is error
    assert said == "Hello, "
    assert raised.facts["started"] is True


async def test_a_stream_without_a_finish_reason_is_cut_off(lane: OpenAiLane, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(fault="no_finish"))
    deltas = await said_by(lane, a_request())
    assert "".join(d.text for d in deltas) == "Hello, "
    assert deltas[-1].finish == "cut_off"


async def test_a_slow_steady_stream_ends_with_the_whole_deadline(lane: OpenAiLane, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(tokens=["a "] * 100, wait_s=0.1))
    said, raised = await fails(lane)
    assert isinstance(raised, ModelTimeout)
    assert "did not finish within 2 s" in str(raised)
    assert len(said) > 10


async def test_signs_of_life_are_no_tokens(lane: OpenAiLane) -> None:
    """A provider that keeps the connection alive and says nothing is late, in the middle as at the start."""
    piece = b'data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'

    async def alive(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(piece)
        while True:
            await response.write(b": still here\n\n")
            await asyncio.sleep(0.05)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", alive)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    there = Endpoint(base_url=f"http://127.0.0.1:{port}/v1", api_key=SecretStr(SECRET), model="mock")
    try:
        said, raised = await fails(OpenAiLane(lane.info, there, pool=lane._pool, deadlines=SHORT))
    finally:
        await runner.cleanup()
    assert said == "Hi"
    assert f"sent nothing for {SHORT.next_token_s:g} s" in str(raised)


async def test_a_server_that_does_not_stream_is_understood(lane: OpenAiLane, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(fault="whole_reply"))
    deltas = await said_by(lane, a_request())
    assert [d.text for d in deltas] == ["Hello, world.", ""]
    assert deltas[-1].finish == "stop"


async def test_leaving_ends_the_request_at_the_provider(lane: OpenAiLane, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(tokens=["a "] * 1000, wait_s=0.02))
    stream = lane.stream(a_request())
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    await asyncio.sleep(0.2)
    assert upstream.closed_early == 1


async def test_cancelling_the_task_ends_the_request_at_the_provider(lane: OpenAiLane, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(fault="hang_before"))
    task = asyncio.ensure_future(said_by(lane, a_request()))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.2)
    assert upstream.closed_early == 1


async def test_a_reply_read_to_its_end_keeps_the_connection(lane: OpenAiLane, pool: UpstreamPool) -> None:
    for _ in range(3):
        await said_by(lane, a_request())
    connector = pool.session.connector
    assert connector is not None
    assert sum(len(free) for free in connector._conns.values()) == 1


@pytest.mark.parametrize("name", ["api_base", "base_url", "api_key", "headers", "extra_headers", "model", "messages"])
async def test_a_request_cannot_turn_the_call_elsewhere(lane: OpenAiLane, upstream: FaultyUpstream, name: str) -> None:
    request = ChatRequest(turns=(Turn(role="user", content="hi"),), extra={name: "http://evil.example"})
    with pytest.raises(InvalidInput, match=name):
        await said_by(lane, request)
    assert upstream.requests == []


async def test_sampling_is_sent(lane: OpenAiLane, upstream: FaultyUpstream) -> None:
    sampling = Sampling(temperature=0.1, top_p=0.3, max_tokens=9, stop=("END",))
    await said_by(lane, ChatRequest(turns=(Turn(role="user", content="h\ud800i"),), sampling=sampling))
    assert upstream.requests[0].body == {
        "model": "mock",
        "messages": [{"role": "user", "content": "h?i"}],
        "temperature": 0.1,
        "top_p": 0.3,
        "max_tokens": 9,
        "stop": ["END"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert upstream.requests[0].headers["Authorization"] == f"Bearer {SECRET}"


async def test_thinking_in_the_text_is_taken_apart(lane: OpenAiLane, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(tokens=("<th", "ink>I wonder", "</thi", "nk>\n\nYes", ".")))
    deltas = await said_by(lane, a_request())
    assert "".join(d.text for d in deltas) == "Yes."
    assert "".join(d.reasoning for d in deltas) == "I wonder"


@pytest.mark.parametrize("index", ["right", "missing", "same"])
@pytest.mark.parametrize("split", [0, 1])
async def test_calls_however_they_are_numbered(
    lane: OpenAiLane, upstream: FaultyUpstream, index: Any, split: int
) -> None:
    upstream.will(Plan(tokens=(), tool_calls=TWO_CALLS, tool_index=index, arguments_split=split))
    last = (await said_by(lane, with_tools()))[-1]
    assert (last.tool_calls, last.finish) == (TWO_CALLS, "tool_calls")


async def test_every_byte_of_a_call_may_come_alone(lane: OpenAiLane, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(tokens=("é",), tool_calls=TWO_CALLS, split=1))
    deltas = await said_by(lane, with_tools())
    assert "".join(d.text for d in deltas) == "é"
    assert deltas[-1].tool_calls == TWO_CALLS


async def test_calls_of_a_reply_that_was_cut_say_so(lane: OpenAiLane, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(tokens=(), tool_calls=TWO_CALLS, arguments_split=5, fault="no_finish", after=3))
    last = (await said_by(lane, with_tools()))[-1]
    assert last.finish == "cut_off"
    assert "cut off" in last.tool_calls[0].problem


async def test_a_reply_in_one_piece_may_hold_calls(lane: OpenAiLane, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(tokens=("See:",), tool_calls=TWO_CALLS, fault="whole_reply"))
    deltas = await said_by(lane, with_tools())
    assert ("".join(d.text for d in deltas), deltas[-1].tool_calls) == ("See:", TWO_CALLS)


async def test_usage_sent_twice_counts_once(lane: OpenAiLane, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(usage_twice=True, cached_tokens=3, reasoning_tokens=2))
    usage = (await said_by(lane, a_request()))[-1].usage
    assert usage == TokenUsage(prompt_tokens=11, completion_tokens=4, cached_tokens=3, reasoning_tokens=2)


async def test_a_line_of_ten_megabytes_does_not_hold_the_loop(lane: OpenAiLane, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(long_line_bytes=10 << 20))
    patient = OpenAiLane(lane.info, lane._endpoint, pool=lane._pool, deadlines=Deadlines())
    assert "".join(d.text for d in await said_by(patient, a_request())) == "Hello, world."


async def test_a_request_of_megabytes_is_sent_in_pieces(lane: OpenAiLane, upstream: FaultyUpstream) -> None:
    text = "x" * (2 << 20)
    deltas = await said_by(lane, ChatRequest(turns=(Turn(role="user", content=text),)))
    assert "".join(d.text for d in deltas) == "Hello, world."
    assert upstream.requests[-1].body["messages"][0]["content"] == text


async def test_json_that_the_end_of_the_connection_cut_is_no_foreign_protocol(
    lane: OpenAiLane, upstream: FaultyUpstream
) -> None:
    piece = b'data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
    upstream.will(Plan(raw=piece + piece[:30]))
    deltas = await said_by(lane, a_request())
    assert ("".join(d.text for d in deltas), deltas[-1].finish) == ("Hi", "cut_off")
    upstream.will(Plan(raw=piece[:30]))
    _, raised = await fails(lane)
    assert type(raised) is ModelOverloaded


@pytest.mark.parametrize("content_type", ["text/html", "image/png", "application/xml"])
async def test_a_content_type_that_is_no_stream_is_told(
    lane: OpenAiLane, upstream: FaultyUpstream, content_type: str
) -> None:
    upstream.will(Plan(content_type=content_type))
    said, raised = await fails(lane)
    assert (type(raised), said) == (ModelBadOutput, "")
    assert content_type in str(raised)


async def test_a_whole_reply_with_broken_json_is_told(lane: OpenAiLane, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(raw=b'{"choices": [', content_type="application/json"))
    _, raised = await fails(lane)
    assert type(raised) is ModelBadOutput
    assert "broken JSON" in str(raised)


async def test_the_same_tools_are_the_same_bytes_in_each_call(lane: OpenAiLane, upstream: FaultyUpstream) -> None:
    for tools in (with_tools().tools, with_tools().tools[::-1]):
        await said_by(lane, replace(with_tools(), tools=tools))
    first, second = (orjson.dumps(seen.body["tools"]) for seen in upstream.requests)
    assert first == second


async def test_a_tool_that_cannot_be_one_is_refused_before_the_call(lane: OpenAiLane, upstream: FaultyUpstream) -> None:
    broken = replace(with_tools().tools[0], parameters={"type": "object", "properties": {"q": {"type": "text"}}})
    with pytest.raises(InvalidInput, match="find"):
        await said_by(lane, replace(with_tools(), tools=(broken,)))
    assert upstream.requests == []


async def test_an_address_that_cannot_be_looked_up(lane: OpenAiLane, endpoint: Endpoint, pool: UpstreamPool) -> None:
    nowhere = replace(endpoint, base_url="http://a..b/v1")
    _, error = await fails(OpenAiLane(lane.info, nowhere, pool=pool, deadlines=SHORT))
    assert isinstance(error, ModelBadOutput)
    assert "base address" in str(error)


async def test_an_address_where_nobody_listens(lane: OpenAiLane, endpoint: Endpoint, pool: UpstreamPool) -> None:
    nowhere = replace(endpoint, base_url="http://127.0.0.1:9/v1")
    said, raised = await fails(OpenAiLane(lane.info, nowhere, pool=pool, deadlines=SHORT))
    assert type(raised) is ModelOverloaded
    assert "cannot be reached" in str(raised)
    assert said == ""
