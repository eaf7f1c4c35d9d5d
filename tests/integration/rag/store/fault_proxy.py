"""An HTTP server on a real socket: passes calls on to Elasticsearch, and gets in the way on demand."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

Fault = Callable[[web.Request, bytes], Awaitable[web.Response | bytes | None]]
"""Answers itself, changes the body that is passed on, or stays out of it."""
PRODUCT = {"X-Elastic-Product": "Elasticsearch"}


@dataclass
class Call:
    method: str
    path: str
    body: bytes
    headers: dict[str, str]


@dataclass
class FaultProxy:
    """`calls` are all that arrived; `fault` gets in their way."""

    url: str = ""
    fault: Fault | None = None
    after: Callable[[web.Request, bytes, bytes], bytes] | None = None
    calls: list[Call] = field(default_factory=list)

    def bodies(self, end: str) -> list[bytes]:
        return [call.body for call in self.calls if call.path.endswith(end)]


def says(status: int, kind: str, reason: str = "for a test") -> web.Response:
    """An error as Elasticsearch words it."""
    error = {"root_cause": [{"type": kind, "reason": reason}], "type": kind, "reason": reason}
    return web.json_response({"error": error, "status": status}, status=status, headers=PRODUCT)


@asynccontextmanager
async def proxy(target: str) -> AsyncIterator[FaultProxy]:
    """Listens until the block ends."""
    state = FaultProxy()
    async with aiohttp.ClientSession() as session:

        async def handle(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            state.calls.append(Call(request.method, request.path, body, dict(request.headers)))
            passed = await state.fault(request, body) if state.fault else None
            if isinstance(passed, web.Response):
                return passed
            headers = {k: v for k, v in request.headers.items() if k.lower() in ("accept", "content-type")}
            async with session.request(
                request.method, target + request.raw_path, data=passed or body, headers=headers
            ) as reply:
                told = await reply.read()
                if state.after is not None:
                    told = state.after(request, body, told)
                return web.Response(status=reply.status, body=told, headers=PRODUCT, content_type="application/json")

        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", handle)
        async with _listening(app) as url:
            state.url = url
            yield state


@asynccontextmanager
async def answering(reply: Callable[[web.Request], web.Response]) -> AsyncIterator[str]:
    """A server that is something else; its address."""

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return reply(request)

    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", handle)
    async with _listening(app) as url:
        yield url


@asynccontextmanager
async def silent() -> AsyncIterator[str]:
    """A server that takes connections and never says anything; its address."""
    over = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        over.set()
        server.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def _listening(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def chunk_ids(bulk: bytes) -> list[str]:
    """The chunks that a bulk body writes."""
    return [json.loads(line)["chunk_id"] for line in bulk.splitlines()[1::2]]
