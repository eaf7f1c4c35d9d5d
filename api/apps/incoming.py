"""The request body as it arrives: never more than a buffer of it in memory, and no longer than its route allows.

Quart's own container takes in whatever the client sends, as fast as it comes, whether or not the route reads it;
and it measures what is buffered, not what was sent.
"""

import asyncio
import contextlib
from collections.abc import Generator
from typing import Any

from quart.asgi import ASGIHTTPConnection
from quart.wrappers.request import Body, Request
from werkzeug.exceptions import RequestEntityTooLarge

BUFFER_BYTES = 1 << 20
DISCARD_BYTES = 2 << 30
DISCARD_IDLE_S = 5.0
LIMIT_MARK = "parley_upload"


class MeasuredBody(Body):
    """A body with a limit that can be set once the route is known, and with back-pressure while it is iterated."""

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__(expected_content_length, None)
        self._expected = expected_content_length
        self._limit = max_content_length
        self._received = 0
        self._whole = False
        self._discarding = False
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._check()

    @property
    def arrived(self) -> bool:
        """Whether the client has sent all of it, or is gone."""
        return self._arrived.is_set()

    def limit(self, size_bytes: int) -> None:
        """Allow at most `size_bytes`, announced or received."""
        self._limit = size_bytes
        self._check()

    def _check(self) -> None:
        if self._limit is None or self._must_raise is not None:
            return
        if max(self._expected or 0, self._received) > self._limit:
            self._must_raise = RequestEntityTooLarge()
            self._data.clear()
            self.set_complete()

    async def wait_for_room(self) -> None:
        """Return when the next piece may be read from the socket."""
        await self._room.wait()

    def append(self, data: bytes) -> None:
        self._received += len(data)
        if self._discarding:
            return
        self._check()
        super().append(data)
        if len(self._data) >= BUFFER_BYTES and not self._whole:
            self._room.clear()

    def set_complete(self) -> None:
        super().set_complete()
        self._room.set()

    def end(self) -> None:
        """The client has sent all of it, or is gone."""
        self._arrived.set()
        self.set_complete()

    async def discard(self) -> None:
        """Take in and forget what is still to come, so that a client that writes before it reads sees the reply.

        Gives up on clients that send nothing for a while, and on endless bodies.
        """
        self._discarding = True
        self._data.clear()
        self._room.set()
        while not self._arrived.is_set() and self._received < DISCARD_BYTES:
            before = self._received
            try:
                async with asyncio.timeout(DISCARD_IDLE_S):
                    await self._arrived.wait()
            except TimeoutError:
                if self._received == before:
                    return

    async def __anext__(self) -> bytes:
        data = await super().__anext__()
        self._room.set()
        return data

    def __await__(self) -> Generator[Any, None, Any]:
        self._whole = True
        self._room.set()
        return super().__await__()


class IncomingRequest(Request):
    body_class = MeasuredBody


class PacedConnection(ASGIHTTPConnection):
    """Reads from the socket only while the body has room, and never leaves the sender standing."""

    _body: MeasuredBody | None = None

    async def __call__(self, receive: Any, send: Any) -> None:
        await super().__call__(receive, send)
        if self._body is not None and not self._body.arrived:
            # The server's reader may wait for room in its queue to us; an empty one lets it see the end.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DISCARD_IDLE_S):
                    while (await receive())["type"] != "http.disconnect":
                        pass

    async def handle_messages(self, request: Request, receive: Any) -> None:
        body = request.body
        assert isinstance(body, MeasuredBody)
        self._body = body
        while True:
            await body.wait_for_room()
            message = await receive()
            if message["type"] == "http.request":
                body.append(message.get("body", b""))
                if not message.get("more_body", False):
                    body.end()
            elif message["type"] == "http.disconnect":
                body.end()
                return

    async def _send_response(self, send: Any, response: Any) -> None:
        if self._body is not None and not self._body.arrived:
            await self._body.discard()
        await super()._send_response(send, response)
