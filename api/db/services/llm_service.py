"""Calls bound to one model, each leaving one usage row."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import structlog

from api.db.services.records import ModelCall
from api.db.services.usage_ledger import CallContext, UsageLedger
from rag.core.blocking import Lane, iterate, run_in
from rag.core.clock import Clock
from rag.core.errors import RagError
from rag.core.types import TokenUsage
from rag.llm import retry
from rag.llm.base import ChatModel, ChatRequest, Delta, Embedded, Embedder, ModelInfo
from rag.llm.retry import RetryPolicy

log = structlog.get_logger()


class LLMBundle:
    """One model, for one tenant and purpose. Holds nothing of a request; may be used by many at once.

    Whether the model is synchronous or asynchronous is read off its methods, once.
    """

    def __init__(
        self,
        *,
        context: CallContext,
        ledger: UsageLedger,
        clock: Clock,
        policy: RetryPolicy,
        chat: ChatModel | None = None,
        embedder: Embedder | None = None,
    ) -> None:
        self._context = context
        self._ledger = ledger
        self._clock = clock
        self._policy = policy
        self._chat = chat
        self._embedder = embedder
        self._async_chat = chat is not None and inspect.isasyncgenfunction(chat.stream)
        self._async_encode = embedder is not None and inspect.iscoroutinefunction(embedder.encode)
        self._async_query = embedder is not None and inspect.iscoroutinefunction(embedder.encode_query)

    @property
    def name(self) -> str:
        return self._chat.info.name if self._chat is not None else self._model().name

    @property
    def info(self) -> ModelInfo:
        """What the chat model can take."""
        return self._chat_model().info

    @property
    def dim(self) -> int:
        """Length of the embedding model's vectors."""
        return self._model().dim

    def count_tokens(self, text: str) -> int:
        """The chat model's count for the prompt budget."""
        return self._chat_model().count_tokens(text)

    async def chat(self, request: ChatRequest) -> tuple[str, TokenUsage]:
        """The whole reply, without its reasoning, and what it took.

        Raises:
            ModelError: the model failed, after retries.
        """
        parts: list[str] = []
        usage = TokenUsage(estimated=True)
        async for delta in self.chat_streamly(request):
            parts.append(delta.text)
            usage = delta.usage or usage
        return "".join(parts), usage

    async def chat_streamly(self, request: ChatRequest) -> AsyncIterator[Delta]:
        """Yield the reply as it comes; the last delta carries usage (estimated where the provider says none).

        Leaving early ends the provider's request. Tried again only before the first piece.

        Raises:
            ModelError: the model failed; `facts["started"]` says whether text had come.
        """
        meter = _Meter(self._clock, self._chat_model(), request)
        attempts = retry.Attempts()
        outcome = "internal"
        source = retry.stream(lambda: self._open(request), self._policy, attempts)
        try:
            async for delta in source:
                meter.see(delta)
                yield delta
            if meter.usage is None:
                yield Delta(usage=meter.total())
            outcome = "cut_off" if meter.finish == "cut_off" else "ok"
        except (GeneratorExit, asyncio.CancelledError):
            outcome = "cancelled"
            raise
        except RagError as error:
            outcome = error.code
            raise
        finally:
            await retry.close(source)
            self._add(meter.total(), meter.started_at, meter.first_ms, attempts.count, outcome)

    async def encode(self, texts: Sequence[str]) -> Embedded:
        """Embed passages, one row per text.

        Raises:
            ModelError: the model failed, after retries.
        """
        model = self._model()
        return await self._embed(lambda: _call(model.encode, texts, awaitable=self._async_encode))

    async def encode_query(self, text: str) -> Embedded:
        """Embed a question; one row.

        Raises:
            ModelError: the model failed, after retries.
        """
        model = self._model()
        return await self._embed(lambda: _call(model.encode_query, text, awaitable=self._async_query))

    async def _embed(self, function: Callable[[], Coroutine[Any, Any, Embedded]]) -> Embedded:
        started_at = self._clock.monotonic()
        attempts = retry.Attempts()
        outcome, tokens = "internal", 0
        try:
            embedded = await retry.call(function, self._policy, attempts)
            outcome, tokens = "ok", embedded.tokens
            return embedded
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except RagError as error:
            outcome = error.code
            raise
        finally:
            self._add(TokenUsage(prompt_tokens=tokens), started_at, None, attempts.count, outcome)

    def _open(self, request: ChatRequest) -> AsyncIterator[Delta]:
        model = self._chat_model()
        if self._async_chat:
            return model.stream(request)  # type: ignore[return-value]  # asynchronous, as its function says
        return iterate(lambda: model.stream(request), lane=Lane.MODEL)  # type: ignore[arg-type,return-value]

    def _add(self, usage: TokenUsage, started_at: float, first_ms: float | None, attempts: int, outcome: str) -> None:
        context = self._context
        self._ledger.add(
            ModelCall(
                tenant_id=context.tenant_id,
                model=self.name,
                purpose=context.purpose,
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                estimated=usage.estimated,
                duration_ms=(self._clock.monotonic() - started_at) * 1000,
                first_token_ms=first_ms,
                attempts=attempts,
                outcome=outcome,
                dialog_id=context.dialog_id,
                conversation_id=context.conversation_id,
                message_id=context.message_id,
            )
        )

    def _chat_model(self) -> ChatModel:
        if self._chat is None:
            raise TypeError(f"{self.name!r} is not a chat model")
        return self._chat

    def _model(self) -> Embedder:
        if self._embedder is None:
            raise TypeError(f"{self.name!r} is not an embedding model")
        return self._embedder


class _Meter:
    """What one streamed call took so far."""

    def __init__(self, clock: Clock, model: ChatModel, request: ChatRequest) -> None:
        self._clock = clock
        self._model = model
        self._request = request
        self._said: list[str] = []
        self.started_at = clock.monotonic()
        self.first_ms: float | None = None
        self.usage: TokenUsage | None = None
        self.finish: str | None = None

    def see(self, delta: Delta) -> None:
        if self.first_ms is None and (delta.text or delta.reasoning):
            self.first_ms = (self._clock.monotonic() - self.started_at) * 1000
        self._said.append(delta.text or delta.reasoning)
        self.usage = delta.usage or self.usage
        self.finish = delta.finish or self.finish

    def total(self) -> TokenUsage:
        """The provider's own figures, else estimates marked so."""
        if self.usage is not None:
            return self.usage
        count = self._model.count_tokens
        return TokenUsage(
            prompt_tokens=sum(count(turn.content) for turn in self._request.turns),
            completion_tokens=count("".join(self._said)),
            estimated=True,
        )


async def _call(function: Callable[[Any], Any], argument: Any, *, awaitable: bool) -> Embedded:
    result = await function(argument) if awaitable else await run_in(Lane.MODEL, function, argument)
    assert isinstance(result, Embedded)
    return result
