"""The tools of one round: side by side, within one deadline, whatever they do."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Protocol

import structlog

from rag.core.blocking import Lane, run_in
from rag.core.errors import RagError
from rag.core.events import ToolStarted
from rag.core.types import CitedChunk, ToolCall
from rag.llm.base import ToolSpec
from rag.llm.tool_arguments import MOST_CHARS, checked_arguments
from rag.nlp.budget import cut_text

log = structlog.get_logger()

_LEAVE_S = 0.1
"""Seconds that cancelled tools have to end before they are left to themselves."""
_COUNTED_AT_ONCE_CHARS = 2000
_MARK_TOKENS = 24
_LEAST_TOKENS = 16
_NO_ROOM = "[The result was left out: there is no room for it in this conversation. Answer from what you have.]"

_left: "set[asyncio.Task[Any]]" = set()
"""Tools that were told to end and have not. A task that nobody holds may be collected while it runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolResult:
    """What a tool found, as the model is to read it. `error` says in words why there is no result, else empty.
    `chunks` are the sources that `text` shows by their number for the first time in this turn."""

    text: str = ""
    error: str = ""
    chunks: tuple[CitedChunk, ...] = ()


class Tool(Protocol):
    """Something a model can use, made for one turn of one principal."""

    @property
    def spec(self) -> ToolSpec: ...

    async def call(self, arguments: Mapping[str, Any]) -> ToolResult:
        """Use it. `arguments` fit the schema. A `RagError` that is raised is told to the model in its own words."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolEnded:
    """A call and what came of it, cut to its share; `duration_ms` is wall-clock time."""

    call: ToolCall
    result: ToolResult
    duration_ms: float

    @property
    def text_for_model(self) -> str:
        return f"Error: {self.result.error}" if self.result.error else self.result.text


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """How many tokens one result may have, and who counts them."""

    tokens: int
    count: Callable[[str], int]


async def run_calls(
    calls: Sequence[ToolCall], tools: Mapping[str, Tool], share: Share, *, timeout_s: float, most: int
) -> AsyncGenerator[ToolStarted | ToolEnded, None]:
    """Run `calls` side by side; yield the beginning of each, then each end as it comes. Every call gets its end.

    Those beyond the first `most` are refused. Leaving early cancels what runs and waits a tenth of a second for it.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    running = {
        asyncio.create_task(_carry_out(call, tools, refused=index >= most), name=f"tool-{call.name}"): call
        for index, call in enumerate(calls)
    }
    told: set[asyncio.Task[ToolResult]] = set()
    try:
        for call in calls:
            yield ToolStarted(call_id=call.id, name=call.name, arguments=call.arguments[:MOST_CHARS])
        waiting = set(running)
        while waiting:
            left_s = max(0.0, began + timeout_s - loop.time())
            done, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in running if task in (done or waiting)]:
                task.cancel()
                told.add(task)
                result = _result_of(task, running[task], timeout_s)
                taken_ms = (loop.time() - began) * 1000
                yield ToolEnded(call=running[task], result=await _cut(result, share), duration_ms=taken_ms)
            if not done:
                break
    finally:
        await _leave([task for task in running if not task.done()], told)


async def _carry_out(call: ToolCall, tools: Mapping[str, Tool], *, refused: bool) -> ToolResult:
    tool = tools.get(call.name)
    if tool is None:
        return ToolResult(error=f"There is no tool {call.name!r}. There are: {', '.join(sorted(tools)) or 'none'}.")
    if refused:
        return ToolResult(error="Too many calls at once; this one was not carried out.")
    if call.problem:
        return ToolResult(error=f"The call cannot be used: {call.problem}")
    arguments = await run_in(Lane.TEXT, checked_arguments, tool.spec, call.arguments)
    return await tool.call(arguments)


def _result_of(task: "asyncio.Task[ToolResult]", call: ToolCall, timeout_s: float) -> ToolResult:
    """What a task has come to. What a tool did not foresee is logged with its trace, and told without."""
    if not task.done():
        log.warning("tool_too_slow", tool=call.name, timeout_s=timeout_s)
        return ToolResult(error=f"The tool gave no result within {timeout_s:g} seconds.")
    if task.cancelled():
        return ToolResult(error="The tool was cancelled.")
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, RagError):
        return ToolResult(error=error.message)
    log.error("tool_broke", tool=call.name, exc_info=error)
    return ToolResult(error="The tool failed.")


async def _cut(result: ToolResult, share: Share) -> ToolResult:
    """`result` within its share, with a mark where something is missing."""
    if result.error:
        return replace(result, error=result.error[:_COUNTED_AT_ONCE_CHARS])
    if share.tokens < _LEAST_TOKENS:
        return replace(result, text=_NO_ROOM)
    if len(result.text) <= _COUNTED_AT_ONCE_CHARS:
        return replace(result, text=_within(result.text, share))
    return replace(result, text=await run_in(Lane.TEXT, _within, result.text, share))


def _within(text: str, share: Share) -> str:
    cut = cut_text(text, share.tokens, share.count)
    if len(cut) == len(text):
        return text
    cut = cut_text(cut, share.tokens - _MARK_TOKENS, share.count)
    return f"{cut}\n[The result was cut here: the first {len(cut)} of {len(text)} characters are shown.]"


async def _leave(tasks: "Sequence[asyncio.Task[ToolResult]]", told: "Set[asyncio.Task[ToolResult]]") -> None:
    """End `tasks`; one that does not listen is waited for by nobody. Those of `told` have been cancelled already: a
    second time would break off their cleaning up. `Task.cancelling` does not tell, for it counts their own timeouts."""
    for task in tasks:
        _left.add(task)
        task.add_done_callback(_forget)
        if task not in told:
            task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_LEAVE_S)


def _forget(task: "asyncio.Task[Any]") -> None:
    _left.discard(task)
    if not task.cancelled() and task.exception() is not None:
        log.info("tool_broke_after_its_time", tool=task.get_name())
