"""One conversation with an MCP server, from the first word to the last. Loaded late: `mcp` takes 0.6 s.

Runs on a loop of its own (`McpServers`): what the library leaves running, and its reading of large replies, stay there.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import httpx
import orjson
from mcp import ClientSession, McpError, types
from mcp.client.streamable_http import streamable_http_client
from pydantic import ValidationError

from rag.core.tool_settings import McpServer

T = TypeVar("T")
MOST_BYTES = 4 << 20
"""Of all that a server says in one conversation."""
_CONNECT_S = 3.0
_TAKE_BACK_S = 1.0
_MOST_PAGES = 20
_MOST_LISTED = 256


class McpFailed(Exception):
    """The conversation failed; says why, in words for the model and the log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A tool as its server describes it."""

    name: str
    description: str
    parameters: dict[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Called:
    """What a tool said; `failed` where its server says that it is an error."""

    text: str
    failed: bool


async def list_tools(server: McpServer, timeout_s: float) -> list[Listed]:
    """The tools of a server.

    Raises:
        McpFailed: it cannot be reached, or does not answer as it should.
    """

    async def ask(session: ClientSession, wire: _Bounded) -> list[Listed]:
        listed: list[Listed] = []
        cursor: str | None = None
        for _ in range(_MOST_PAGES):
            page = await session.list_tools(params=types.PaginatedRequestParams(cursor=cursor))
            listed += [
                Listed(name=tool.name, description=tool.description or "", parameters=tool.inputSchema)
                for tool in page.tools
            ]
            cursor = page.nextCursor
            if not cursor or len(listed) >= _MOST_LISTED:
                break
        return listed[:_MOST_LISTED]

    return await _converse(server, ask, timeout_s)


async def call_tool(server: McpServer, name: str, arguments: dict[str, object], timeout_s: float) -> Called:
    """Call a tool.

    Raises:
        McpFailed: it cannot be reached, does not answer as it should, or says too much.
    """

    async def ask(session: ClientSession, wire: _Bounded) -> Called:
        # Not `session.call_tool`: that asks for the list of tools once more, to check the result against it.
        params = types.CallToolRequestParams(name=name, arguments=arguments)
        request = types.ClientRequest(types.CallToolRequest(params=params))
        try:
            result = await session.send_request(request, types.CallToolResult)
        except asyncio.CancelledError:
            await _take_back(session, wire)
            raise
        return Called(text=_text_of(result), failed=result.isError)

    return await _converse(server, ask, timeout_s)


async def _take_back(session: ClientSession, wire: "_Bounded") -> None:
    """Tell the server that nobody waits for its tool any more: a session that ends does not end what runs in it."""
    if wire.called is None or wire.is_broken:
        return
    params = types.CancelledNotificationParams(requestId=wire.called, reason="nobody waits for it")
    with suppress(TimeoutError, McpError):
        async with asyncio.timeout(_TAKE_BACK_S):
            await session.send_notification(types.ClientNotification(types.CancelledNotification(params=params)))
            # Messages are sent one after the other: when this one is answered, the other has arrived.
            await session.send_ping()


def _text_of(result: types.CallToolResult) -> str:
    parts = [_part(content) for content in result.content]
    if not parts and result.structuredContent is not None:
        parts = [orjson.dumps(result.structuredContent).decode()]
    return "\n".join(parts)


def _part(content: types.ContentBlock) -> str:
    match content:
        case types.TextContent(text=text):
            return text
        case types.EmbeddedResource(resource=types.TextResourceContents(text=text)):
            return text
        case types.ResourceLink(uri=uri, name=name):
            return f"[{name}: {uri}]"
        case types.ImageContent(mimeType=kind) | types.AudioContent(mimeType=kind):
            return f"[{kind}, not shown]"
        case _:
            return "[binary, not shown]"


async def _converse(server: McpServer, ask: "Ask[T]", timeout_s: float) -> T:
    """`ask` in a session of its own.

    The library waits for its timeout when a reply breaks off or is too long: the connection itself says so at once.
    """
    broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    work = asyncio.ensure_future(_asked(server, ask, broken, timeout_s))
    try:
        either: set[asyncio.Future[Any]] = {work, broken}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise McpFailed(broken.result())
    finally:
        if not work.done():
            work.cancel()
            await asyncio.wait({work})
        if not work.cancelled():
            work.exception()


async def _asked(server: McpServer, ask: "Ask[T]", broken: "asyncio.Future[str]", timeout_s: float) -> T:
    wire = _Bounded(broken)
    try:
        async with asyncio.timeout(timeout_s), _session(server, wire, timeout_s) as session:
            return await ask(session, wire)
    except McpError as error:
        raise McpFailed(error.error.message[:500]) from error
    except TimeoutError as error:
        raise McpFailed(f"no reply within {timeout_s:g} seconds") from error
    except (httpx.HTTPError, OSError, ValidationError, BaseExceptionGroup) as error:
        raise McpFailed(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """In words, without addresses and headers. The library's task groups pack errors, cancellations among them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, httpx.HTTPStatusError):
        return f"it answered with status {error.response.status_code}"
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return "it cannot be reached"
    return f"the connection failed ({type(error).__name__})"


@asynccontextmanager
async def _session(server: McpServer, wire: "_Bounded", timeout_s: float) -> AsyncIterator[ClientSession]:
    headers = {name: value.get_secret_value() for name, value in server.headers.items()}
    limits = httpx.Timeout(timeout_s, connect=_CONNECT_S)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            httpx.AsyncClient(
                headers={"Accept-Encoding": "identity", **headers},
                timeout=limits,
                transport=wire,
                trust_env=False,
            )
        )
        read, write, _ = await stack.enter_async_context(streamable_http_client(server.url, http_client=client))
        session = await stack.enter_async_context(ClientSession(read, write, timedelta(seconds=timeout_s)))
        await session.initialize()
        yield session


class _Bounded(httpx.AsyncBaseTransport):
    """A transport that lets so many bytes through and no more, and tells when a reply breaks off. `called` is the id of
    the tool call, once it was made."""

    def __init__(self, broken: "asyncio.Future[str]") -> None:
        self._inner = httpx.AsyncHTTPTransport(trust_env=False)
        self._broken = broken
        self._left = MOST_BYTES
        self.called: types.RequestId | None = None

    @property
    def is_broken(self) -> bool:
        return self._broken.done()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        message = orjson.loads(await request.aread() or b"{}")
        if message.get("method") == "tools/call":
            self.called = message["id"]
        response = await self._inner.handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise httpx.DecodingError("compressed, though asked not to be", request=request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        stream = _Counted(response.stream, self, tells=request.method == "POST")
        return httpx.Response(
            response.status_code, headers=response.headers, stream=stream, extensions=response.extensions
        )

    async def aclose(self) -> None:
        await self._inner.aclose()

    def count(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            self.tell(f"it says more than {MOST_BYTES >> 20} MiB; ask it for less")
            raise httpx.ReadError("too long")

    def tell(self, reason: str) -> None:
        if not self._broken.done():
            self._broken.set_result(reason)


class _Counted(httpx.AsyncByteStream):
    """The bytes of one reply, counted."""

    def __init__(self, inner: httpx.AsyncByteStream, bounds: _Bounded, *, tells: bool) -> None:
        self._inner = inner
        self._bounds = bounds
        self._tells = tells

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._inner:
                self._bounds.count(len(chunk))
                yield chunk
        except httpx.HTTPError:
            if self._tells:
                self._bounds.tell("the connection was lost")
            raise

    async def aclose(self) -> None:
        await self._inner.aclose()


Ask = Callable[[ClientSession, _Bounded], Awaitable[T]]
