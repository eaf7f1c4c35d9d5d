"""A server that answers as the recorded provider did, in its own framing."""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from tests.integration.rag.llm.recordings import Exchange

PIECE_BYTES = 997
"""Streams are sent in pieces that end anywhere, as they come from a network."""


class RecordingServer:
    """`/<number>/...` answers with the exchange of that number, whatever follows; `asked` keeps what followed."""

    def __init__(self, exchanges: list[Exchange]) -> None:
        self._exchanges = exchanges
        self.asked: dict[int, list[str]] = {}
        self.left_early = 0
        self.url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["RecordingServer"]:
        app = web.Application(client_max_size=16 << 20)
        app.router.add_post("/{number:\\d+}{rest:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        number = int(request.match_info["number"])
        self.asked.setdefault(number, []).append(request.match_info["rest"])
        exchange = self._exchanges[number]
        await request.read()
        if exchange.events is None:
            data = exchange.sent if exchange.sent is not None else json.dumps(exchange.reply).encode()
            kind = exchange.kind or "application/json"
            return web.Response(body=data, status=exchange.status, headers={"Content-Type": kind})
        response = web.StreamResponse(headers={"Content-Type": exchange.kind or _kind(exchange)})
        await response.prepare(request)
        data = exchange.sent if exchange.sent is not None else framed(exchange)
        try:
            for start in range(0, len(data), PIECE_BYTES):
                await response.write(data[start : start + PIECE_BYTES])
                await asyncio.sleep(0)
            await response.write_eof()
        except ConnectionError:
            self.left_early += 1  # The reader had its answer, or failed.
        return response


def _kind(exchange: Exchange) -> str:
    return "application/vnd.amazon.eventstream" if exchange.form == "bedrock" else "text/event-stream; charset=utf-8"


def framed(exchange: Exchange) -> bytes:
    """The events as their provider sends them."""
    events = exchange.events or ()
    if exchange.form == "bedrock":
        return b"".join(aws_event(event) for event in events)
    if exchange.form in ("anthropic", "responses", "cohere"):
        return b"".join(b"event: " + event["type"].encode() + b"\n" + _data(event) for event in events)
    if exchange.form == "interactions":
        return b"".join(b"event: " + event["event_type"].encode() + b"\n" + _data(event) for event in events)
    if exchange.form == "gemini":
        return b"".join(_data(event, end=b"\r\n\r\n") for event in events)
    return b"".join(map(_data, events)) + b"data: [DONE]\n\n"


def _data(event: dict[str, Any], end: bytes = b"\n\n") -> bytes:
    return b"data: " + json.dumps(event, ensure_ascii=False).encode() + end


def aws_event(event: dict[str, Any]) -> bytes:
    """One message of an AWS event stream: lengths, their checksum, headers, payload, checksum of all."""
    (kind, payload), *_ = event.items()
    headers = b"".join(
        _header(name, value)
        for name, value in ((":event-type", kind), (":content-type", "application/json"), (":message-type", "event"))
    )
    body = json.dumps(payload).encode()
    prelude = (16 + len(headers) + len(body)).to_bytes(4) + len(headers).to_bytes(4)
    message = prelude + zlib.crc32(prelude).to_bytes(4) + headers + body
    return message + zlib.crc32(message).to_bytes(4)


def _header(name: str, value: str) -> bytes:
    return bytes([len(name)]) + name.encode() + b"\x07" + len(value).to_bytes(2) + value.encode()
