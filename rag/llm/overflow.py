"""Conversations that are longer than their model's context, as its provider counts.

Our own budget (`rag.nlp.budget`) rests on an estimate. Where the provider says that it was too low, the oldest turns
go and the call is made once more.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from rag.core.errors import ModelError
from rag.core.types import Turn
from rag.llm.base import ChatRequest, Delta
from rag.llm.retry import close

_TOO_LONG = re.compile(
    r"context[ _]?(?:length|window|size|limit)|maximum context|prompt (?:is|was)? ?too long|input (?:is|was)? ?too long"
    r"|too many (?:input )?tokens|exceeds? the (?:maximum|max|limit of) (?:number of )?(?:input )?tokens"
    r"|input token count|request is too long|reduce the length",
    re.IGNORECASE,
)
_KEPT_SHARE = 3
"""Of the turns before the question this part stays, by characters: one more try must suffice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnsDropped:
    """The `count` oldest turns did not fit and are gone; `kept` are those of the request that was made instead."""

    count: int
    kept: tuple[Turn, ...]


class Streams(Protocol):
    """What this needs of a model's bundle."""

    def chat_streamly(self, request: ChatRequest) -> AsyncIterator[Delta]: ...


def is_too_long(error: ModelError) -> bool:
    """Whether a provider refused because prompt and reply do not fit its context. Providers have no common code for
    it: LiteLLM's and OpenAI's codes, status 413, and the words of the others are known here."""
    if error.facts.get("started"):
        return False
    if error.facts.get("too_long") or error.facts.get("status") == 413:
        return True
    return error.facts.get("status") in (None, 400, 422, 500) and _TOO_LONG.search(error.message) is not None


def without_oldest(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """`turns` without the older ones of the history: system turns stay, so does everything from the last user turn
    on, and what is kept before it begins with a user's turn."""
    asked = max((index for index, turn in enumerate(turns) if turn.role == "user"), default=len(turns))
    history = [index for index in range(asked) if turns[index].role != "system"]
    room = sum(len(turns[index].content) for index in history) // _KEPT_SHARE
    start = asked
    for index in reversed(history):
        room -= len(turns[index].content)
        if room < 0:
            break
        if turns[index].role == "user" and not turns[index].tool_call_id:
            start = index
    return tuple(turn for index, turn in enumerate(turns) if turn.role == "system" or index >= start)


async def stream_fitting(bundle: Streams, request: ChatRequest) -> AsyncGenerator[Delta | TurnsDropped, None]:
    """Yield the reply; if the provider finds the conversation too long, once more without its oldest turns, after a
    `TurnsDropped` that says so.

    Raises:
        ModelError: the model failed, or the conversation is too long without any history as well.
    """
    source = bundle.chat_streamly(request)
    begun = False
    try:
        try:
            async for delta in source:
                begun = True
                yield delta
            return
        except ModelError as error:
            kept = without_oldest(request.turns)
            if begun or not is_too_long(error) or len(kept) == len(request.turns):
                raise
        await close(source)
        source = bundle.chat_streamly(replace(request, turns=kept))
        yield TurnsDropped(count=len(request.turns) - len(kept), kept=kept)
        async for delta in source:
            yield delta
    finally:
        await close(source)
