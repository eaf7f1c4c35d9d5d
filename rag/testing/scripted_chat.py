"""A chat model that says what a test tells it to."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence

from rag.core.errors import ModelError
from rag.core.types import TokenUsage
from rag.llm.base import ChatRequest, Delta, ModelInfo

Script = str | Sequence[str] | Callable[[ChatRequest], str]
"""One fixed reply, replies handed out in turn for ever, or a function of the request."""


class ScriptedChat:
    """ChatModel (asynchronous) with a fixed, cycling or computed reply; keeps the requests it got.

    `wait_s` passes before each word; `fail` is raised after `fail_after` words (None: never). `closed` counts the
    streams that were left before their end.
    """

    def __init__(
        self,
        script: Script = "The answer is 42 [ID:0].",
        *,
        name: str = "scripted@Testing",
        reasoning: str = "",
        context_tokens: int = 8192,
        wait_s: float = 0.0,
        fail: ModelError | None = None,
        fail_after: int = 0,
    ) -> None:
        self.info = ModelInfo(name=name, context_tokens=context_tokens, max_output_tokens=1024, local=True)
        self.requests: list[ChatRequest] = []
        self.closed = 0
        self._script = script
        self._reasoning = reasoning
        self._wait_s = wait_s
        self._fail = fail
        self._fail_after = fail_after

    async def stream(self, request: ChatRequest) -> AsyncIterator[Delta]:
        reply = self._reply(request)
        self.requests.append(request)
        words = re.findall(r"\s*\S+|\s+$", reply)
        finished = False
        try:
            if self._reasoning:
                yield Delta(reasoning=self._reasoning)
            for number, word in enumerate(words):
                if self._fail is not None and number >= self._fail_after:
                    finished = True
                    raise self._fail
                await asyncio.sleep(self._wait_s)
                yield Delta(text=word)
            finished = True
            if self._fail is not None:
                raise self._fail
            prompt = sum(self.count_tokens(turn.content) for turn in request.turns)
            usage = TokenUsage(prompt_tokens=prompt, completion_tokens=len(words), estimated=True)
            yield Delta(usage=usage, finish="stop")
        finally:
            if not finished:
                self.closed += 1

    def count_tokens(self, text: str) -> int:
        """A third of the UTF-8 bytes, rounded up."""
        return -(-len(text.encode("utf-8", "replace")) // 3)

    def _reply(self, request: ChatRequest) -> str:
        if isinstance(self._script, str):
            return self._script
        if callable(self._script):
            return self._script(request)
        return self._script[len(self.requests) % len(self._script)]
