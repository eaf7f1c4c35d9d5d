"""The floor of the figures on model calls: a Quart app that hands an upstream's bytes on and does nothing else."""

import asyncio
import sys
from collections.abc import AsyncIterator

import aiohttp
import uvloop
from hypercorn.asyncio import serve
from hypercorn.config import Config
from quart import Quart, Response, request


def make_app(upstream: str) -> Quart:
    app = Quart("passthrough")
    sessions: list[aiohttp.ClientSession] = []

    @app.before_serving
    async def begin() -> None:
        sessions.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))

    @app.after_serving
    async def end() -> None:
        await sessions.pop().close()

    @app.get("/health")
    async def health() -> str:
        return "ok"

    @app.post("/v1/chat/completions")
    async def chat() -> Response:
        reply = await sessions[0].post(f"{upstream}/chat/completions", data=await request.get_data())

        async def pieces() -> AsyncIterator[bytes]:
            async for piece in reply.content.iter_any():
                yield piece

        response = Response(pieces(), content_type="text/event-stream")
        response.timeout = None
        return response

    return app


def main() -> None:
    port, upstream = sys.argv[1:]
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.accesslog = None
    config.graceful_timeout = 0.5
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(make_app(upstream), config))


if __name__ == "__main__":
    main()
