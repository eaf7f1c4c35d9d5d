"""Which tools an answer may use, made for its turn."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import orjson
import structlog

from api.db.services.tool_sources import READ, SEARCH, Reach, ReadDocument, Reader, SearchKnowledge, Sources
from rag.core.tool_settings import ResearchSettings, ToolSettings
from rag.core.types import Retrieved
from rag.core.types import Turn as ModelTurn
from rag.llm.tool_round import Share, Tool
from rag.llm.tools import RoundLimits

log = structlog.get_logger()

MOST_TOOLS = 64
"""Tools of one answer. Models choose worse among many, and each costs room in every request."""
_BYTES_PER_TOKEN = 3


class McpTools(Protocol):
    """The tools of the MCP servers in the settings; `McpServers`."""

    @property
    def names(self) -> frozenset[str]: ...
    async def tools(self, server: str) -> Sequence[Tool]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Kit:
    """The tools of one turn. `agentic`: the model searches by itself, there is no search before it; with `researches`
    in several rounds, before it answers. `tokens` is about what telling the model of them takes."""

    tools: tuple[Tool, ...]
    sources: Sources
    limits: RoundLimits
    agentic: bool
    tokens: int

    @property
    def researches(self) -> bool:
        return self.limits.closing is not None

    @property
    def searches(self) -> bool:
        return any(tool.spec.name == SEARCH for tool in self.tools)


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """Whose turn it is, how it searches, and how its model counts. `on_the_web` says that it also searches there;
    `research` and `closing` are set where the model searches in several rounds and is then asked for the answer."""

    reach: Reach
    search: Callable[[str], Awaitable[Retrieved]]
    count: Callable[[str], int]
    on_the_web: bool = False
    research: ResearchSettings | None = None
    closing: ModelTurn | None = None


class Toolbox:
    """Makes kits. Holds nothing of a request."""

    def __init__(self, settings: ToolSettings, reader: Reader, mcp: McpTools) -> None:
        self._settings = settings
        self._reader = reader
        self._mcp = mcp

    @property
    def reader(self) -> Reader:
        """Who reads documents for the tools."""
        return self._reader

    def wanted(self, named: Sequence[str] | None, *, agentic: bool, research: bool = False) -> tuple[str, ...]:
        """The names of the tools of a chat: its own, or those that the settings enable where it names none (None)."""
        names = dict.fromkeys(self._settings.enabled if named is None else named)
        if research:
            names = {SEARCH: None, READ: None, **names}
        elif agentic:
            names = {SEARCH: None, **names}
        return tuple(names)

    async def kit(self, names: Sequence[str], turn: Turn, *, agentic: bool) -> Kit | None:
        """The tools of `names` that there are; None if there is none at all.

        Tools that search need datasets. An unknown name, and a server that does not answer, are left out with a
        warning: an answer without them is better than none.
        """
        sources = Sources()
        share = Share(tokens=self._settings.result_tokens, count=turn.count)
        tools: dict[str, Tool] = {}
        for name in names:
            for tool in await self._named(name, turn, sources, share):
                if len(tools) < MOST_TOOLS:
                    tools.setdefault(tool.spec.name, tool)
        if not tools:
            return None
        return Kit(
            tools=tuple(tools.values()),
            sources=sources,
            limits=self._limits(turn, researches=agentic and SEARCH in tools),
            agentic=agentic and SEARCH in tools,
            tokens=sum(_tokens(tool) for tool in tools.values()),
        )

    def _limits(self, turn: Turn, *, researches: bool) -> RoundLimits:
        settings, research = self._settings, turn.research
        limits = RoundLimits(rounds=settings.rounds, timeout_s=settings.timeout_s, result_tokens=settings.result_tokens)
        if research is None or turn.closing is None or not researches:
            return limits
        return replace(
            limits,
            rounds=research.rounds + 1,
            closing=turn.closing,
            research_s=research.time_s,
            research_tokens=research.tokens,
        )

    async def _named(self, name: str, turn: Turn, sources: Sources, share: Share) -> Sequence[Tool]:
        if name == SEARCH:
            can_search = turn.reach.dataset_ids or turn.on_the_web
            return (SearchKnowledge(turn.search, sources, share),) if can_search else ()
        if name == READ:
            return (ReadDocument(self._reader, turn.reach, sources, share),) if turn.reach.dataset_ids else ()
        if name in self._mcp.names:
            return await self._mcp.tools(name)
        log.warning("tool_unknown", name=name[:64])
        return ()


def _tokens(tool: Tool) -> int:
    spec = tool.spec
    size = len(spec.name) + len(spec.description.encode("utf-8", "replace")) + len(orjson.dumps(dict(spec.parameters)))
    return size // _BYTES_PER_TOKEN + 8
