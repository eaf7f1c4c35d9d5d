import asyncio
import inspect
import threading
from collections.abc import AsyncIterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from rag.core.blocking import Lane, run_in
from rag.core.errors import ModelBadOutput, ModelError, ModelOverloaded, ModelTimeout
from rag.core.types import ToolCall
from rag.llm import chat_model, litellm_port
from rag.llm.chat_model import LiteLLMBase
from rag.llm.deadlines import Deadlines
from rag.llm.endpoint import Endpoint
from rag.testing.chat_model_suite import TWO_CALLS, ChatModelSuite, ToolModelSuite, a_request, said_by, with_tools
from rag.testing.upstream import FaultyUpstream, Plan
from tests.unit.rag.llm.conftest import INFO, SECRET, OverUpstream

# The library's objects do not fit their own pydantic schema, and it leaves a client to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
async def litellm_chat(endpoint: Endpoint) -> AsyncIterator[LiteLLMBase]:
    await run_in(Lane.MODEL, litellm_port.load)
    yield LiteLLMBase(INFO, endpoint, deadlines=Deadlines(first_token_s=0.5, next_token_s=0.5, answer_s=5.0))
    await litellm_port.close_clients()


class TestContract(ChatModelSuite):
    @pytest.fixture
    def model(self, litellm_chat: LiteLLMBase) -> LiteLLMBase:
        return litellm_chat


class TestTools(ToolModelSuite):
    @pytest.fixture
    def steered(self, litellm_chat: LiteLLMBase, upstream: FaultyUpstream) -> OverUpstream:
        return OverUpstream(litellm_chat, upstream)


@pytest.mark.parametrize("index", ["right", "missing", "same"])
async def test_calls_however_they_are_numbered(litellm_chat: LiteLLMBase, upstream: FaultyUpstream, index: Any) -> None:
    upstream.will(Plan(tokens=(), tool_calls=TWO_CALLS, tool_index=index, arguments_split=4))
    last = (await said_by(litellm_chat, with_tools()))[-1]
    assert (last.tool_calls, last.finish) == (TWO_CALLS, "tool_calls")


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize(
    ("said", "fits"),
    [
        (Plan(tokens=("x" * 40,) * 2), True),
        (Plan(tokens=("x" * 40,) * 3), False),
        (Plan(tokens=("x" * 40,), reasoning=("y" * 40,) * 2), False),
        (Plan(tokens=("x" * 40,) * 2000), False),
    ],
)
async def test_an_answer_has_a_bound(
    litellm_chat: LiteLLMBase,
    upstream: FaultyUpstream,
    monkeypatch: pytest.MonkeyPatch,
    streams: bool,
    said: Plan,
    fits: bool,
) -> None:
    monkeypatch.setattr(chat_model, "MAX_TEXT_CHARS", 100)
    upstream.will(said if streams else replace(said, fault="whole_reply"))
    chat = LiteLLMBase(litellm_chat.info, litellm_chat._endpoint, deadlines=Deadlines(), streams=streams)
    chars = 0
    with nullcontext() if fits else pytest.raises(ModelBadOutput, match="longer than 100 characters") as raised:
        async for delta in chat.stream(a_request()):
            chars += len(delta.text) + len(delta.reasoning)
    assert chars <= 100
    if fits:
        assert chars == 80
    else:
        assert raised.value.facts["started"] is streams


def test_every_exception_of_the_library_has_a_translation() -> None:
    library = litellm_port.load()
    classes = {
        value for value in vars(library.exceptions).values() if inspect.isclass(value) and issubclass(value, Exception)
    }
    assert len(classes) > 25
    for exception in classes:
        error = exception.__new__(exception)
        assert litellm_port.translation_of(error) is not None, exception


def test_every_translation_names_a_class_of_the_library() -> None:
    exceptions = litellm_port.load().exceptions
    assert [name for name, _ in litellm_port.TRANSLATIONS if not hasattr(exceptions, name)] == []


def test_the_most_specific_class_comes_first() -> None:
    exceptions = litellm_port.load().exceptions
    classes = [getattr(exceptions, name) for name, _ in litellm_port.TRANSLATIONS]
    for index, later in enumerate(classes):
        assert not any(issubclass(later, earlier) and later is not earlier for earlier in classes[:index])


def test_other_errors_go_on_unchanged() -> None:
    litellm_port.load()
    with pytest.raises(KeyError), litellm_port.translated("m"):
        raise KeyError("mine")


@pytest.mark.parametrize(
    ("plan", "error", "started"),
    [
        (Plan(fault="status", status=429, retry_after="7"), ModelOverloaded, False),
        (Plan(fault="status", status=503), ModelOverloaded, False),
        (Plan(fault="hang_before"), ModelTimeout, False),
        (Plan(fault="hang_midway"), ModelTimeout, True),
        (Plan(fault="cut_before"), ModelOverloaded, False),
        (Plan(fault="cut_midway", wait_s=0.02), ModelOverloaded, True),
        (Plan(fault="error_in_stream", wait_s=0.02), ModelOverloaded, True),
    ],
)
async def test_failures(
    litellm_chat: LiteLLMBase, upstream: FaultyUpstream, plan: Plan, error: type[ModelError], started: bool
) -> None:
    upstream.will(plan)
    with pytest.raises(ModelError) as caught:
        await said_by(litellm_chat, a_request())
    assert type(caught.value) is error
    assert caught.value.facts["started"] is started
    assert SECRET not in str(caught.value)
    assert len(upstream.requests) == 1
    if plan.retry_after:
        assert caught.value.facts["retry_after_s"] == 7.0


async def test_a_stream_without_a_finish_reason_is_cut_off(litellm_chat: LiteLLMBase, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(fault="no_finish"))
    last = (await said_by(litellm_chat, a_request()))[-1]
    assert last.finish == "cut_off"
    assert last.usage is None or last.usage.estimated


async def test_usage_and_reasoning_come_through(litellm_chat: LiteLLMBase, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(reasoning=("Hm",)))
    deltas = await said_by(litellm_chat, a_request())
    assert "".join(d.reasoning for d in deltas) == "Hm"
    assert deltas[-1].usage is not None
    assert (deltas[-1].usage.prompt_tokens, deltas[-1].usage.completion_tokens) == (11, 5)
    assert upstream.requests[0].body["stream_options"] == {"include_usage": True}


async def test_leaving_ends_the_request_at_the_provider(litellm_chat: LiteLLMBase, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(tokens=["a "] * 1000, wait_s=0.02))
    stream: Any = litellm_chat.stream(a_request())
    await anext(stream)
    await stream.aclose()
    async with asyncio.timeout(5):  # A tenth of a second, but not on a busy machine; the reply would go on for 20 s.
        while not upstream.closed_early:
            await asyncio.sleep(0.01)
    assert upstream.closed_early == 1


async def test_an_error_shows_nothing_of_the_code(upstream: FaultyUpstream, endpoint: Endpoint) -> None:
    await run_in(Lane.MODEL, litellm_port.load)
    address = replace(endpoint, base_url=upstream.root, litellm_prefix="anthropic", model="claude-sonnet-4-5")
    upstream.will(Plan(raw=b'event: content_block_delta\ndata: {"type": "content_block_del\n\n'))
    with pytest.raises(ModelError) as caught:
        await said_by(LiteLLMBase(INFO, address, deadlines=Deadlines()), a_request())
    await litellm_port.close_clients()
    assert "Traceback" not in str(caught.value)
    assert ".py" not in str(caught.value)


@pytest.fixture
async def busy_computing() -> AsyncIterator[None]:
    """All threads for local models compute, for as long as the test runs."""
    done = threading.Event()
    _, threads, _ = Lane.MODEL.value
    working = [asyncio.ensure_future(run_in(Lane.MODEL, done.wait, 30)) for _ in range(threads)]
    await asyncio.sleep(0)
    yield
    done.set()
    await asyncio.gather(*working)


@pytest.mark.parametrize("streams", [True, False])
async def test_local_computing_holds_up_no_call(
    busy_computing: None, upstream: FaultyUpstream, endpoint: Endpoint, streams: bool
) -> None:
    await run_in(Lane.FILES, litellm_port.load)
    model = LiteLLMBase(INFO, endpoint, deadlines=Deadlines(), streams=streams)
    deltas = await asyncio.wait_for(said_by(model, a_request()), 10)
    await litellm_port.close_clients()
    assert "".join(delta.text for delta in deltas) == "Hello, world."


@pytest.mark.parametrize("prefix", ["openai", "bedrock"])
@pytest.mark.parametrize("streams", [True, False])
async def test_loading_the_library_is_within_the_deadline(
    monkeypatch: pytest.MonkeyPatch, upstream: FaultyUpstream, endpoint: Endpoint, *, prefix: str, streams: bool
) -> None:
    library, loading = await run_in(Lane.FILES, litellm_port.load), threading.Event()

    def load() -> Any:
        loading.wait(30)
        return library

    monkeypatch.setattr(litellm_port, "_library", None)
    monkeypatch.setattr(litellm_port, "load", load)
    hasty = Deadlines(first_token_s=0.2, answer_s=0.2)
    model = LiteLLMBase(INFO, replace(endpoint, litellm_prefix=prefix), deadlines=hasty, streams=streams)
    try:
        with pytest.raises(ModelTimeout) as caught:
            await asyncio.wait_for(said_by(model, a_request()), 10)
    finally:
        loading.set()
    assert caught.value.facts["started"] is False
    assert upstream.requests == []


async def test_a_reply_in_one_piece(upstream: FaultyUpstream, endpoint: Endpoint) -> None:
    await run_in(Lane.MODEL, litellm_port.load)
    call = ToolCall(id="call_a", name="weather", arguments='{"city": "Zug"}')
    upstream.will(Plan(reasoning=("Hm",), tool_calls=(call,)))
    deltas = await said_by(LiteLLMBase(INFO, endpoint, deadlines=Deadlines(), streams=False), a_request())
    await litellm_port.close_clients()
    assert [(d.text, d.reasoning) for d in deltas] == [("Hello, world.", "Hm"), ("", "")]
    assert deltas[-1].finish == "tool_calls"
    assert deltas[-1].tool_calls == (call,)
    assert deltas[-1].usage is not None
    assert upstream.requests[0].body.get("stream") is not True


async def test_usage_that_the_library_counted_itself_is_marked(upstream: FaultyUpstream, endpoint: Endpoint) -> None:
    await run_in(Lane.MODEL, litellm_port.load)
    for told in (True, False):
        upstream.will(Plan(usage=told))
        deltas = await said_by(LiteLLMBase(INFO, endpoint, deadlines=Deadlines()), a_request())
        assert deltas[-1].usage is not None
        assert deltas[-1].usage.estimated is not told
    await litellm_port.close_clients()


@pytest.mark.parametrize("streams", [True, False])
async def test_a_call_of_gemini_without_arguments_is_a_call(streams: bool) -> None:
    """The library ends such a reply with a KeyError; see `rag.llm.gemini_pieces`."""
    await run_in(Lane.MODEL, litellm_port.load)
    parts = [{"text": "I will look."}, {"functionCall": {"name": "now"}}]
    reply = {
        "candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5},
    }

    async def answer(request: web.Request) -> web.Response:
        data = orjson.dumps(reply)
        if "stream" in request.path:
            return web.Response(body=b"data: " + data + b"\r\n\r\n", content_type="text/event-stream")
        return web.Response(body=data, content_type="application/json")

    app = web.Application()
    app.router.add_post("/{rest:.*}", answer)
    async with TestServer(app) as server:
        endpoint = Endpoint(
            base_url=str(server.make_url("/v1beta")),
            api_key=SecretStr(SECRET),
            litellm_prefix="gemini",
            model="gemini-x",
        )
        model = LiteLLMBase(INFO, endpoint, deadlines=Deadlines(), streams=streams)
        deltas = await said_by(model, a_request())
        await litellm_port.close_clients()
    assert "".join(delta.text for delta in deltas) == "I will look."
    assert [(call.name, call.arguments) for call in deltas[-1].tool_calls] == [("now", "{}")]
    assert deltas[-1].finish == "tool_calls"
