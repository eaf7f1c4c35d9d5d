"""Replays recordings over HTTP through the model stack and compares what comes out with what was recorded."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from pydantic import SecretStr

from api.db.services.llm_service import LLMBundle
from api.db.services.records import ModelCall
from api.db.services.usage_ledger import CallContext, UsageLedger
from rag.core.clock import SystemClock
from rag.core.errors import ModelError
from rag.core.types import TokenUsage, ToolCall, Turn
from rag.llm.base import ChatModel, ChatRequest, Delta, ModelInfo
from rag.llm.chat_model import LiteLLMBase
from rag.llm.cohere_lane import CohereLane
from rag.llm.deadlines import Deadlines
from rag.llm.embedding import CompatibleEmbedding, EmbeddingWire, LiteLLMEmbedding, ProviderEmbedder
from rag.llm.endpoint import Endpoint
from rag.llm.interactions_lane import InteractionsLane
from rag.llm.openai_lane import OpenAiLane
from rag.llm.responses_lane import ResponsesLane
from rag.llm.retry import RetryPolicy
from rag.llm.speech import CompatibleTranscriber
from rag.llm.upstream import UpstreamPool
from rag.llm.upstream_call import UpstreamCall
from rag.llm.upstream_lane import UpstreamLane
from tests.integration.rag.llm.recorded_reader import Call, Told, Usage, bare
from tests.integration.rag.llm.recorded_truth import told_by
from tests.integration.rag.llm.recording_server import RecordingServer
from tests.integration.rag.llm.recordings import Exchange, Recording

DEADLINES = Deadlines(first_token_s=20.0, next_token_s=20.0, answer_s=40.0)
REQUEST = ChatRequest(turns=(Turn(role="user", content="What was asked does not matter here."),))
CONTEXT = CallContext(tenant_id="t", purpose="answer")
PATHS = {
    "chat": "/chat/completions",
    "responses": "/responses",
    "anthropic": "/v1/messages",
    "gemini": "enerateContent",
    "bedrock": "/converse",
    "cohere": "/v2/chat",
    "completion": "/completions",
    "interactions": "/interactions",
}
"""What the address that the stack asks holds: the provider's own operation."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One reply of a recording, as it came out; `wrong` says what differs, empty where nothing does."""

    recording: Recording
    number: int
    wrong: str


class Stack:
    """The adapters of the model layer over one server."""

    def __init__(self, pool: UpstreamPool) -> None:
        self.pool = pool

    def model(self, exchange: Exchange, url: str) -> ChatModel | None:
        """The adapter for the exchange's form; None where there is none."""
        lane = _LANES.get(exchange.form)
        if lane is not None:
            return lane(_info("OpenAI"), _endpoint(url, "openai", "m"), pool=self.pool, deadlines=DEADLINES)
        make = _LITELLM.get(exchange.form)
        if make is None:
            return None
        endpoint = make(url)
        return LiteLLMBase(_info(endpoint.litellm_prefix), endpoint, deadlines=DEADLINES, streams=exchange.streams)


def _info(provider: str) -> ModelInfo:
    return ModelInfo(name=f"m@{provider}", context_tokens=100_000, max_output_tokens=4096)


def _endpoint(url: str, prefix: str, model: str) -> Endpoint:
    return Endpoint(base_url=url, api_key=SecretStr("sk-recorded"), litellm_prefix=prefix, model=model)


_LANES: dict[str, type[UpstreamLane]] = {
    "chat": OpenAiLane,
    "responses": ResponsesLane,
    "cohere": CohereLane,
    "interactions": InteractionsLane,
}
_LITELLM: dict[str, Callable[[str], Endpoint]] = {
    "anthropic": lambda url: _endpoint(url, "anthropic", "claude-sonnet-4-5"),
    "gemini": lambda url: _endpoint(url, "gemini", "gemini-2.5-flash"),
    "bedrock": lambda url: replace(
        _endpoint(url, "bedrock/converse", "anthropic.claude-3-7-sonnet-20250219-v1:0"),
        arguments=(("aws_region_name", SecretStr("us-east-1")),),
    ),
    "completion": lambda url: _endpoint(url, "text-completion-openai", "gpt-3.5-turbo-instruct"),
}


@asynccontextmanager
async def replaying(recorded: list[Recording]) -> AsyncIterator["Replay"]:
    pool = UpstreamPool()
    await pool.open()
    replay = Replay(recorded, Stack(pool))
    try:
        async with replay.server.serving():
            yield replay
    finally:
        await pool.close()


class Replay:
    def __init__(self, recorded: list[Recording], stack: Stack) -> None:
        self._parts = [(each, exchange) for each in recorded for exchange in each.exchanges]
        self._stack = stack
        self.server = RecordingServer([exchange for _, exchange in self._parts])

    async def run(self) -> list[Part]:
        """Every exchange, one after the other."""
        return [await self._one(number) for number in range(len(self._parts))]

    async def _one(self, number: int) -> Part:
        recording, exchange = self._parts[number]
        other = _OTHERS.get(exchange.form)
        if other is not None:
            wrong = await other(exchange, f"{self.server.url}/{number}", self._stack.pool)
            return Part(recording=recording, number=number, wrong=wrong)
        model = self._stack.model(exchange, f"{self.server.url}/{number}")
        if model is None:
            return Part(recording=recording, number=number, wrong="no adapter")
        came, wrong_row = await heard(model)
        wrong = difference(told_by(exchange), came) or wrong_row
        asked = self.server.asked.get(number, [])
        if not wrong and (len(asked) != 1 or PATHS[exchange.form] not in asked[0]):
            wrong = f"asked {asked}"
        return Part(recording=recording, number=number, wrong=wrong)


async def _embedded(exchange: Exchange, url: str, pool: UpstreamPool) -> str:
    """The vectors that were recorded, of unit length, and the tokens."""
    wire: EmbeddingWire
    if exchange.form == "embedding":
        rows = [row["embedding"] for row in sorted(exchange.reply["data"], key=lambda row: row["index"])]
        tokens = exchange.reply["usage"]["prompt_tokens"]
        wire = CompatibleEmbedding(UpstreamCall("m@OpenAI", _endpoint(url, "openai", "m"), pool=pool, timeout_s=20))
    else:
        rows = exchange.reply["embeddings"]["float"]
        tokens = exchange.reply["meta"]["billed_units"]["input_tokens"]
        wire = LiteLLMEmbedding("m@Cohere", _endpoint(f"{url}/v2/embed", "cohere", "embed-v4.0"), timeout_s=20)
    vectors = np.array(rows) / np.linalg.norm(rows, axis=1, keepdims=True)
    came = await ProviderEmbedder("m", wire).encode(["text"] * len(rows))
    if came.vectors.shape != vectors.shape or not np.allclose(came.vectors, vectors, atol=1e-6):
        return f"vectors: {_short(vectors.tolist())} came as {_short(came.vectors.tolist())}"
    return "" if came.tokens == tokens else f"tokens: {tokens} came as {came.tokens}"


async def _transcribed(exchange: Exchange, url: str, pool: UpstreamPool) -> str:
    call = UpstreamCall("m@Groq", _endpoint(url, "openai", "m"), pool=pool, timeout_s=20)
    said = exchange.reply if isinstance(exchange.reply, str) else exchange.reply["text"]
    try:
        came = await CompatibleTranscriber(call).transcribe(b"sound", file_name="a.mp3")
    except ModelError as error:
        return error.message
    return "" if came.text == said.strip() else f"text: {_short(said)} came as {_short(came.text)}"


_OTHERS: dict[str, Callable[[Exchange, str, UpstreamPool], Awaitable[str]]] = {
    "embedding": _embedded,
    "cohere-embedding": _embedded,
    "speech": _transcribed,
}
"""How the forms that are no chat are compared: what differs, in words."""


class Sink:
    """Keeps the usage row of one call."""

    def __init__(self) -> None:
        self.rows: list[ModelCall] = []

    async def record(self, call: ModelCall) -> None:
        self.rows.append(call)


async def heard(model: ChatModel) -> tuple[Told, str]:
    """What a bundle of the adapter makes of the reply, in the words of `Told`, and what is wrong with its usage row."""
    sink = Sink()
    ledger = UsageLedger(sink)
    policy = RetryPolicy(attempts=1)
    bundle = LLMBundle(context=CONTEXT, ledger=ledger, clock=SystemClock(), policy=policy, chat=model)
    deltas: list[Delta] = []
    error = ""
    try:
        async for delta in bundle.chat_streamly(REQUEST):
            deltas.append(delta)  # What came before an error is wanted.
    except ModelError as failed:
        error = failed.message
    await ledger.settle()
    text, reasoning = "".join(d.text for d in deltas), bare("".join(d.reasoning for d in deltas))
    if error:
        return Told(text=text, reasoning=reasoning, error=error), ""
    usage = next(delta.usage for delta in reversed(deltas) if delta.usage is not None)
    told = Told(
        text=text,
        reasoning=reasoning,
        calls=tuple(_call(call) for delta in deltas for call in delta.tool_calls),
        usage=None if usage.estimated else _usage(usage),
        finish=next(str(delta.finish) for delta in reversed(deltas) if delta.finish is not None),
    )
    return told, _wrong_row(sink.rows, usage, len(told.calls))


def _usage(usage: TokenUsage) -> Usage:
    return Usage(
        prompt=usage.prompt_tokens,
        completion=usage.completion_tokens,
        cached=usage.cached_tokens,
        written=usage.cache_write_tokens,
        reasoning=usage.reasoning_tokens,
    )


def _wrong_row(rows: list[ModelCall], usage: TokenUsage, calls: int) -> str:
    """What differs in the usage row from what was yielded; empty where nothing does."""
    if len(rows) != 1:
        return f"{len(rows)} usage rows"
    row = rows[0]
    noted = TokenUsage(
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        cached_tokens=row.cached_tokens,
        cache_write_tokens=row.cache_write_tokens,
        reasoning_tokens=row.reasoning_tokens,
        estimated=row.estimated,
    )
    if noted != usage:
        return f"usage row: {usage} was noted as {noted}"
    return "" if row.tool_calls == calls else f"usage row: {calls} calls were noted as {row.tool_calls}"


def _call(call: ToolCall) -> Call:
    arguments: Any = json.loads(call.arguments) if not call.problem else f"{call.problem}: {call.arguments}"
    return Call(id=call.id, name=call.name, arguments=arguments or {})


def difference(recorded: Told, came: Told) -> str:
    """What differs, in words; empty where all is equal."""
    found = []
    for field in fields(Told):
        wanted, got = getattr(recorded, field.name), getattr(came, field.name)
        if field.name == "calls":
            wanted, got = _without_made_up_ids(wanted, got)
        elif field.name == "usage" and wanted is not None and got is not None and wanted.reasoning is None:
            got = replace(got, reasoning=None)
        same = bool(wanted) == bool(got) and wanted in got if field.name == "error" else wanted == got
        if not same:
            found.append(f"{field.name}: {_short(wanted)} came as {_short(got)}")
    return "; ".join(found)


def _without_made_up_ids(wanted: tuple[Call, ...], got: tuple[Call, ...]) -> tuple[Any, Any]:
    """Where the provider gave no id, any unique one will do."""
    if len({call.id for call in got}) != len(got):
        return wanted, f"ids more than once: {got}"
    got = tuple(
        replace(call, id=None) if n < len(wanted) and wanted[n].id is None else call for n, call in enumerate(got)
    )
    return wanted, got


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 160 else f"{shown[:80]}...{shown[-80:]}"
