"""Which models there are for a use case, and bundles of them: the server's, and those of the asking tenant."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeVar, Unpack

import structlog

from api.db.services.llm_service import LLMBundle
from api.db.services.model_calls import Books
from api.db.services.tenant_logins import Kind, TenantLogins, parted
from api.db.services.tenant_model_list import Listed, bare_name
from api.db.services.usage_ledger import BudgetGate, CallContext, Caller, UsageLedger, UsageSink
from rag.core.blocking import Lane, run_in
from rag.core.clock import Clock, SystemClock
from rag.core.errors import NotFound
from rag.core.settings import Settings
from rag.llm.base import (
    ChatModel,
    Describer,
    Embedder,
    ModelInfo,
    ProviderLogin,
    Reranker,
    Speaker,
    Transcriber,
)
from rag.llm.deadlines import Deadlines
from rag.llm.embedding import SAMPLE, knows_dim
from rag.llm.retry import RetryPolicy

ModelKind = Kind
BUILTIN_CHAT = "extractive@Builtin"
BUILTIN_EMBEDDING = "minilm@Builtin"
_BUILTIN = "Builtin"
Logins = Sequence[ProviderLogin]
DefaultColumn = Literal["rerank_id", "asr_id", "img2txt_id", "tts_id"]

log = structlog.get_logger(__name__)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=_Named)


class ModelSource(Protocol):
    """The models of a process; `rag.llm.registry.Registry` and, in tests, `rag.testing.models.FixedModels`.

    `logins` go over the server's own for their providers.
    """

    @property
    def providers(self) -> tuple[str, ...]: ...
    def chat_infos(self) -> list[ModelInfo]: ...
    def listed(self, logins: Logins = ()) -> Sequence[Listed]: ...
    def chat(self, name: str, logins: Logins = ()) -> ChatModel: ...
    def embedder(self, name: str, logins: Logins = ()) -> Embedder: ...
    def reranker(self, name: str, logins: Logins = ()) -> Reranker: ...
    def describer(self, name: str, logins: Logins = ()) -> Describer: ...
    def transcriber(self, name: str, logins: Logins = ()) -> Transcriber: ...
    def speaker(self, name: str, logins: Logins = ()) -> Speaker: ...
    def warm(self) -> None: ...
    async def discover(self) -> None: ...
    async def open(self) -> None: ...
    async def close(self) -> None: ...


class ModelCatalogue:
    """The models of this process and the calls bound to them.

    Everything takes the id of the tenant that asks; an empty one sees the server's own models only. Without `logins`
    all do.
    """

    def __init__(
        self,
        settings: Settings,
        registry: ModelSource,
        *,
        usage: UsageSink | None = None,
        clock: Clock | None = None,
        policy: RetryPolicy | None = None,
        logins: TenantLogins | None = None,
        budget: BudgetGate | None = None,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._ledger = UsageLedger(usage)
        self._clock = clock or SystemClock()
        self._policy = policy or RetryPolicy(attempts=settings.dialog.attempts)
        self._logins = logins
        self._budget = budget
        self._deadlines = Deadlines(
            first_token_s=settings.dialog.first_token_s,
            next_token_s=settings.dialog.next_token_s,
            answer_s=settings.dialog.answer_s,
        )

    def chat_models(self) -> list[ModelInfo]:
        """What the server's own chat models can take."""
        return self._registry.chat_infos()

    def own_models(self) -> frozenset[tuple[str, str]]:
        """Provider and bare name of all models that the server itself lists, whoever asks."""
        return frozenset((one.provider, bare_name(one)) for one in self._registry.listed())

    def names(self, kind: Kind, tenant_id: str = "") -> list[str]:
        """Names `<model>@<provider>` of all models of `kind` that the tenant can use now."""
        logins = self._logins.logins(tenant_id) if self._logins is not None else ()
        found = [f"{bare_name(one)}@{one.provider}" for one in self._registry.listed(logins) if _usable(one, kind)]
        if self._logins is None:
            return found
        for login in self._logins.further(tenant_id):
            found += [f"{own.name}@{login.provider}" for own in login.models if own.kind == kind]
        return [name for name in dict.fromkeys(found) if not self._logins.is_off(tenant_id, name, kind)]

    def embedding_models(self, tenant_id: str = "") -> list[str]:
        """Names `<model>@<provider>`."""
        return self.names("embedding", tenant_id)

    def exists(self, name: str, kind: Kind, tenant_id: str = "") -> bool:
        """Whether `name` can be used now, with or without its `@provider`."""
        try:
            self._named(kind, name, tenant_id)
        except NotFound:
            return False
        return True

    def resolve(self, name: str, kind: Literal["chat", "embedding"], tenant_id: str = "") -> str:
        """The full name `<model>@<provider>` of `name`.

        Raises:
            NotFound: no such model.
        """
        return self._chat(name, tenant_id).info.name if kind == "chat" else self._embedder(name, tenant_id).name

    def default_chat(self, tenant_id: str = "") -> str:
        """What chats use that name no model: the tenant's, the configured one, a provider's, the built-in one."""
        own = self._default(tenant_id, "llm_id")
        if own and self.exists(own, "chat", tenant_id):
            return own
        if self._settings.models.chat:
            return self._settings.models.chat
        first = self._registry.providers[:1]
        if first == ("OpenAI",):
            return f"{self._settings.models.openai_chat}@OpenAI"
        listed = self._registry.listed() if first else ()
        for one in listed:
            if one.provider != _BUILTIN and _usable(one, "chat"):
                return f"{bare_name(one)}@{one.provider}"
        return BUILTIN_CHAT

    def default_embedding(self, tenant_id: str = "") -> str:
        """What new datasets use that name no model: the tenant's, else the configured one."""
        return self._default(tenant_id, "embd_id") or self._settings.models.embedding

    def dim_of(self, embedding_model: str, tenant_id: str = "") -> int:
        """Length of its vectors.

        Raises:
            NotFound: no such embedding model.
            ModelBadOutput: it is not known before the first call; `measure` makes one.
        """
        return self._embedder(embedding_model, tenant_id).dim

    async def measure(self, embedding_model: str, tenant_id: str = "", *, key_id: str = "") -> int:
        """Length of its vectors, by a small call where nobody knows it yet.

        Raises:
            NotFound: no such embedding model.
            ModelError: that call failed.
            LimitExceeded: a budget is spent, and the call would be needed.
        """
        embedder = self._embedder(embedding_model, tenant_id)
        if not knows_dim(embedder):
            context = CallContext(tenant_id=tenant_id, purpose="measure", key_id=key_id)
            await self._bundle(context, embedder=embedder).encode([SAMPLE])
        return embedder.dim

    def embedder(self, name: str, tenant_id: str = "") -> Embedder:
        """The embedding model itself, for who writes no usage rows.

        Raises:
            NotFound: no such embedding model.
        """
        return self._embedder(name, tenant_id)

    def bundle_chat(
        self,
        name: str = "",
        *,
        purpose: str = "answer",
        fallbacks: Sequence[str] = (),
        use_fallbacks: bool = True,
        **caller: Unpack[Caller],
    ) -> LLMBundle:
        """A bundle of chat model `name`; empty means the tenant's default.

        Args:
            fallbacks: Names of models to go on with when it fails, in order. Those that cannot be used are left out.
        Raises:
            NotFound: no such chat model.
        """
        context = CallContext(purpose=purpose, **caller)
        tenant_id = context.tenant_id
        chat = self._chat(name or self.default_chat(tenant_id), tenant_id)
        others = [one for one in (self._fallback(other, tenant_id) for other in fallbacks) if one is not None]
        return self._bundle(context, chat=chat, fallbacks=others, use_fallbacks=use_fallbacks)

    def bundle_embed(self, name: str = "", *, purpose: str = "embed", **caller: Unpack[Caller]) -> LLMBundle:
        """A bundle of embedding model `name`; empty means the server's default.

        Raises:
            NotFound: no such embedding model.
        """
        context = CallContext(purpose=purpose, **caller)
        return self._bundle(context, embedder=self._embedder(name or self.default_embedding(), context.tenant_id))

    def bundle_rerank(self, name: str = "", *, purpose: str = "rerank", **caller: Unpack[Caller]) -> LLMBundle:
        """A bundle of reranking model `name`; empty means the tenant's default.

        Raises:
            NotFound: no such model, or no default; so for those below.
        """
        context = CallContext(purpose=purpose, **caller)
        full = name or self._needed("rerank", "rerank_id", context.tenant_id)
        reranker = self._in_role("rerank", self._registry.reranker, full, context.tenant_id)
        return self._bundle(context, reranker=reranker)

    def bundle_describe(self, name: str = "", *, purpose: str = "describe", **caller: Unpack[Caller]) -> LLMBundle:
        """A bundle of the model `name` that describes pictures; empty means the tenant's default."""
        context = CallContext(purpose=purpose, **caller)
        full = name or self._needed("image2text", "img2txt_id", context.tenant_id)
        describer = self._in_role("image2text", self._registry.describer, full, context.tenant_id)
        return self._bundle(context, describer=describer)

    def bundle_transcribe(self, name: str = "", *, purpose: str = "transcribe", **caller: Unpack[Caller]) -> LLMBundle:
        """A bundle of the model `name` that writes down speech; empty means the tenant's default."""
        context = CallContext(purpose=purpose, **caller)
        full = name or self._needed("speech2text", "asr_id", context.tenant_id)
        transcriber = self._in_role("speech2text", self._registry.transcriber, full, context.tenant_id)
        return self._bundle(context, transcriber=transcriber)

    def bundle_speak(self, name: str = "", *, purpose: str = "speak", **caller: Unpack[Caller]) -> LLMBundle:
        """A bundle of the model `name` that speaks; empty means the tenant's default."""
        context = CallContext(purpose=purpose, **caller)
        full = name or self._needed("tts", "tts_id", context.tenant_id)
        speaker = self._in_role("tts", self._registry.speaker, full, context.tenant_id)
        return self._bundle(context, speaker=speaker)

    def books(self, context: CallContext) -> Books:
        """Where calls are noted, and who may forbid them, for those that no bundle makes."""
        return Books(context=context, ledger=self._ledger, clock=self._clock, budget=self._budget)

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

    async def discover(self) -> None:
        """Ask servers that name their models themselves for them; trouble there is logged, not raised."""
        await self._registry.discover()

    async def refresh(self) -> None:
        """See what was changed in the tenants' rows.

        Raises:
            StoreUnavailable: the rows cannot be read; what was read before stays.
        """
        if self._logins is not None:
            await self._logins.refresh()

    async def watch(self, every_s: float) -> None:
        """See for ever what other processes change in the tenants' rows, and which models self-hosted servers have."""
        async with asyncio.TaskGroup() as tasks:
            if self._logins is not None:
                tasks.create_task(self._logins.watch(every_s))
            tasks.create_task(self._watch_servers())

    async def _watch_servers(self) -> None:
        while True:
            await self.discover()
            await asyncio.sleep(self._settings.models.discover_s)

    def _bundle(self, context: CallContext, **parts: Any) -> LLMBundle:
        return LLMBundle(
            context=context,
            ledger=self._ledger,
            clock=self._clock,
            policy=self._policy,
            budget=self._budget,
            deadlines=self._deadlines,
            **parts,
        )

    def _chat(self, name: str, tenant_id: str) -> ChatModel:
        chat = self._registry.chat(*self._asked("chat", name, tenant_id))
        self._must_be_on("chat", chat.info.name, tenant_id)
        return chat

    def _embedder(self, name: str, tenant_id: str) -> Embedder:
        return self._in_role("embedding", self._registry.embedder, name, tenant_id)

    def _fallback(self, name: str, tenant_id: str) -> ChatModel | None:
        try:
            return self._chat(name, tenant_id)
        except NotFound:
            log.warning("fallback_not_there", model=name, tenant=tenant_id)
            return None

    def _named(self, kind: Kind, name: str, tenant_id: str) -> object:
        if kind == "chat":
            return self._chat(name, tenant_id)
        source = self._registry
        find: dict[Kind, Callable[[str, Logins], _Named]] = {
            "embedding": source.embedder,
            "rerank": source.reranker,
            "image2text": source.describer,
            "speech2text": source.transcriber,
            "tts": source.speaker,
        }
        return self._in_role(kind, find[kind], name, tenant_id)

    def _in_role(self, kind: Kind, find: Callable[[str, Logins], N], name: str, tenant_id: str) -> N:
        found = find(*self._asked(kind, name, tenant_id))
        self._must_be_on(kind, found.name, tenant_id)
        return found

    def _must_be_on(self, kind: Kind, full: str, tenant_id: str) -> None:
        """A bare name says only once it is found whose model it is: what was switched off is not there by it either.

        Raises:
            NotFound: as `_asked`.
        """
        self._asked(kind, full, tenant_id)

    def _asked(self, kind: Kind, name: str, tenant_id: str) -> tuple[str, Logins]:
        """The name as the registry knows it, and the logins that count for it.

        Raises:
            NotFound: the tenant switched it off, or its key cannot be opened.
        """
        if self._logins is None or not tenant_id:
            return name, ()
        model, provider = parted(name)
        return (f"{model}@{provider}" if provider else name), self._logins.for_model(tenant_id, name, kind)

    def _default(self, tenant_id: str, column: str) -> str:
        return self._logins.default(tenant_id, column) if self._logins is not None and tenant_id else ""

    def _needed(self, kind: Kind, column: DefaultColumn, tenant_id: str) -> str:
        name = self._default(tenant_id, column)
        if not name:
            raise NotFound("model", "", f"No default {kind} model is set. Set one, or name a model.")
        return name


def _usable(one: Listed, kind: Kind) -> bool:
    return one.kind == kind and one.available
