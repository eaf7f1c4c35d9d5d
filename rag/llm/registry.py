"""Which models there are, and how each is made: explicit tables, read at wiring time.

A tenant's logins go before the server's own settings for their providers. What is made for a login is kept by the
login's fingerprint, so that nobody is given a model with another's key.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from rag.core.errors import InvalidInput, NotFound
from rag.core.resources import asset_path
from rag.core.settings import Settings
from rag.core.types import TokenUsage
from rag.llm import litellm_port
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
from rag.llm.discovery import Discovery, kind_by_name
from rag.llm.extractive import INFO as EXTRACTIVE
from rag.llm.extractive import ExtractiveChat
from rag.llm.factories import CHAT_FACTORIES, FACTORIES, Parts
from rag.llm.kept import Kept
from rag.llm.minilm import MAX_TOKENS as MINILM_TOKENS
from rag.llm.minilm import NAME as MINILM
from rag.llm.minilm import MiniLmEmbedder
from rag.llm.models_file import Kind, ModelsFile, ProviderEntry, read_models_file
from rag.llm.probe import probe
from rag.llm.provider_table import Provider, fingerprint, server_providers, unknown_provider, with_login
from rag.llm.upstream import UpstreamPool

__all__ = ["CHAT_FACTORIES", "Factory", "ListedModel", "ModelsFile", "ProviderEntry", "Registry", "read_models_file"]

_MOST_KEPT: Final = 512
"""Models that are kept ready; making one anew costs microseconds."""
_MOST_LOGINS: Final = 1024
"""Logins whose providers and lists are kept ready."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedModel:
    """A model that can be named. One that sees is listed twice, as "chat" and as "image2text". `available`: its
    provider has a key, or needs none; `discovered`: its server told of it; `custom`: the tenant named it."""

    name: str
    provider: str
    kind: Kind
    max_tokens: int
    tools: bool = False
    available: bool = True
    discovered: bool = False
    custom: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Factory:
    """A provider that a tenant can set up; `rank`: the higher, the further up it is shown. `open_names`: any of its
    models can be called with the server's own settings."""

    name: str
    tags: str
    kinds: tuple[Kind, ...]
    rank: int
    needs_key: bool
    open_names: bool = False


class Registry:
    """The models of one process. Models are made on first use and shared: none keeps anything of a request."""

    def __init__(self, settings: Settings, *, models_file: ModelsFile | None = None) -> None:
        self._file = models_file or read_models_file()
        deadlines = Deadlines(
            first_token_s=settings.dialog.first_token_s,
            next_token_s=settings.dialog.next_token_s,
            answer_s=settings.dialog.answer_s,
        )
        self._parts = Parts(pool=UpstreamPool(), deadlines=deadlines)
        self._guarded = replace(self._parts, pool=UpstreamPool(guarded=True))
        self._providers = server_providers(self._file, settings)
        self._discovery = Discovery(self._parts.pool, every_s=settings.models.discover_s)
        self._minilm = MiniLmEmbedder(
            asset_path("minilm"),
            threads=settings.models.embed_threads,
            batch_tokens=settings.ingest.embed_batch_tokens,
        )
        self._extractive = ExtractiveChat(self._minilm)
        self._kept: Kept[tuple[Kind, str, str], Any] = Kept(_MOST_KEPT)
        self._logins: Kept[str, Provider] = Kept(_MOST_LOGINS)
        self._lists: Kept[tuple[str, str, int], tuple[ListedModel, ...]] = Kept(_MOST_LOGINS)

    @property
    def providers(self) -> tuple[str, ...]:
        """Names of the providers that have a key, in the order that decides."""
        return tuple(provider.name for provider in self._providers.values() if provider.available)

    def chat_infos(self) -> list[ModelInfo]:
        """All chat models that can be named: the built-in one first, then each provider's list."""
        return [self._extractive.info, *(self.chat(name).info for name in self._names("chat"))]

    def embedders(self) -> list[Embedder]:
        """All embedding models that can be named with the server's own settings: the built-in one first."""
        return [self._minilm, *(self.embedder(name) for name in self._names("embedding"))]

    def listed(self, logins: Sequence[ProviderLogin] = ()) -> list[ListedModel]:
        """All models that can be named, and those of providers that have no key yet."""
        found = [
            ListedModel(name="extractive", provider="Builtin", kind="chat", max_tokens=EXTRACTIVE.context_tokens),
            ListedModel(name="minilm", provider="Builtin", kind="embedding", max_tokens=MINILM_TOKENS),
        ]
        for provider in self._view(logins).values():
            found.extend(self._list_of(provider))
        return found

    def offers(self, name: str, kind: Kind, logins: Sequence[ProviderLogin] = ()) -> bool:
        """Whether the model `name` would be found as `kind`."""
        return self._find(kind, name, self._view(logins)) is not None

    def factories(self) -> list[Factory]:
        """The providers of conf/models.yaml, the highest rank first."""
        found = [
            Factory(
                name=name,
                tags=entry.tags,
                kinds=entry.kinds,
                rank=entry.rank,
                needs_key=not entry.keyless,
                open_names=self._providers[name].open_names,
            )
            for name, entry in self._file.providers.items()
        ]
        return sorted(found, key=lambda factory: -factory.rank)

    def chat(self, name: str, logins: Sequence[ProviderLogin] = ()) -> ChatModel:
        """The chat model `<model>@<provider>`, or `<model>` of the first provider that has it.

        Raises:
            NotFound: no such model, it is switched off, or its provider has no key; so for all kinds.
        """
        if name in (EXTRACTIVE.name, EXTRACTIVE.name.partition("@")[0]):
            return self._extractive
        found: ChatModel = self._model("chat", name, logins)
        return found

    def embedder(self, name: str, logins: Sequence[ProviderLogin] = ()) -> Embedder:
        """The embedding model `name`."""
        if name in (MINILM, MINILM.partition("@")[0]):
            return self._minilm
        found: Embedder = self._model("embedding", name, logins)
        return found

    def reranker(self, name: str, logins: Sequence[ProviderLogin] = ()) -> Reranker:
        """The reranking model `name`."""
        found: Reranker = self._model("rerank", name, logins)
        return found

    def describer(self, name: str, logins: Sequence[ProviderLogin] = ()) -> Describer:
        """The model `name` that describes pictures: one of that kind, or a chat model that sees."""
        found: Describer = self._model("image2text", name, logins)
        return found

    def transcriber(self, name: str, logins: Sequence[ProviderLogin] = ()) -> Transcriber:
        """The model `name` that writes down speech."""
        found: Transcriber = self._model("speech2text", name, logins)
        return found

    def speaker(self, name: str, logins: Sequence[ProviderLogin] = ()) -> Speaker:
        """The model `name` that speaks."""
        found: Speaker = self._model("tts", name, logins)
        return found

    async def probe(self, login: ProviderLogin, kind: Kind, model: str) -> TokenUsage:
        """Make a real small call with `login`; what it took.

        Raises:
            ModelError: the call failed: key, address or model are wrong, or the provider has trouble.
            InvalidInput: the login cannot be used.
            NotFound: the provider has no such model.
        """
        await self._parts.pool.open()
        await self._guarded.pool.open()
        changed = with_login(self._own(login), login)
        return await probe(kind, lambda: self._model(kind, f"{model}@{changed.name}", [login]))

    async def discover(self) -> None:
        """Ask self-hosted servers for their models, unless that was done lately. Their failures are logged."""
        await self._discovery.refresh(tuple(self._providers.values()))

    def warm(self) -> None:
        """Load what a first question needs. Blocking: call it in a thread before the process says it is ready."""
        self._minilm.open()
        self._minilm.encode_query("warm up")
        if any(p.available and p.entry.transport == "litellm" for p in self._providers.values()):
            litellm_port.load()

    async def open(self) -> None:
        """Open the shared connections; on the loop that makes all model calls."""
        await self._parts.pool.open()
        await self._guarded.pool.open()

    async def close(self) -> None:
        """Close connections and give memory back, while the loop still lives."""
        self._kept.clear()
        await self._parts.pool.close()
        await self._guarded.pool.close()
        await litellm_port.close_clients()
        self._minilm.close()

    def _names(self, kind: Kind) -> list[str]:
        return [
            f"{model.name}@{model.provider}"
            for model in self.listed()
            if model.kind == kind and model.available and model.provider != "Builtin"
        ]

    def _own(self, login: ProviderLogin) -> Provider:
        return self._providers.get(login.provider) or unknown_provider(login, self._file)

    def _view(self, logins: Sequence[ProviderLogin]) -> dict[str, Provider]:
        """The providers as the tenant of `logins` sees them."""
        if not logins:
            return self._providers
        view = dict(self._providers)
        for login in logins:
            view[login.provider] = self._logins.get(fingerprint(login), partial(self._changed, login))
        return view

    def _changed(self, login: ProviderLogin) -> Provider:
        own = self._own(login)
        try:
            return with_login(own, login)
        except InvalidInput:
            # What was stored once and cannot be used any more is not there; `probe` says why.
            return replace(own, available=False, login=fingerprint(login))

    def _list_of(self, provider: Provider) -> tuple[ListedModel, ...]:
        def listed() -> tuple[ListedModel, ...]:
            known = () if provider.login else self._discovery.models_of(provider.name)
            further = [name for name in known if name not in provider.models]
            return (*_listed(provider), *_discovered(provider, further))

        return self._lists.get((provider.name, provider.login, self._discovery.version), listed)

    def _model(self, kind: Kind, name: str, logins: Sequence[ProviderLogin]) -> Any:
        found = self._find(kind, name, self._view(logins))
        if found is None:
            raise NotFound(
                "model", name, f"No {kind} model {name!r}. Use one of the listed models, or set its provider's key."
            )
        model, provider = found
        key = (kind, f"{model}@{provider.name}", provider.login)
        parts = self._guarded if provider.guarded else self._parts
        return self._kept.get(key, partial(FACTORIES[kind], model, provider, parts))

    def _find(self, kind: Kind, name: str, view: dict[str, Provider]) -> tuple[str, Provider] | None:
        available = {key: provider for key, provider in view.items() if provider.available}
        model, _, provider_name = name.rpartition("@")
        if model and provider_name in available:
            provider = available[provider_name]
            if self._has(provider, model, kind) or provider.may_have(model, kind):
                return model, provider
        for provider in available.values():
            if self._has(provider, name, kind):
                return name, provider
        if model or not name:
            return None
        return next(((name, one) for one in available.values() if one.may_have(name, kind)), None)

    def _has(self, provider: Provider, model: str, kind: Kind) -> bool:
        if provider.has(model, kind):
            return True
        known = () if provider.login else self._discovery.models_of(provider.name)
        return model in known and model not in provider.models


def _listed(provider: Provider) -> list[ListedModel]:
    found: list[ListedModel] = []
    for name, entry in provider.entries():
        sees = provider.sees(name, entry) and ("image2text", name) not in provider.added
        kinds: tuple[Kind, ...] = (entry.kind, "image2text") if sees else (entry.kind,)
        tools = entry.kind == "chat" and entry.capabilities(name, provider.entry.strategy).tools
        found.extend(
            ListedModel(
                name=name,
                provider=provider.name,
                kind=kind,
                max_tokens=entry.context_tokens,
                tools=tools,
                available=provider.available and (kind, name) not in provider.off,
                custom=name in provider.own,
            )
            for kind in kinds
        )
    return found


def _discovered(provider: Provider, names: Sequence[str]) -> list[ListedModel]:
    """What a server told of: it does not say of which kind a model is, but names tell of embeddings and rerankers."""
    found = []
    for name in names:
        kind = kind_by_name(name)
        found.append(
            ListedModel(
                name=name,
                provider=provider.name,
                kind=kind,
                max_tokens=provider.entry.unlisted.context_tokens,
                tools=kind == "chat" and provider.entry.strategy.capabilities_of(name).tools,
                discovered=True,
            )
        )
    return found
