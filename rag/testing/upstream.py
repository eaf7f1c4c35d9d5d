"""A real upstream on a loopback port that fails on command and records every request.

It speaks OpenAI's chat completions, Responses and embeddings, Anthropic's messages and Cohere's chat. In a process of
its own (`python -m rag.testing.upstream --port 0`, or `upstream_process.UpstreamProcess`) it is steered over HTTP:
`POST /control` sets plans, `GET /seen` tells what was asked.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

import orjson
from aiohttp import web

from rag.testing import (
    upstream_anthropic,
    upstream_chat,
    upstream_cohere,
    upstream_embeddings,
    upstream_responses,
)
from rag.testing.upstream_plan import MIDWAY, Fault, Frame, Plan, Seen, plan_of

__all__ = ["Fault", "FaultyUpstream", "Plan", "Seen"]

_CHAT, _RESPONSES, _MESSAGES, _EMBEDDINGS = "chat/completions", "responses", "messages", "embeddings"
_COHERE = "/v2/chat"
_FRAMES: dict[str, Callable[[Plan], list[Frame]]] = {
    _CHAT: upstream_chat.frames,
    _RESPONSES: upstream_responses.frames,
    _MESSAGES: upstream_anthropic.frames,
    _COHERE: upstream_cohere.frames,
}
_WHOLE: dict[str, Callable[[Plan], dict[str, Any]]] = {
    _CHAT: upstream_chat.whole,
    _RESPONSES: upstream_responses.whole,
    _MESSAGES: upstream_anthropic.whole,
    _COHERE: upstream_cohere.whole,
}
_LINGER_0 = struct.pack("ii", 1, 0)
_MAX_BODY_BYTES = 64 << 20


class _CutOnCommand(Exception):
    """The connection is gone already."""


class FaultyUpstream:
    """Replies by `plans` in turn, the last one for ever; `by_model` goes over them for the models it names.

    `requests` holds what was asked, in order of arrival. `closed_early` counts replies the client left.
    """

    def __init__(self) -> None:
        self.plans: list[Plan] = [Plan()]
        self.by_model: dict[str, list[Plan]] = {}
        self.models: list[str] = ["mock"]
        self.requests: list[Seen] = []
        self.closed_early = 0
        self.url = ""
        """Ends with `/v1`."""
        self._release = asyncio.Event()

    @property
    def root(self) -> str:
        """The address without `/v1`, for clients that add it."""
        return self.url.removesuffix("/v1")

    def will(self, *plans: Plan) -> None:
        """Set what the next requests get."""
        self.plans = list(plans)

    def will_for(self, model: str, *plans: Plan) -> None:
        """Set what the next requests for `model` get."""
        self.by_model[model] = list(plans)

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator["FaultyUpstream"]:
        """Serve on `port` of 127.0.0.1, or on a free one."""
        runner = web.AppRunner(self._app(), handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: self._connected(runner), "127.0.0.1", port, backlog=1024)
        host, bound = server.sockets[0].getsockname()[:2]
        self.url = f"http://{host}:{bound}/v1"
        try:
            yield self
        finally:
            self._release.set()
            server.close()
            await runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        for path in (_CHAT, _RESPONSES, _MESSAGES, _EMBEDDINGS):
            app.router.add_post(f"/v1/{path}", self._answer)
        app.router.add_post(_COHERE, self._answer)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/control", self._control)
        app.router.add_get("/seen", self._seen)
        return app

    def _connected(self, runner: web.AppRunner) -> asyncio.Protocol:
        if self.plans[0].fault == "reset_connect":
            self._next(self.plans)
            return _ResetAtConnect()
        assert runner.server is not None
        return runner.server()

    async def _models(self, request: web.Request) -> web.StreamResponse:
        listed = [{"id": name, "object": "model", "owned_by": "mock"} for name in self.models]
        return web.json_response({"object": "list", "data": listed})

    async def _control(self, request: web.Request) -> web.StreamResponse:
        """`{"plans": [...], "by_model": {name: [...]}, "models": [...], "clear": true}`, each optional."""
        order = orjson.loads(await request.read())
        try:
            plans = [plan_of(plan) for plan in order.get("plans", ())]
            by_model = {name: [plan_of(plan) for plan in each] for name, each in order.get("by_model", {}).items()}
        except (TypeError, ValueError) as error:
            return web.json_response({"error": str(error)}, status=400)
        if plans:
            self.will(*plans)
        self.by_model.update(by_model)
        self.models = list(order.get("models", self.models))
        if order.get("clear"):
            self.requests.clear()
            self.closed_early = 0
        return web.json_response({"ok": True})

    async def _seen(self, request: web.Request) -> web.StreamResponse:
        start = int(request.query.get("start", "0"))
        found = [asdict(seen) for seen in islice(self.requests, start, None)]
        return web.json_response({"requests": found, "closed_early": self.closed_early})

    @staticmethod
    def _next(plans: list[Plan]) -> Plan:
        return plans.pop(0) if len(plans) > 1 else plans[0]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.requests.append(Seen(path=request.path, headers=dict(request.headers), body=body))
        plan = _for_request(self._next(self.by_model.get(body.get("model"), self.plans)), body)
        try:
            return await self._reply(request, plan, body)
        except _CutOnCommand:
            return web.Response()
        except (asyncio.CancelledError, ConnectionError):
            self.closed_early += 1
            raise

    async def _reply(self, request: web.Request, plan: Plan, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(plan.first_wait_s)
        form = request.path.removeprefix("/v1/")
        if plan.fault == "status":
            headers = {"Retry-After": plan.retry_after} if plan.retry_after else {}
            return web.json_response(_error_body(form, plan), status=plan.status, headers=headers)
        if plan.fault == "not_a_provider":
            return web.Response(text="<html><body>Welcome!</body></html>", content_type="text/html")
        await self._fail_before(request, plan)
        if form == _EMBEDDINGS:
            return _json_reply(plan, upstream_embeddings.whole(plan, body))
        if plan.fault == "whole_reply" or not body.get("stream"):
            return _json_reply(plan, _WHOLE[form](plan))
        return await self._stream(request, plan, form)

    async def _fail_before(self, request: web.Request, plan: Plan) -> None:
        if plan.fault == "hang_before":
            await self._release.wait()
        elif plan.fault == "cut_before":
            _cut(request)
        elif plan.fault == "reset_connect":
            # The client used a connection that was open already.
            _reset(request)
        elif plan.fault == "reset_headers":
            assert request.transport is not None
            request.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/ev")
            await asyncio.sleep(0.01)
            _reset(request)

    async def _stream(self, request: web.Request, plan: Plan, form: str) -> web.StreamResponse:
        kind = plan.content_type or "text/event-stream"
        response = web.StreamResponse(headers={"Content-Type": kind, "Cache-Control": "no-cache"})
        await response.prepare(request)
        if plan.raw is not None:
            await _send(response, plan.raw, plan.split)
            await response.write_eof()
            return response
        sent = 0
        for frame in _FRAMES[form](plan):
            if not frame.head and sent == plan.after and plan.fault in MIDWAY:
                await self._fail(request, response, plan)
                return response
            await _send(response, _line(frame, plan.long_line_bytes if sent == 0 and not frame.head else 0), plan.split)
            if not frame.head:
                sent += 1
                await asyncio.sleep(plan.wait_s)
        if form == _CHAT:
            await _send(response, b"data: [DONE]\n\n", plan.split)
        await response.write_eof()
        return response

    async def _fail(self, request: web.Request, response: web.StreamResponse, plan: Plan) -> None:
        form = request.path.removeprefix("/v1/")
        if plan.fault == "hang_midway":
            await self._release.wait()
        elif plan.fault == "cut_midway":
            _cut(request)
        elif plan.fault == "reset_midway":
            # What the client has not read yet is lost with a reset.
            await asyncio.sleep(0.05)
            _reset(request)
        elif plan.fault == "garbage":
            await _send(response, b'data: {"choices": [{"delta": {"cont\n\n', 0)
        elif plan.fault == "error_in_stream":
            await _send(response, _line(_error_frame(form, plan)), 0)
        await response.write_eof()


class _ResetAtConnect(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        _reset_transport(transport)


def _for_request(plan: Plan, body: dict[str, Any]) -> Plan:
    """The plan as it is for this request: see `Plan.tools_first` and `Plan.echo`."""
    turns = body.get("messages") or body.get("input") or ()
    if plan.tools_first:
        plan = replace(plan, tool_calls=()) if _answered(turns) or not body.get("tools") else replace(plan, tokens=())
    if plan.echo:
        asked = [turn.get("content") for turn in turns if isinstance(turn, dict) and turn.get("role") == "user"]
        words = _text_of(asked[-1] if asked else "").split(" ")
        plan = replace(plan, tokens=[f"{word} " for word in words[:-1]] + words[-1:])
    return plan


def _answered(turns: Any) -> bool:
    last = turns[-1] if isinstance(turns, list) and turns else {}
    if last.get("role") == "tool" or last.get("type") == "function_call_output":
        return True
    content = last.get("content")
    return isinstance(content, list) and any(part.get("type") == "tool_result" for part in content)


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return str(content or "")


def _error_body(form: str, plan: Plan) -> dict[str, Any]:
    return upstream_anthropic.error(plan) if form == _MESSAGES else upstream_chat.error(plan)


def _error_frame(form: str, plan: Plan) -> Frame:
    if form == _RESPONSES:
        return upstream_responses.error_event(plan)
    return upstream_anthropic.error_event(plan) if form == _MESSAGES else Frame(data=upstream_chat.error(plan))


def _json_reply(plan: Plan, reply: dict[str, Any]) -> web.Response:
    data = orjson.dumps(reply)
    if plan.fault == "garbage":
        data = data[: len(data) // 2]
    return web.Response(body=data, headers={"Content-Type": plan.content_type or "application/json"})


def _line(frame: Frame, pad_bytes: int = 0) -> bytes:
    data = frame.data | ({"obfuscation": "x" * pad_bytes} if pad_bytes else {})
    name = f"event: {frame.event}\n".encode() if frame.event else b""
    return name + b"data: " + orjson.dumps(data) + b"\n\n"


async def _send(response: web.StreamResponse, data: bytes, split: int) -> None:
    if split <= 0:
        await response.write(data)
        return
    for start in range(0, len(data), split):
        await response.write(data[start : start + split])
        await asyncio.sleep(0)


def _cut(request: web.Request) -> None:
    """Close the connection, as a crashed server does."""
    transport = request.transport
    if transport is not None:
        transport.abort()
    raise _CutOnCommand


def _reset(request: web.Request) -> None:
    transport = request.transport
    if transport is not None:
        _reset_transport(transport)
    raise _CutOnCommand


def _reset_transport(transport: asyncio.BaseTransport) -> None:
    """Let the kernel answer with a reset: closing without lingering drops what was not sent."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
    transport.abort()  # type: ignore[attr-defined]


def main() -> None:
    """Serve until the process is ended; the first line of the output is the address."""
    from rag.testing.upstream_process import serve_forever

    serve_forever()


if __name__ == "__main__":
    main()
