"""Models for synchronous code: the one way from a thread back to the loop that makes the calls."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Sequence
from typing import Any, TypeVar

from rag.core.errors import ModelTimeout
from rag.core.owner_loop import OwnerLoop
from rag.core.types import Picture, TokenUsage
from rag.llm.base import AsyncBundle, ChatRequest, Delta, Described, Embedded, Reranked, Transcribed

T = TypeVar("T")


class SyncLLMWrapper:
    """SyncBundle over an asynchronous bundle. May be used by many threads at once; keeps nothing of a call.

    Each call runs on the loop that owns the bundle, with the caller's context variables, and its thread waits. What
    the bundle raises is raised here, the object itself.

    Args:
        owner: The loop of the bundle's connections; where none is given, the one that runs where this is made, else
            the one background loop of the process.
        timeout_s: For each call, a stream as a whole, over the bundle's own deadlines; None adds none.

    All methods raise, over what the bundle's raise:
        WrongThread: called where an event loop runs, after a fork, or after the owner's loop ended. At once.
        ModelTimeout: `timeout_s` passed; the call was cancelled.
        asyncio.CancelledError: the call was cancelled on the loop.
    """

    def __init__(self, bundle: AsyncBundle, *, owner: OwnerLoop | None = None, timeout_s: float | None = None) -> None:
        self._bundle = bundle
        self._owner = owner or OwnerLoop()
        self._timeout_s = timeout_s

    @property
    def name(self) -> str:
        return self._bundle.name

    def within(self, timeout_s: float | None) -> "SyncLLMWrapper":
        """The same with another limit for each call."""
        return SyncLLMWrapper(self._bundle, owner=self._owner, timeout_s=timeout_s)

    def chat(self, request: ChatRequest) -> tuple[str, TokenUsage]:
        return self._call(lambda: self._bundle.chat(request))

    def chat_streamly(self, request: ChatRequest) -> Generator[Delta, None, None]:
        """The reply as it comes. Closing the generator ends the provider's request."""
        return self._stream(lambda: self._bundle.chat_streamly(request))

    def encode(self, texts: Sequence[str]) -> Embedded:
        return self._call(lambda: self._bundle.encode(texts))

    def encode_queries(self, texts: Sequence[str]) -> Embedded:
        return self._call(lambda: self._bundle.encode_queries(texts))

    def similarity(self, question: str, passages: Sequence[str]) -> Reranked:
        return self._call(lambda: self._bundle.similarity(question, passages))

    def describe(self, picture: Picture, prompt: str = "") -> Described:
        return self._call(lambda: self._bundle.describe(picture, prompt))

    def transcribe(self, audio: bytes, *, file_name: str) -> Transcribed:
        return self._call(lambda: self._bundle.transcribe(audio, file_name=file_name))

    def tts(self, text: str) -> Generator[bytes, None, None]:
        """Pieces of an MP3 file. Closing the generator ends the provider's request."""
        return self._stream(lambda: self._bundle.tts(text))

    def _call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async def limited() -> T:
            try:
                async with asyncio.timeout(self._timeout_s) as limit:
                    return await make()
            except TimeoutError as error:
                if limit.expired():
                    raise self._late() from error
                raise

        return self._owner.call(limited)

    def _stream(self, make: Callable[[], AsyncIterator[T]]) -> Generator[T, None, None]:
        async def limited() -> AsyncIterator[T]:
            end = None if self._timeout_s is None else asyncio.get_running_loop().time() + self._timeout_s
            source = make()
            try:
                while True:
                    try:
                        async with asyncio.timeout_at(end) as limit:
                            item = await anext(source)
                    except StopAsyncIteration:
                        return
                    except TimeoutError as error:
                        if limit.expired():
                            raise self._late() from error
                        raise
                    yield item
            finally:
                close = getattr(source, "aclose", None)
                if close is not None:
                    await close()

        return self._owner.stream(limited)

    def _late(self) -> ModelTimeout:
        return ModelTimeout(
            f"The model {self.name!r} was not done within {self._timeout_s:g} s. Try again, or allow more time.",
            model=self.name,
        )
