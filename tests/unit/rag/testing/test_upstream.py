"""The fault-injecting upstream does what its plans say, in each format, on real sockets."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import numpy as np
import orjson
import pytest
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from rag.core.types import ToolCall
from rag.testing.upstream import FaultyUpstream, Plan
from rag.testing.upstream_plan import plan_of
from rag.testing.upstream_process import UpstreamProcess

CALLS = (
    ToolCall(id="call_a", name="weather", arguments='{"city": "Zürich"}'),
    ToolCall(id="call_b", name="time", arguments='{"zone": "CET"}'),
)
FORMATS = ("chat/completions", "responses", "messages")


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyUpstream]:
    async with FaultyUpstream().serving() as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


class Client:
    def __init__(self, upstream: FaultyUpstream, http: aiohttp.ClientSession) -> None:
        self._upstream, self._http = upstream, http

    async def raw(self, path: str, **body: Any) -> tuple[int, str, bytes]:
        async with self._http.post(f"{self._upstream.url}/{path}", json={"model": "mock", **body}) as reply:
            return reply.status, reply.content_type, await reply.read()

    async def events(self, path: str, **body: Any) -> list[dict[str, Any]]:
        _, kind, data = await self.raw(path, stream=True, **body)
        assert kind == "text/event-stream"
        lines = [line[6:] for line in data.splitlines() if line.startswith(b"data: ")]
        return [orjson.loads(line) for line in lines if line != b"[DONE]"]


@pytest.fixture
def client(upstream: FaultyUpstream, http: aiohttp.ClientSession) -> Client:
    return Client(upstream, http)


def chat_pieces(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [call for e in events if e["choices"] for call in e["choices"][0]["delta"].get("tool_calls", ())]


async def test_chat_replies_fit_the_formats_types(client: Client, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(reasoning=("Hm",), tool_calls=CALLS, cached_tokens=4, reasoning_tokens=2))
    for event in await client.events("chat/completions"):
        ChatCompletionChunk.model_validate(event)
    reply = ChatCompletion.model_validate_json((await client.raw("chat/completions"))[2])
    assert reply.choices[0].finish_reason == "tool_calls"
    assert [call.id for call in reply.choices[0].message.tool_calls or ()] == ["call_a", "call_b"]
    assert reply.usage is not None
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.prompt_tokens_details.cached_tokens == 4


async def test_responses_fit_the_formats_types(client: Client, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(reasoning=("Hm",), tool_calls=CALLS, arguments_split=1))
    events = await client.events("responses")
    event_type: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    parsed = [await asyncio.to_thread(event_type.validate_python, event) for event in events]
    assert [event.sequence_number for event in parsed] == list(range(len(events)))
    assert "".join(e.delta for e in parsed if e.type == "response.output_text.delta") == "Hello, world."
    last = parsed[-1]
    assert last.type == "response.completed"
    assert [item.type for item in last.response.output] == ["reasoning", "message", "function_call", "function_call"]
    whole = Response.model_validate_json((await client.raw("responses"))[2])
    assert whole.output_text == "Hello, world."


async def test_messages_come_in_blocks_that_open_and_close(client: Client, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(reasoning=("Hm",), tool_calls=CALLS, arguments_split=3, finish="stop"))
    events = await client.events("messages")
    open_block: int | None = None
    arguments = {2: "", 3: ""}
    for event in events:
        if event["type"] == "content_block_start":
            assert open_block is None
            open_block = event["index"]
        elif event["type"] == "content_block_delta":
            assert event["index"] == open_block
            if event["delta"]["type"] == "input_json_delta":
                arguments[event["index"]] += event["delta"]["partial_json"]
        elif event["type"] == "content_block_stop":
            open_block = None
    assert list(arguments.values()) == [call.arguments for call in CALLS]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    assert events[-2]["usage"] == {"output_tokens": 7}
    assert events[-1] == {"type": "message_stop"}


async def test_arguments_are_split_at_every_character(client: Client, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(tool_calls=CALLS, arguments_split=1, interleaved=True))
    pieces = chat_pieces(await client.events("chat/completions"))
    assert [piece["index"] for piece in pieces[:4]] == [0, 1, 0, 1]
    assert all(len(piece["function"]["arguments"]) == 1 for piece in pieces)
    for index, call in enumerate(CALLS):
        assert "".join(p["function"]["arguments"] for p in pieces if p["index"] == index) == call.arguments


@pytest.mark.parametrize(("index", "expected"), [("missing", [None, None]), ("same", [0, 0]), ("right", [0, 1])])
async def test_tool_indexes(client: Client, upstream: FaultyUpstream, index: Any, expected: list[int | None]) -> None:
    upstream.will(Plan(tool_calls=CALLS, tool_index=index))
    assert [piece.get("index") for piece in chat_pieces(await client.events("chat/completions"))] == expected


async def test_a_stream_split_at_every_byte_is_the_same(client: Client, upstream: FaultyUpstream) -> None:
    whole = await client.events("messages")
    upstream.will(Plan(split=1))
    assert await client.events("messages") == whole


@pytest.mark.parametrize(
    ("plan", "figures"),
    [
        (Plan(usage=False), []),
        (Plan(), [4]),
        (Plan(usage_twice=True), [1, 4]),
    ],
)
async def test_usage(client: Client, upstream: FaultyUpstream, plan: Plan, figures: list[int]) -> None:
    upstream.will(plan)
    events = await client.events("chat/completions")
    assert [event["usage"]["completion_tokens"] for event in events if "usage" in event] == figures


@pytest.mark.parametrize("path", [*FORMATS, "embeddings"])
@pytest.mark.parametrize(("status", "retry_after"), [(429, "7"), (429, None), (500, None), (503, "1")])
async def test_statuses(
    client: Client,
    upstream: FaultyUpstream,
    http: aiohttp.ClientSession,
    path: str,
    status: int,
    retry_after: str | None,
) -> None:
    upstream.will(Plan(fault="status", status=status, retry_after=retry_after))
    async with http.post(f"{upstream.url}/{path}", json={"stream": True}) as reply:
        assert reply.status == status
        assert reply.headers.get("Retry-After") == retry_after
        assert (await reply.json())["error"]["message"] == "upstream says no"


@pytest.mark.parametrize("path", FORMATS)
@pytest.mark.parametrize("fault", ["reset_connect", "reset_headers", "reset_midway", "cut_before", "cut_midway"])
async def test_lost_connections(client: Client, upstream: FaultyUpstream, path: str, fault: Any) -> None:
    upstream.will(Plan(fault=fault), Plan())
    with pytest.raises((aiohttp.ClientError, ConnectionError)) as caught:
        await client.events(path)
    if fault == "reset_connect":
        assert upstream.requests == []
    if fault.startswith("reset"):
        assert "reset" in repr(caught.value).lower() or isinstance(caught.value, aiohttp.ClientPayloadError)
    assert await client.events(path)


@pytest.mark.parametrize("path", FORMATS)
@pytest.mark.parametrize("fault", ["hang_before", "hang_midway"])
async def test_stalls(client: Client, upstream: FaultyUpstream, path: str, fault: Any) -> None:
    upstream.will(Plan(fault=fault))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.raw(path, stream=True), 0.2)


@pytest.mark.parametrize("path", FORMATS)
async def test_json_is_cut_short(client: Client, upstream: FaultyUpstream, path: str) -> None:
    upstream.will(Plan(fault="garbage"))
    for stream in (True, False):
        data = (await client.raw(path, stream=stream))[2]
        last = [line for line in data.split(b"\n") if line][-1].removeprefix(b"data: ")
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(last)


async def test_errors_in_streams_have_their_formats_form(client: Client, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(fault="error_in_stream"))
    assert (await client.events("chat/completions"))[-1]["error"]["message"] == "upstream says no"
    assert (await client.events("responses"))[-1]["type"] == "error"
    assert (await client.events("messages"))[-1]["error"]["type"] == "server_error"


async def test_a_wrong_content_type(client: Client, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(content_type="text/html"))
    assert (await client.raw("responses", stream=True))[1] == "text/html"
    assert (await client.raw("messages"))[1] == "text/html"


@pytest.mark.holds_loop("the test makes and reads 10 MB at once")
@pytest.mark.parametrize("path", FORMATS)
async def test_a_line_of_ten_megabytes(client: Client, upstream: FaultyUpstream, path: str) -> None:
    upstream.will(Plan(long_line_bytes=10_000_000))
    _, _, data = await client.raw(path, stream=True)
    lines = data.split(b"\n")
    assert len([line for line in lines if len(line) > 10_000_000]) == 1


async def test_waits_are_kept(client: Client, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(first_wait_s=0.1, wait_s=0.02))
    began = time.monotonic()
    await client.events("responses")
    assert time.monotonic() - began > 0.1 + 4 * 0.02


async def test_tools_come_first_and_the_answer_after_their_results(client: Client, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(tool_calls=CALLS[:1], tools_first=True))
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    asked = [{"role": "user", "content": "What is the weather?"}]
    first = await client.events("chat/completions", messages=asked, tools=tools)
    assert first[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert not any(e["choices"][0]["delta"].get("content") for e in first if e["choices"])
    answered = [*asked, {"role": "tool", "tool_call_id": "call_a", "content": "sun"}]
    for turns, offered in ((answered, tools), (asked, None)):
        second = await client.events("chat/completions", messages=turns, **({"tools": offered} if offered else {}))
        assert second[-2]["choices"][0]["finish_reason"] == "stop"
        assert chat_pieces(second) == []


async def test_it_says_back_what_it_was_asked(client: Client, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(echo=True))
    turns = [{"role": "user", "content": "one"}, {"role": "user", "content": [{"type": "text", "text": "two words"}]}]
    events = await client.events("messages", messages=turns)
    said = [e["delta"]["text"] for e in events if e["type"] == "content_block_delta"]
    assert said == ["two ", "words"]


async def test_a_model_can_have_plans_of_its_own(client: Client, upstream: FaultyUpstream) -> None:
    upstream.will_for("broken", Plan(fault="status"))
    assert (await client.raw("messages", model="broken"))[0] == 500
    assert (await client.raw("messages", model="other"))[0] == 200


async def test_embeddings(client: Client, upstream: FaultyUpstream) -> None:
    texts = ["the same", "another thing", "the same"]
    plain = CreateEmbeddingResponse.model_validate_json((await client.raw("embeddings", input=texts))[2])
    rows = [row.embedding for row in plain.data]
    assert rows[0] == rows[2] != rows[1]
    assert [len(row) for row in rows] == [8, 8, 8]
    assert plain.usage.prompt_tokens == 6
    packed = orjson.loads((await client.raw("embeddings", input=texts, encoding_format="base64", dimensions=8))[2])
    unpacked = [np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4").tolist() for row in packed["data"]]
    assert unpacked == rows


async def test_embeddings_in_the_wrong_order_or_number(client: Client, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(rows="shuffled"), Plan(rows="one_short"))
    shuffled = orjson.loads((await client.raw("embeddings", input=["a", "b", "c"]))[2])
    assert [row["index"] for row in shuffled["data"]] == [2, 1, 0]
    assert len(orjson.loads((await client.raw("embeddings", input=["a", "b", "c"]))[2])["data"]) == 2


def test_a_plan_survives_the_way_to_another_process() -> None:
    plan = Plan(tokens=("a",), tool_calls=CALLS, raw=b"\x00\xff", fault="garbage")
    again = plan_of(orjson.loads(orjson.dumps(plan.as_json())))
    assert orjson.dumps(again.as_json()) == orjson.dumps(plan.as_json())
    assert again.tool_calls == CALLS
    assert again.raw == b"\x00\xff"
    with pytest.raises(ValueError, match="'colour'"):
        plan_of({"colour": "red"})


async def test_in_a_process_of_its_own() -> None:
    with UpstreamProcess() as process:
        process.will(Plan(fault="status", status=503), Plan(tool_calls=CALLS, tokens=()))
        process.will_for("other", Plan(tokens=("for other",)))
        process.serves(["one", "two"])
        async with aiohttp.ClientSession() as http:
            statuses = []
            for model in ("mock", "other", "mock"):
                body = {"model": model, "messages": [{"role": "user", "content": model}]}
                async with http.post(f"{process.url}/chat/completions", json=body) as reply:
                    statuses.append(reply.status)
                    last = await reply.json()
            async with http.get(f"{process.url}/models") as reply:
                listed = [each["id"] for each in (await reply.json())["data"]]
        assert statuses == [503, 200, 200]
        assert len(last["choices"][0]["message"]["tool_calls"]) == 2
        assert listed == ["one", "two"]
        assert [seen.body["messages"][0]["content"] for seen in process.seen()] == ["mock", "other", "mock"]
        assert [seen.path for seen in process.seen(start=2)] == ["/v1/chat/completions"]
        process.clear()
        assert process.seen() == []
        assert process.closed_early == 0
        with pytest.raises(ValueError, match="has no"):
            process._call("POST", "/control", {"plans": [{"nonsense": 1}]})
