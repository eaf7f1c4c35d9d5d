"""Models for the use cases: which there are, and calls bound to one of them, each leaving one usage row."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import structlog

from api.db.services.records import ModelCall
from rag.core.blocking import Lane, iterate, run_in
from rag.core.clock import Clock, SystemClock
from rag.core.errors import NotFound, RagError
from rag.core.settings import Settings
from rag.core.types import TokenUsage
from rag.llm import retry
from rag.llm.base import ChatModel, ChatRequest, Delta, Embedded, Embedder, ModelInfo
from rag.llm.retry import RetryPolicy

log = structlog.get_logger()

ModelKind = Literal["chat", "embedding"]
BUILTIN_CHAT = "extractive@Builtin"


class UsageSink(Protocol):
    """Keeps usage rows; implemented by `usage_service`."""

    async def record(self, call: ModelCall) -> None: ...


class ModelSource(Protocol):
    """The models of a process; `rag.llm.registry.Registry` and, in tests, `rag.testing.models.FixedModels`."""

    @property
    def providers(self) -> tuple[str, ...]: ...
    def chat_infos(self) -> list[ModelInfo]: ...
    def embedders(self) -> list[Embedder]: ...
    def chat(self, name: str) -> ChatModel: ...
    def embedder(self, name: str) -> Embedder: ...
    def warm(self) -> None: ...
    async def open(self) -> None: ...
    async def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class CallContext:
    """For whom and what for a model is called; ends up in the usage row, never on a model."""

    tenant_id: str = ""
    purpose: str = "answer"
    dialog_id: str | None = None
    conversation_id: str | None = None
    message_id: str | None = None


class _Ledger:
    """Writes usage rows beside the calls, so that no answer waits for a disk."""

    def __init__(self, sink: UsageSink | None) -> None:
        self._sink = sink
        self._writes: set[asyncio.Task[None]] = set()

    def add(self, call: ModelCall) -> None:
        if self._sink is None:
            return
        task = asyncio.get_running_loop().create_task(self._write(self._sink, call))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def settle(self) -> None:
        """Wait until every row is written."""
        while self._writes:
            await asyncio.wait(self._writes)

    @staticmethod
    async def _write(sink: UsageSink, call: ModelCall) -> None:
        try:
            await sink.record(call)
        except RagError as error:
            log.warning("usage_row_lost", model=call.model, purpose=call.purpose, code=error.code)


class LLMBundle:
    """One model, for one tenant and purpose. Holds nothing of a request; may be used by many at once.

    Whether the model is synchronous or asynchronous is read off its methods, once.
    """

    def __init__(
        self,
        *,
        context: CallContext,
        ledger: _Ledger,
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


class ModelCatalogue:
    """The models of this process and the calls bound to them."""

    def __init__(
        self,
        settings: Settings,
        registry: ModelSource,
        *,
        usage: UsageSink | None = None,
        clock: Clock | None = None,
        policy: RetryPolicy | None = None,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._ledger = _Ledger(usage)
        self._clock = clock or SystemClock()
        self._policy = policy or RetryPolicy(attempts=settings.dialog.attempts)

    def chat_models(self) -> list[ModelInfo]:
        return self._registry.chat_infos()

    def embedding_models(self) -> list[str]:
        """Names `<model>@<provider>`."""
        return [embedder.name for embedder in self._registry.embedders()]

    def exists(self, name: str, kind: ModelKind) -> bool:
        """Whether `name` can be used now, with or without its `@provider`."""
        try:
            self.resolve(name, kind)
        except NotFound:
            return False
        return True

    def resolve(self, name: str, kind: ModelKind) -> str:
        """The full name `<model>@<provider>` of `name`.

        Raises:
            NotFound: no such model.
        """
        return self._registry.chat(name).info.name if kind == "chat" else self._registry.embedder(name).name

    def default_chat(self) -> str:
        """What chats use that name no model: the configured one, else a provider's, else the built-in one."""
        if self._settings.models.chat:
            return self._settings.models.chat
        if "OpenAI" in self._registry.providers:
            return f"{self._settings.models.openai_chat}@OpenAI"
        return BUILTIN_CHAT

    def default_embedding(self) -> str:
        return self._settings.models.embedding

    def dim_of(self, embedding_model: str) -> int:
        """Length of its vectors.

        Raises:
            NotFound: no such embedding model.
        """
        return self._registry.embedder(embedding_model).dim

    def bundle_chat(
        self,
        name: str = "",
        *,
        tenant_id: str = "",
        purpose: str = "answer",
        dialog_id: str | None = None,
        conversation_id: str | None = None,
        message_id: str | None = None,
    ) -> LLMBundle:
        """A bundle of chat model `name`; empty means the default.

        Raises:
            NotFound: no such chat model.
        """
        context = CallContext(
            tenant_id=tenant_id,
            purpose=purpose,
            dialog_id=dialog_id,
            conversation_id=conversation_id,
            message_id=message_id,
        )
        return self._bundle(context, chat=self._registry.chat(name or self.default_chat()))

    def bundle_embed(self, name: str = "", *, tenant_id: str = "", purpose: str = "embed") -> LLMBundle:
        """A bundle of embedding model `name`; empty means the default.

        Raises:
            NotFound: no such embedding model.
        """
        embedder = self._registry.embedder(name or self.default_embedding())
        return self._bundle(CallContext(tenant_id=tenant_id, purpose=purpose), embedder=embedder)

    async def open(self) -> None:
        """Open the connections to providers, on the loop that makes all model calls."""
        await self._registry.open()

    async def warm(self) -> None:
        """Load what is configured, in a thread; `/readyz` waits for it."""
        await run_in(Lane.MODEL, self._registry.warm)

    async def close(self) -> None:
        """Write the last usage rows and close the connections."""
        await self._ledger.settle()
        await self._registry.close()

    async def settle(self) -> None:
        """Wait until the usage rows of all ended calls are written."""
        await self._ledger.settle()

    def _bundle(
        self, context: CallContext, *, chat: ChatModel | None = None, embedder: Embedder | None = None
    ) -> LLMBundle:
        return LLMBundle(
            context=context,
            ledger=self._ledger,
            clock=self._clock,
            policy=self._policy,
            chat=chat,
            embedder=embedder,
        )


async def _call(function: Callable[[Any], Any], argument: Any, *, awaitable: bool) -> Embedded:
    result = await function(argument) if awaitable else await run_in(Lane.MODEL, function, argument)
    assert isinstance(result, Embedded)
    return result
