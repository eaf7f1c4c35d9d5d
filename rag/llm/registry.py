"""Which models there are, and how each is made: an explicit table, read at wiring time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rag.core.errors import InvalidInput, NotFound
from rag.core.resources import asset_path, conf_path
from rag.core.settings import Settings
from rag.llm import litellm_port
from rag.llm.base import ChatModel, Embedder, ModelInfo
from rag.llm.deadlines import Deadlines
from rag.llm.endpoint import Endpoint
from rag.llm.extractive import INFO as EXTRACTIVE
from rag.llm.extractive import ExtractiveChat
from rag.llm.minilm import NAME as MINILM
from rag.llm.minilm import MiniLmEmbedder
from rag.llm.upstream import UpstreamPool


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelEntry(_Entry):
    context_tokens: int = Field(ge=256)
    max_output_tokens: int = Field(ge=1)
    reasoning: bool = False


class ProviderEntry(_Entry):
    transport: Literal["lane", "litellm"]
    litellm_prefix: str
    key: str
    base_url: str
    default_base_url: str
    models: dict[str, ModelEntry]
    unlisted: ModelEntry


class ModelsFile(_Entry):
    providers: dict[str, ProviderEntry]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What factories build on: shared by all models of a process."""

    pool: UpstreamPool
    deadlines: Deadlines


def _lane(info: ModelInfo, endpoint: Endpoint, parts: Parts) -> ChatModel:
    # Imported here because aiohttp costs 15 MB, which a process without a provider does not pay.
    from rag.llm.openai_lane import OpenAiLane

    return OpenAiLane(info, endpoint, pool=parts.pool, deadlines=parts.deadlines)


def _litellm(info: ModelInfo, endpoint: Endpoint, parts: Parts) -> ChatModel:
    from rag.llm.chat_model import LiteLLMBase

    return LiteLLMBase(info, endpoint, deadlines=parts.deadlines)


CHAT_FACTORIES: dict[str, Callable[[ModelInfo, Endpoint, Parts], ChatModel]] = {"lane": _lane, "litellm": _litellm}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Provider:
    name: str
    entry: ProviderEntry
    endpoint: Endpoint
    open_names: bool


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
        self._providers = _configured(self._file, settings)
        self._minilm = MiniLmEmbedder(
            asset_path("minilm"),
            threads=settings.models.embed_threads,
            batch_tokens=settings.ingest.embed_batch_tokens,
        )
        self._embedders: dict[str, Embedder] = {MINILM: self._minilm}
        self._chats: dict[str, ChatModel] = {EXTRACTIVE.name: ExtractiveChat(self._minilm)}

    @property
    def providers(self) -> tuple[str, ...]:
        """Names of the providers that have a key, in the order that decides."""
        return tuple(self._providers)

    def chat_infos(self) -> list[ModelInfo]:
        """All chat models that can be named: the built-in one first, then each provider's list."""
        infos = [model.info for model in self._chats.values() if model.info.local]
        for provider in self._providers.values():
            infos.extend(_info(model, provider) for model in provider.entry.models)
        return infos

    def embedders(self) -> list[Embedder]:
        return list(self._embedders.values())

    def chat(self, name: str) -> ChatModel:
        """The chat model `<model>@<provider>`, or `<model>` of the first provider that has it.

        Raises:
            NotFound: no such model, or its provider has no key.
        """
        if name in self._chats:
            return self._chats[name]
        found = self._find(name)
        if found is None:
            raise NotFound(
                "model", name, f"No chat model {name!r}. Use one of the listed models, or set its provider's key."
            )
        model, provider = found
        full = f"{model}@{provider.name}"
        if full not in self._chats:
            endpoint = provider.endpoint.for_model(model, reasoning=_entry(model, provider).reasoning)
            self._chats[full] = CHAT_FACTORIES[provider.entry.transport](_info(model, provider), endpoint, self._parts)
        return self._chats[full]

    def embedder(self, name: str) -> Embedder:
        """The embedding model `name`.

        Raises:
            NotFound: no such model.
        """
        if name in self._embedders:
            return self._embedders[name]
        for full, embedder in self._embedders.items():
            if full.partition("@")[0] == name:
                return embedder
        raise NotFound("model", name, f"No embedding model {name!r}. Use one of: {', '.join(self._embedders)}.")

    def warm(self) -> None:
        """Load what a first question needs. Blocking: call it in a thread before the process says it is ready."""
        self._minilm.open()
        self._minilm.encode_query("warm up")
        for provider in self._providers.values():
            if provider.entry.transport == "litellm":
                litellm_port.load()

    async def open(self) -> None:
        """Open the shared connections; on the loop that makes all model calls."""
        if self._providers:
            await self._parts.pool.open()

    async def close(self) -> None:
        """Close connections and give memory back, while the loop still lives."""
        await self._parts.pool.close()
        await litellm_port.close_clients()
        self._minilm.close()

    def _find(self, name: str) -> tuple[str, _Provider] | None:
        model, _, provider_name = name.rpartition("@")
        if model:
            provider = self._providers.get(provider_name)
            if provider and (provider.open_names or model in provider.entry.models):
                return model, provider
        for provider in self._providers.values():
            if name in provider.entry.models:
                return name, provider
        return next(
            ((name, provider) for provider in self._providers.values() if provider.open_names and not model), None
        )


def read_models_file() -> ModelsFile:
    """`conf/models.yaml`.

    Raises:
        InvalidInput: the file does not fit its form.
    """
    try:
        return ModelsFile.model_validate(yaml.safe_load(conf_path("models.yaml").read_text("utf-8")))
    except (ValidationError, yaml.YAMLError) as error:
        raise InvalidInput(f"conf/models.yaml cannot be used: {error}") from error


def _configured(file: ModelsFile, settings: Settings) -> dict[str, _Provider]:
    found: dict[str, _Provider] = {}
    for name, entry in file.providers.items():
        key = getattr(settings.providers, entry.key)
        if key is None or not key.get_secret_value():
            continue
        base_url = str(getattr(settings.providers, entry.base_url)) or entry.default_base_url
        listed = {settings.models.chat.rpartition("@")[0], settings.models.openai_chat} - {""}
        models = dict(entry.models)
        for model in listed - models.keys():
            models[model] = entry.unlisted
        found[name] = _Provider(
            name=name,
            entry=entry.model_copy(update={"models": models}),
            endpoint=Endpoint(base_url=base_url, api_key=key, litellm_prefix=entry.litellm_prefix),
            # A compatible server names its models itself.
            open_names=base_url.rstrip("/") != entry.default_base_url,
        )
    return found


def _entry(model: str, provider: _Provider) -> ModelEntry:
    return provider.entry.models.get(model, provider.entry.unlisted)


def _info(model: str, provider: _Provider) -> ModelInfo:
    entry = _entry(model, provider)
    return ModelInfo(
        name=f"{model}@{provider.name}",
        context_tokens=entry.context_tokens,
        max_output_tokens=entry.max_output_tokens,
    )
