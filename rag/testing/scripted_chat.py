"""A chat model that says what a test tells it to."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence

from rag.core.errors import ModelError
from rag.core.types import TokenUsage, ToolCall
from rag.llm.base import Capabilities, ChatRequest, Delta, Finish, ModelInfo, ToolFragment

Reply = str | list[str | ToolCall] | list[ToolCall]
"""Text, or text and tool calls; a list of calls alone says nothing."""
Script = str | Sequence[Reply] | Callable[[ChatRequest], Reply]
"""One fixed reply, replies handed out in turn for ever, or a function of the request."""
ABLE = Capabilities(tools=True, parallel_tools=True, json_schema=True, vision=True, reasoning=True)


class ScriptedChat:
    """ChatModel (asynchronous) with a fixed, cycling or computed reply; keeps the requests it got.

    `wait_s` passes before each word; `fail` is raised after `fail_after` words (None: never). `closed` counts the
    streams that were left before their end. A reply ends with `finish`, or with "tool_calls" if it holds any.
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
        finish: Finish = "stop",
        capabilities: Capabilities = ABLE,
    ) -> None:
        self.info = ModelInfo(
            name=name,
            context_tokens=context_tokens,
            max_output_tokens=1024,
            local=True,
            capabilities=capabilities,
        )
        self.requests: list[ChatRequest] = []
        self.closed = 0
        self._script = script
        self._reasoning = reasoning
        self._wait_s = wait_s
        self._fail = fail
        self._fail_after = fail_after
        self._finish = finish

    async def stream(self, request: ChatRequest) -> AsyncIterator[Delta]:
        reply = self._reply(request)
        self.requests.append(request)
        parts: list[str | ToolCall] = [reply] if isinstance(reply, str) else [*reply]
        words = re.findall(r"\s*\S+|\s+$", "".join(part for part in parts if isinstance(part, str)))
        calls = tuple(part for part in parts if isinstance(part, ToolCall))
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
            if request.tool_fragments:
                for index, call in enumerate(calls):
                    fragment = ToolFragment(index=index, name=call.name, arguments=call.arguments)
                    yield Delta(fragments=(fragment,))
            finished = True
            if self._fail is not None:
                raise self._fail
            prompt = sum(self.count_tokens(turn.content) for turn in request.turns)
            usage = TokenUsage(prompt_tokens=prompt, completion_tokens=len(words), estimated=True)
            yield Delta(tool_calls=calls, usage=usage, finish="tool_calls" if calls else self._finish)
        finally:
            if not finished:
                self.closed += 1

    def count_tokens(self, text: str) -> int:
        """A third of the UTF-8 bytes, rounded up."""
        return -(-len(text.encode("utf-8", "replace")) // 3)

    def _reply(self, request: ChatRequest) -> Reply:
        if isinstance(self._script, str):
            return self._script
        if callable(self._script):
            return self._script(request)
        return self._script[len(self.requests) % len(self._script)]
