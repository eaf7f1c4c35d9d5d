"""Tools in a streamed reply.

One streaming call carries text and tool calls. When a reply ends with calls, the tools run side by side, what they say
goes back to the model, and the next streaming call goes on: a turn with one tool costs two requests. Nothing is kept
between turns; a tool that fails in whatever way is told to the model in words and fails nothing else.
"""

import asyncio
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Protocol

from rag.core.events import ToolStarted
from rag.core.types import TokenUsage, ToolCall, Turn
from rag.llm.base import ChatRequest, Delta, Finish, ToolSpec
from rag.llm.overflow import TurnsDropped, stream_fitting
from rag.llm.tool_round import Share, Tool, ToolEnded, run_calls
from rag.nlp.budget import TURN_TOKENS

__all__ = ["RoundEvent", "RoundLimits", "Tool", "ToolEnded", "TurnsDropped", "run_rounds"]

RoundEvent = Delta | ToolStarted | ToolEnded | TurnsDropped
_NOT_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_MOST_NAME_CHARS = 64
_MOST_KEPT_ARGUMENT_CHARS = 16_384
"""Arguments that are longer go back to the model as `{}`: its context is for better things."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundLimits:
    """How far a turn with tools may go.

    `rounds`: requests to the model at most, from 1; the last permitted one is sent without tools. `timeout_s`: seconds
    the tools of one round may take. `result_tokens`: what one result may add to the prompt, and `room_tokens` what all
    of a turn may. `calls`: tools that run in one round.

    With `closing` the requests before the last are research: their text is passed on as reasoning, and when the model
    calls no more tools, it is asked once more, with `closing` and without tools, for the answer. Research also ends
    after `research_s` seconds, in the middle of a reply if need be, and once it has taken `research_tokens`.
    """

    rounds: int = 4
    timeout_s: float = 30.0
    result_tokens: int = 2000
    room_tokens: int = 16_000
    calls: int = 16
    closing: Turn | None = None
    research_s: float = 90.0
    research_tokens: int = 60_000


class Streams(Protocol):
    """What the rounds need of a model's bundle."""

    def chat_streamly(self, request: ChatRequest) -> AsyncIterator[Delta]: ...
    def count_tokens(self, text: str) -> int: ...


@dataclass(slots=True)
class _Reply:
    """One reply of the model as it comes."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: tuple[ToolCall, ...] = ()
    usage: TokenUsage | None = None
    model: str = ""
    finish: Finish | None = None

    def note(self, delta: Delta) -> None:
        self.text.append(delta.text)
        self.reasoning.append(delta.reasoning)
        self.calls += delta.tool_calls
        self.usage = delta.usage or self.usage
        self.model = delta.model or self.model
        self.finish = delta.finish or self.finish


async def run_rounds(
    bundle: Streams, request: ChatRequest, tools: Sequence[Tool], limits: RoundLimits
) -> AsyncGenerator[RoundEvent, None]:
    """Yield the reply to `request` by arrival, with what its tools did between.

    Text, reasoning and fragments pass at once as `Delta`; the last `Delta` carries the usage of all requests together
    and the finish of the last one. System turns and tools are the same in every request, so that a provider's cache of
    them holds; only the last permitted request has no tools. Leaving early ends the model's request and the tools.

    Raises:
        ModelError: the model failed; what it said before was yielded.
    """
    named = {tool.spec.name: tool for tool in tools}
    specs = tuple(tool.spec for tool in named.values())
    turns, room = request.turns, limits.room_tokens
    usage: TokenUsage | None = None
    gap = ""
    budget = _Budget(limits)
    for number in range(1, limits.rounds + 1):
        reply = _Reply()
        is_last = number == limits.rounds or budget.is_spent(usage)
        if is_last and limits.closing is not None:
            turns = (*turns, limits.closing)
        asked = _asked(request, turns, () if is_last else specs, first=number == 1)
        researches = limits.closing is not None and not is_last
        replied = _researched(bundle, asked, reply, budget) if researches else _replied(bundle, asked, reply, gap)
        async with aclosing(replied) as events:
            async for event in events:
                if isinstance(event, TurnsDropped):
                    turns = event.kept
                yield event
        usage = _sum(usage, reply.usage)
        if researches and not reply.calls:
            budget.end()
            notes = "".join(reply.text).strip()
            turns = (*turns, Turn(role="assistant", content=notes)) if notes else turns
            continue
        if not reply.calls or is_last:
            break
        calls = _usable(reply.calls, number)
        share = Share(tokens=min(limits.result_tokens, max(0, room) // len(calls)), count=bundle.count_tokens)
        said: dict[str, str] = {}
        timeout_s = min(limits.timeout_s, budget.left_s)
        async with aclosing(run_calls(calls, named, share, timeout_s=timeout_s, most=limits.calls)) as happenings:
            async for happening in happenings:
                if isinstance(happening, ToolEnded):
                    said[happening.call.id] = happening.text_for_model
                yield happening
        added = _turns_of(reply, calls, said)
        room -= sum(bundle.count_tokens(turn.content) + TURN_TOKENS for turn in added[1:])
        turns = (*turns, *added)
        gap = "\n\n" if not researches and "".join(reply.text).strip() else ""
    yield Delta(usage=usage, finish=reply.finish, model=reply.model)


class _Budget:
    """What is left for research; without research there is no end to it."""

    def __init__(self, limits: RoundLimits) -> None:
        self._clock = asyncio.get_running_loop().time
        self._limits = limits
        self._until = math.inf if limits.closing is None else self._clock() + limits.research_s

    @property
    def left_s(self) -> float:
        return max(0.0, self._until - self._clock())

    def end(self) -> None:
        self._until = 0.0

    def is_spent(self, usage: TokenUsage | None) -> bool:
        if self._limits.closing is None:
            return False
        return self.left_s <= 0 or (usage is not None and usage.total_tokens >= self._limits.research_tokens)


async def _researched(
    bundle: Streams, request: ChatRequest, reply: _Reply, budget: _Budget
) -> AsyncGenerator[Delta | TurnsDropped, None]:
    """One reply of the research: its text is yielded as reasoning. At the end of the time it is left as it is."""
    async with aclosing(_replied(bundle, request, reply, "")) as events:
        while True:
            try:
                async with asyncio.timeout(budget.left_s):
                    event = await anext(events)
            except StopAsyncIteration:
                break
            except TimeoutError:
                # A call that was not told to its end cannot be carried out.
                reply.calls = ()
                break
            if isinstance(event, Delta) and event.text:
                event = event._replace(text="", reasoning=event.reasoning + event.text)
            yield event
        if reply.text or reply.reasoning:
            yield Delta(reasoning="\n")


def _asked(request: ChatRequest, turns: tuple[Turn, ...], specs: tuple[ToolSpec, ...], *, first: bool) -> ChatRequest:
    """The next request. A tool is demanded in the first one only: demanded always, no answer would ever come."""
    choice = request.tool_choice if first and specs else "auto"
    return replace(request, turns=turns, tools=specs, tool_choice=choice)


async def _replied(
    bundle: Streams, request: ChatRequest, reply: _Reply, gap: str
) -> AsyncGenerator[Delta | TurnsDropped, None]:
    """One reply: what is to be shown is yielded, all of it noted. `gap` parts its text from that of the one before."""
    async with aclosing(stream_fitting(bundle, request)) as events:
        async for event in events:
            if isinstance(event, TurnsDropped):
                yield event
                continue
            reply.note(event)
            if event.text and gap:
                event, gap = event._replace(text=gap + event.text.lstrip()), ""
            if event.text or event.reasoning or event.fragments:
                yield event._replace(tool_calls=(), usage=None, finish=None)


def _usable(calls: tuple[ToolCall, ...], number: int) -> tuple[ToolCall, ...]:
    """`calls` with an id and a name each that every provider takes back; ids differ."""
    seen: set[str] = set()
    usable = []
    for index, call in enumerate(calls):
        call_id = call.id if call.id and call.id not in seen else f"call_{number}_{index}"
        seen.add(call_id)
        name = _NOT_NAME.sub("_", call.name)[:_MOST_NAME_CHARS] or "unknown"
        usable.append(call if (call_id, name) == (call.id, call.name) else replace(call, id=call_id, name=name))
    return tuple(usable)


def _turns_of(reply: _Reply, calls: Sequence[ToolCall], said: dict[str, str]) -> tuple[Turn, ...]:
    """A round as turns: what the model wrote and called, then the results in the order of the calls."""
    kept = tuple(
        replace(call, arguments="{}") if call.problem or len(call.arguments) > _MOST_KEPT_ARGUMENT_CHARS else call
        for call in calls
    )
    asked = Turn(role="assistant", content="".join(reply.text), tool_calls=kept, reasoning="".join(reply.reasoning))
    return (asked, *(Turn(role="tool", content=said[call.id], tool_call_id=call.id) for call in calls))


def _sum(one: TokenUsage | None, other: TokenUsage | None) -> TokenUsage | None:
    if one is None or other is None:
        return one or other
    return TokenUsage(
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        completion_tokens=one.completion_tokens + other.completion_tokens,
        cached_tokens=one.cached_tokens + other.cached_tokens,
        cache_write_tokens=one.cache_write_tokens + other.cache_write_tokens,
        reasoning_tokens=one.reasoning_tokens + other.reasoning_tokens,
        estimated=one.estimated or other.estimated,
    )
