"""Models of all roles that behave the same, asynchronous and synchronous: what a bundle must not tell apart."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from rag.core.types import Picture, TokenUsage
from rag.llm.base import (
    Capabilities,
    ChatRequest,
    Delta,
    Described,
    Embedded,
    ModelInfo,
    Reranked,
    Transcribed,
)

ABLE = Capabilities(tools=True, parallel_tools=True, json_schema=True, vision=True)


@dataclass(kw_only=True)
class Script:
    """How the models behave; one for all roles.

    `deltas` is what a chat says, or a function of its request. `fails` are raised by the next calls, one each, before
    their first piece; `breaks` by each stream after `breaks_after` pieces. `wait_s` passes before each piece.
    """

    deltas: Sequence[Delta] | Callable[[ChatRequest], Sequence[Delta]] = (
        Delta(reasoning="Hm."),
        Delta(text="The answer"),
        Delta(text=" is 42."),
        Delta(
            usage=TokenUsage(
                prompt_tokens=7, completion_tokens=5, cached_tokens=3, cache_write_tokens=2, reasoning_tokens=1
            ),
            finish="stop",
        ),
    )
    fails: list[BaseException] = field(default_factory=list)
    breaks: BaseException | None = None
    breaks_after: int = 1
    wait_s: float = 0.0
    tokens: int = 11
    calls: int = 0
    threads: set[int] = field(default_factory=set)
    closed: threading.Event = field(default_factory=threading.Event)

    def begin(self) -> None:
        self.calls += 1
        self.threads.add(threading.get_ident())
        if self.fails:
            raise self.fails.pop(0)

    def said(self, request: ChatRequest) -> Sequence[Delta]:
        return self.deltas(request) if callable(self.deltas) else self.deltas

    def check(self, sent: int) -> None:
        if self.breaks is not None and sent >= self.breaks_after:
            raise self.breaks

    def embedded(self, texts: Sequence[str]) -> Embedded:
        vectors = np.array([[len(text), 1.0] for text in texts], dtype=np.float32).reshape(len(texts), 2)
        return Embedded(vectors=vectors, tokens=self.tokens)

    def reranked(self, passages: Sequence[str]) -> Reranked:
        return Reranked(scores=np.array([1 / (1 + len(p)) for p in passages], dtype=np.float32), tokens=self.tokens)

    def described(self, picture: Picture, prompt: str) -> Described:
        usage = TokenUsage(prompt_tokens=self.tokens, completion_tokens=2)
        return Described(text=f"{prompt}: {len(picture.data)} bytes", usage=usage)


class _Models:
    """All six roles in one object."""

    dim = 2

    def __init__(self, name: str, script: Script | None = None, capabilities: Capabilities = ABLE) -> None:
        self.name = name
        self.script = script or Script()
        self.info = ModelInfo(name=name, context_tokens=8192, max_output_tokens=1024, capabilities=capabilities)

    def count_tokens(self, text: str) -> int:
        return len(text.split())


class AsyncModels(_Models):
    """Coroutine functions and async generators."""

    async def stream(self, request: ChatRequest) -> AsyncIterator[Delta]:
        self.script.begin()
        try:
            for sent, delta in enumerate(self.script.said(request)):
                self.script.check(sent)
                await asyncio.sleep(self.script.wait_s)
                yield delta
        finally:
            self.script.closed.set()

    async def encode(self, texts: Sequence[str]) -> Embedded:
        self.script.begin()
        await asyncio.sleep(self.script.wait_s)
        return self.script.embedded(texts)

    async def encode_query(self, text: str) -> Embedded:
        self.script.begin()
        return self.script.embedded([text])

    async def rerank(self, question: str, passages: Sequence[str]) -> Reranked:
        self.script.begin()
        return self.script.reranked(passages)

    async def describe(self, picture: Picture, prompt: str) -> Described:
        self.script.begin()
        return self.script.described(picture, prompt)

    async def transcribe(self, audio: bytes, *, file_name: str) -> Transcribed:
        self.script.begin()
        return Transcribed(text=f"heard {len(audio)} bytes of {file_name}", seconds=1.5)

    async def speak(self, text: str) -> AsyncIterator[bytes]:
        self.script.begin()
        try:
            for sent, word in enumerate(text.split()):
                self.script.check(sent)
                await asyncio.sleep(self.script.wait_s)
                yield word.encode()
        finally:
            self.script.closed.set()


class SyncModels(_Models):
    """Plain functions and generators, which may wait."""

    def stream(self, request: ChatRequest) -> Iterator[Delta]:
        self.script.begin()
        try:
            for sent, delta in enumerate(self.script.said(request)):
                self.script.check(sent)
                time.sleep(self.script.wait_s)
                yield delta
        finally:
            self.script.closed.set()

    def encode(self, texts: Sequence[str]) -> Embedded:
        self.script.begin()
        time.sleep(self.script.wait_s)
        return self.script.embedded(texts)

    def encode_query(self, text: str) -> Embedded:
        self.script.begin()
        return self.script.embedded([text])

    def rerank(self, question: str, passages: Sequence[str]) -> Reranked:
        self.script.begin()
        return self.script.reranked(passages)

    def describe(self, picture: Picture, prompt: str) -> Described:
        self.script.begin()
        return self.script.described(picture, prompt)

    def transcribe(self, audio: bytes, *, file_name: str) -> Transcribed:
        self.script.begin()
        return Transcribed(text=f"heard {len(audio)} bytes of {file_name}", seconds=1.5)

    def speak(self, text: str) -> Iterator[bytes]:
        self.script.begin()
        try:
            for sent, word in enumerate(text.split()):
                self.script.check(sent)
                time.sleep(self.script.wait_s)
                yield word.encode()
        finally:
            self.script.closed.set()
