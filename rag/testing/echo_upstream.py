"""An OpenAI-compatible upstream in a process of its own that keeps every request, to the byte, and says it back.

A reply is the secrets (`secret-` and hexadecimal digits) of the last user message, one after another, between words of
the same length for all. `GET /seen` hands out what has come since the last time, as JSON lines of `Sent`.
"""

import argparse
import asyncio
import contextlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from urllib.request import ProxyHandler, build_opener

import orjson
from aiohttp import web

SECRET = re.compile(r"secret-[0-9a-f]+")
_WORDS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """One request: headers as `name: value` lines in order, the body as text, and whether its reply was left early."""

    path: str
    headers: str
    body: str
    left: bool = False


def answer_to(question: str) -> list[str]:
    """The pieces of the reply to the last user message; `ok` where it holds no secret."""
    found = [piece for secret in SECRET.findall(question) for piece in (*(["said "] * _WORDS), f"{secret} ")]
    return found or ["ok"]


class _Echo:
    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._seen: list[Sent] = []

    def app(self) -> web.Application:
        app = web.Application(client_max_size=16 << 20)
        app.router.add_get("/seen", self._hand_out)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        return app

    async def _hand_out(self, request: web.Request) -> web.Response:
        seen, self._seen = self._seen, []
        return web.Response(body=b"".join(orjson.dumps(asdict(each)) + b"\n" for each in seen))

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": []})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        text = (await request.read()).decode()
        headers = "\n".join(f"{name.decode()}: {value.decode()}" for name, value in request.raw_headers)
        sent = Sent(path=request.path_qs, headers=headers, body=text)
        place = len(self._seen)
        seen = self._seen
        seen.append(sent)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        try:
            await self._reply(request, response, orjson.loads(text))
        except (asyncio.CancelledError, ConnectionError):
            seen[place] = Sent(path=sent.path, headers=sent.headers, body=sent.body, left=True)
            raise
        return response

    async def _reply(self, request: web.Request, response: web.StreamResponse, body: dict[str, object]) -> None:
        messages = body["messages"]
        assert isinstance(messages, list)
        pieces = answer_to(str(messages[-1]["content"]))
        await response.prepare(request)
        for piece in pieces:
            await response.write(_event({"choices": [{"index": 0, "delta": {"content": piece}}]}))
            await asyncio.sleep(self._wait_s)
        usage = {"prompt_tokens": 7, "completion_tokens": len(pieces), "total_tokens": 7 + len(pieces)}
        await response.write(_event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        await response.write(_event({"choices": [], "usage": usage}) + b"data: [DONE]\n\n")
        await response.write_eof()


def _event(payload: dict[str, object]) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class EchoUpstream:
    """The process, seen from a test. `url` ends with `/v1`."""

    url: str

    def seen(self) -> list[Sent]:
        """What has come since the last time. Blocking."""
        opener = build_opener(ProxyHandler({}))
        with opener.open(self.url.removesuffix("/v1") + "/seen", timeout=30) as reply:
            return [Sent(**orjson.loads(line)) for line in reply.read().splitlines()]


@contextmanager
def echo_upstream(*, wait_s: float = 0.0) -> Iterator[EchoUpstream]:
    """The upstream in a process of its own, which pauses `wait_s` after each piece. Blocking."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "rag.testing.echo_upstream", str(port), str(wait_s)]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the echo upstream did not start")
            time.sleep(0.02)
        yield EchoUpstream(url=f"http://127.0.0.1:{port}/v1")
    finally:
        process.terminate()
        process.wait(10)


async def _serve(port: int, wait_s: float) -> None:
    runner = web.AppRunner(_Echo(wait_s).app(), handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("wait_s", type=float)
    options = parser.parse_args()
    asyncio.run(_serve(options.port, options.wait_s))
