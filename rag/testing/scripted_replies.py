"""A chat model whose every call has a script of its own: for turns of several requests, such as those with tools."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from rag.core.errors import ModelError
from rag.core.types import TokenUsage, ToolCall
from rag.llm.base import Capabilities, ChatRequest, Delta, ModelInfo

Step = Delta | ModelError | asyncio.Event
"""What a call does next: says something, fails, or waits until the test sets the event."""
Reply = Sequence[Step] | Callable[[ChatRequest], Sequence[Step]]

USAGE = TokenUsage(prompt_tokens=10, completion_tokens=5)


def says(text: str) -> list[Step]:
    """A whole reply, word by word."""
    words = [word + " " for word in text.split(" ")]
    words[-1] = words[-1].rstrip(" ")
    return [*(Delta(text=word) for word in words), Delta(usage=USAGE, finish="stop")]


def calls(*wanted: ToolCall, text: str = "") -> list[Step]:
    """A reply that ends with tool calls."""
    said: list[Step] = [Delta(text=text)] if text else []
    return [*said, Delta(tool_calls=wanted), Delta(usage=USAGE, finish="tool_calls")]


def call(name: str, arguments: str = "{}", call_id: str = "") -> ToolCall:
    return ToolCall(id=call_id or f"id_{name}", name=name, arguments=arguments)


class ScriptedReplies:
    """ChatModel (asynchronous): call n gives `replies[n]`, and every further one the last. Keeps the requests it got;
    `closed` counts the streams that were left before their end."""

    def __init__(
        self,
        *replies: Reply,
        name: str = "replies@Testing",
        context_tokens: int = 32_768,
        tools: bool = True,
    ) -> None:
        capabilities = Capabilities(tools=tools, parallel_tools=tools, vision=True)
        self.info = ModelInfo(
            name=name, context_tokens=context_tokens, max_output_tokens=1024, capabilities=capabilities
        )
        self.requests: list[ChatRequest] = []
        self.closed = 0
        self._replies = replies

    async def stream(self, request: ChatRequest) -> AsyncIterator[Delta]:
        script = self._replies[min(len(self.requests), len(self._replies) - 1)]
        self.requests.append(request)
        finished = False
        try:
            for step in script(request) if callable(script) else script:
                if isinstance(step, ModelError):
                    finished = True
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    yield step
                    await asyncio.sleep(0)
            finished = True
        finally:
            if not finished:
                self.closed += 1

    def count_tokens(self, text: str) -> int:
        """A third of the UTF-8 bytes, rounded up."""
        return -(-len(text.encode("utf-8", "replace")) // 3)
