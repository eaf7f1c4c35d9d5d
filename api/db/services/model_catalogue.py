"""Which models there are for a use case, and bundles of them."""

from typing import Literal, Protocol

from api.db.services.llm_service import LLMBundle
from api.db.services.usage_ledger import CallContext, UsageLedger, UsageSink
from rag.core.blocking import Lane, run_in
from rag.core.clock import Clock, SystemClock
from rag.core.errors import NotFound
from rag.core.settings import Settings
from rag.llm.base import ChatModel, Embedder, ModelInfo
from rag.llm.retry import RetryPolicy

ModelKind = Literal["chat", "embedding"]
BUILTIN_CHAT = "extractive@Builtin"


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
        self._ledger = UsageLedger(usage)
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
