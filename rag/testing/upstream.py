"""A real OpenAI-compatible upstream on a loopback port that fails on command and records every request."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from aiohttp import web

Fault = Literal[
    "none",
    "status",
    "hang_before",
    "hang_midway",
    "cut_before",
    "cut_midway",
    "no_finish",
    "garbage",
    "not_a_provider",
    "error_in_stream",
    "whole_reply",
]

_MIDWAY = ("hang_midway", "cut_midway", "garbage", "error_in_stream", "no_finish")


@dataclass(kw_only=True)
class Plan:
    """How one reply goes. `after` tokens have been sent when a fault in the middle strikes."""

    tokens: Sequence[str] = ("Hello", ", ", "world", ".")
    reasoning: Sequence[str] = ()
    fault: Fault = "none"
    status: int = 500
    retry_after: str | None = None
    error: dict[str, Any] = field(default_factory=lambda: {"message": "upstream says no", "type": "server_error"})
    after: int = 2
    first_wait_s: float = 0.0
    wait_s: float = 0.0
    usage: bool = True
    finish: str = "stop"
    raw: bytes | None = None
    split: int = 0
    """Raw bytes are sent as they are; `split` > 0 sends any stream in pieces of that many bytes."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class _CutOnCommand(Exception):
    """The connection is gone already."""


class FaultyUpstream:
    """Replies by `plans` in turn, the last one for ever. `closed_early` counts streams the client left."""

    def __init__(self) -> None:
        self.plans: list[Plan] = [Plan()]
        self.requests: list[Seen] = []
        self.closed_early = 0
        self.url = ""
        self._release = asyncio.Event()

    def will(self, *plans: Plan) -> None:
        """Set what the next requests get."""
        self.plans = list(plans)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FaultyUpstream"]:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/v1"
        try:
            yield self
        finally:
            self._release.set()
            await runner.cleanup()

    async def _models(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": [{"id": "mock", "object": "model"}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.requests.append(Seen(path=request.path, headers=dict(request.headers), body=body))
        plan = self.plans.pop(0) if len(self.plans) > 1 else self.plans[0]
        try:
            return await self._reply(request, plan, body)
        except _CutOnCommand:
            return web.Response()
        except (asyncio.CancelledError, ConnectionError):
            self.closed_early += 1
            raise

    async def _reply(self, request: web.Request, plan: Plan, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(plan.first_wait_s)
        if plan.fault == "status":
            headers = {"Retry-After": plan.retry_after} if plan.retry_after else {}
            return web.json_response({"error": plan.error}, status=plan.status, headers=headers)
        if plan.fault == "hang_before":
            await self._release.wait()
        if plan.fault == "not_a_provider":
            return web.Response(text="<html><body>Welcome!</body></html>", content_type="text/html")
        if plan.fault == "cut_before":
            _cut(request)
        if plan.fault == "whole_reply" or not body.get("stream"):
            return web.json_response(_whole(plan))
        return await self._stream(request, plan)

    async def _stream(self, request: web.Request, plan: Plan) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        if plan.raw is not None:
            await _send(response, plan.raw, plan.split)
            await response.write_eof()
            return response
        for sent, piece in enumerate(_pieces(plan)):
            if sent == plan.after and plan.fault in _MIDWAY:
                await self._fail(request, response, plan)
                return response
            await _send(response, b"data: " + orjson.dumps(piece) + b"\n\n", plan.split)
            await asyncio.sleep(plan.wait_s)
        await _send(response, b"data: [DONE]\n\n", plan.split)
        await response.write_eof()
        return response

    async def _fail(self, request: web.Request, response: web.StreamResponse, plan: Plan) -> None:
        if plan.fault == "hang_midway":
            await self._release.wait()
        elif plan.fault == "cut_midway":
            _cut(request)
        elif plan.fault == "garbage":
            await _send(response, b'data: {"choices": [{"delta": {"cont\n\n', 0)
        elif plan.fault == "error_in_stream":
            await _send(response, b"data: " + orjson.dumps({"error": plan.error}) + b"\n\n", 0)
        await response.write_eof()


async def _send(response: web.StreamResponse, data: bytes, split: int) -> None:
    if split <= 0:
        await response.write(data)
        return
    for start in range(0, len(data), split):
        await response.write(data[start : start + split])
        await asyncio.sleep(0)


def _cut(request: web.Request) -> None:
    """Reset the connection, as a crashed server does."""
    transport = request.transport
    if transport is not None:
        transport.abort()
    raise _CutOnCommand


def _pieces(plan: Plan) -> list[dict[str, Any]]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "mock"}

    def piece(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    found = [piece({"role": "assistant", "reasoning_content": text}) for text in plan.reasoning]
    found += [piece({"role": "assistant", "content": text}) for text in plan.tokens]
    found.append(piece({}, plan.finish))
    if plan.usage:
        found.append(head | {"choices": [], "usage": _usage(plan)})
    return found


def _whole(plan: Plan) -> dict[str, Any]:
    message = {"role": "assistant", "content": "".join(plan.tokens)}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "mock",
        "choices": [{"index": 0, "message": message, "finish_reason": plan.finish}],
        "usage": _usage(plan),
    }


def _usage(plan: Plan) -> dict[str, int]:
    completion = len(plan.tokens) + len(plan.reasoning)
    return {"prompt_tokens": 11, "completion_tokens": completion, "total_tokens": 11 + completion}
