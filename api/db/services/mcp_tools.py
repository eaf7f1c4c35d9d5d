"""Tools of MCP servers over HTTP. Which servers there are says the operator, in the settings; users name them only.

Every call is a session of its own, on a loop of its own in a thread of its own: nothing of one request can be seen by
another, and what the library does to its loop (cancel scopes, large replies read in one go) is not done to ours.
"""

import asyncio
import hashlib
import re
import threading
from collections.abc import Callable, Container, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
import structlog

from rag.core.blocking import Lane, run_in
from rag.core.clock import Clock
from rag.core.tool_settings import McpServer, ToolSettings
from rag.llm.base import ToolSpec
from rag.llm.tool_round import Tool, ToolResult

if TYPE_CHECKING:
    from api.db.services.mcp_session import Called, Listed

T = TypeVar("T")
log = structlog.get_logger()

_LIST_S = 5.0
"""Seconds for a list of tools: an answer waits for it."""
_AGAIN_S = 15.0
"""Seconds until a server that failed is asked again."""
_CLOSE_S = 2.0
_MOST_NAME_CHARS = 64
_MOST_DESCRIPTION_CHARS = 2000
_MOST_SCHEMA_BYTES = 32 << 10
_NOT_NAME = re.compile(r"[^a-zA-Z0-9_-]")


@dataclass(frozen=True, kw_only=True, slots=True)
class _List:
    """The tools of a server, good until `until` (monotonic)."""

    tools: tuple[Tool, ...]
    until: float


class McpServers:
    """The servers of the settings. Keeps their lists of tools; nothing of a request."""

    def __init__(self, settings: ToolSettings, clock: Clock) -> None:
        self._servers = settings.mcp_servers
        self._timeout_s = settings.timeout_s
        self._list_s = settings.mcp_list_s
        self._clock = clock
        self._lists: dict[str, _List] = {}
        self._locks = {name: asyncio.Lock() for name in self._servers}
        self._side = _SideLoop()

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._servers)

    async def tools(self, server: str) -> Sequence[Tool]:
        """The tools of a server; none, with a warning in the log, while it does not answer."""
        async with self._locks[server]:
            known = self._lists.get(server)
            if known is None or self._clock.monotonic() >= known.until:
                known = self._lists[server] = await self._listed(server)
            return known.tools

    async def warm(self) -> None:
        """Load the library, where there are servers."""
        if self._servers:
            await self._side.run(_load)

    async def close(self) -> None:
        """End what runs."""
        await self._side.close()

    async def _listed(self, name: str) -> _List:
        server = self._servers[name]
        outcome = await self._side.run(lambda: _list(server, min(_LIST_S, self._timeout_s)))
        if isinstance(outcome, str):
            log.warning("mcp_server_failed", server=name, reason=outcome)
            return _List(tools=(), until=self._clock.monotonic() + min(_AGAIN_S, self._list_s))
        taken: dict[str, Tool] = {}
        for listed in outcome:
            spec = tool_spec(name, listed.name, listed.description, listed.parameters, taken=taken)
            if spec is None:
                log.warning("mcp_tool_unusable", server=name, tool=listed.name[:_MOST_NAME_CHARS])
            else:
                taken[spec.name] = _McpTool(spec, server, listed.name, side=self._side, timeout_s=self._timeout_s)
        return _List(tools=tuple(taken.values()), until=self._clock.monotonic() + self._list_s)


class _McpTool:
    """One tool of a server."""

    def __init__(self, spec: ToolSpec, server: McpServer, name: str, *, side: "_SideLoop", timeout_s: float) -> None:
        self.spec = spec
        self._server = server
        self._name = name
        self._side = side
        self._timeout_s = timeout_s

    async def call(self, arguments: Mapping[str, Any]) -> ToolResult:
        """What the tool says; a server that fails is a result with an error. Leaving ends the session over there."""
        outcome = await self._side.run(lambda: _call(self._server, self._name, dict(arguments), self._timeout_s))
        if isinstance(outcome, str):
            log.warning("mcp_call_failed", tool=self.spec.name, reason=outcome)
            return ToolResult(error=f"The tool failed: {outcome}.")
        if outcome.failed:
            return ToolResult(error=outcome.text or "The tool says that it failed, and not why.")
        return ToolResult(text=outcome.text or "The tool has nothing to say.")


def tool_spec(
    server: str, name: str, description: str, parameters: Mapping[str, Any], *, taken: Container[str] = ()
) -> ToolSpec | None:
    """A server's tool as models are told of it: `<server>__<tool>`, with what names may not hold replaced. None if its
    schema cannot be used: no object, too large, or not to be written again."""
    schema = {key: value for key, value in parameters.items() if key != "$schema"}
    if schema.setdefault("type", "object") != "object":
        return None
    try:
        written = orjson.dumps(schema)
    except TypeError:
        # JSON that a server may send and no request to a model can hold: huge integers, halves of characters.
        return None
    if len(written) > _MOST_SCHEMA_BYTES:
        return None
    schema.setdefault("properties", {})
    whole = f"{server}__{name}"
    fitting = _NOT_NAME.sub("_", whole)
    if len(fitting) > _MOST_NAME_CHARS or fitting in taken:
        digest = hashlib.sha256(whole.encode("utf-8", "replace")).hexdigest()[:8]
        fitting = f"{fitting[: _MOST_NAME_CHARS - 9]}_{digest}"
    return ToolSpec(name=fitting, description=description[:_MOST_DESCRIPTION_CHARS], parameters=schema)


async def _load() -> None:
    from api.db.services import mcp_session

    log.debug("imported", modules=[mcp_session.__name__])


async def _list(server: McpServer, timeout_s: float) -> "list[Listed] | str":
    from api.db.services import mcp_session

    try:
        return await mcp_session.list_tools(server, timeout_s)
    except mcp_session.McpFailed as failed:
        return str(failed)


async def _call(server: McpServer, name: str, arguments: dict[str, object], timeout_s: float) -> "Called | str":
    from api.db.services import mcp_session

    try:
        return await mcp_session.call_tool(server, name, arguments, timeout_s)
    except mcp_session.McpFailed as failed:
        return str(failed)


class _SideLoop:
    """An event loop in a thread of its own, begun at its first use."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    async def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await `make()` over there. Leaving cancels it, and does not wait for its end."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="mcp", daemon=True)
            self._thread.start()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(make(), self._loop))

    async def close(self) -> None:
        """Cancel what runs, wait for it a little, and end the thread."""
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is None or thread is None:
            return
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_cancel_all(), loop))
        loop.call_soon_threadsafe(loop.stop)
        await run_in(Lane.FILES, thread.join, _CLOSE_S)
        if not thread.is_alive():
            loop.close()


async def _cancel_all() -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    if rest:
        await asyncio.wait(rest, timeout=_CLOSE_S)
    await asyncio.get_running_loop().shutdown_asyncgens()
