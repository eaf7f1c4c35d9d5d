"""A set of given models in the place of the registry."""

from collections.abc import Sequence
from dataclasses import dataclass

from rag.core.errors import ModelError, NotFound
from rag.llm.base import ChatModel, Embedder, ModelInfo, ProviderLogin
from rag.testing.hash_embedder import HashEmbedder
from rag.testing.scripted_chat import ScriptedChat


class FixedModels:
    """Serves the chats and embedders it was given; looked up by full name or by the part before `@`."""

    providers: tuple[str, ...] = ()

    def __init__(self, chats: Sequence[ChatModel] = (), embedders: Sequence[Embedder] = ()) -> None:
        self._chats = list(chats) or [ScriptedChat(name="extractive@Builtin")]
        self._embedders = list(embedders) or [HashEmbedder(name="minilm@Builtin")]
        self.warmed = 0

    def chat_infos(self) -> list[ModelInfo]:
        return [chat.info for chat in self._chats]

    def embedders(self) -> list[Embedder]:
        return list(self._embedders)

    def chat(self, name: str) -> ChatModel:
        for chat in self._chats:
            if name in (chat.info.name, chat.info.name.partition("@")[0]):
                return chat
        raise NotFound("model", name)

    def embedder(self, name: str) -> Embedder:
        for embedder in self._embedders:
            if name in (embedder.name, embedder.name.partition("@")[0]):
                return embedder
        raise NotFound("model", name)

    def warm(self) -> None:
        self.warmed += 1

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedFactory:
    name: str
    tags: str = "LLM"
    kinds: tuple[str, ...] = ("chat",)
    rank: int = 0
    needs_key: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedModel:
    name: str
    provider: str
    kind: str = "chat"
    max_tokens: int = 1000
    tools: bool = False
    available: bool = False


class FixedProviders:
    """Providers on paper: `Acme` with a model of each of three kinds, `Ollama` with none.

    `probed` are the calls that tried a key; one with a key of `good`, or to an address, goes through.
    """

    def __init__(self, *good: str) -> None:
        self.good = set(good)
        self.probed: list[tuple[ProviderLogin, str, str]] = []

    def factories(self) -> list[FixedFactory]:
        return [FixedFactory(name="Ollama", needs_key=False), FixedFactory(name="Acme", rank=9)]

    def listed(self, logins: Sequence[ProviderLogin] = ()) -> list[FixedModel]:
        has_key = any(login.provider == "Acme" for login in logins)
        kinds = {"small": "chat", "large": "chat", "vectors": "embedding", "ranks": "rerank"}
        return [
            FixedModel(name=f"{name}@Acme", provider="Acme", kind=kind, available=has_key)
            for name, kind in kinds.items()
        ]

    async def probe(self, login: ProviderLogin, kind: str, model: str) -> None:
        self.probed.append((login, kind, model))
        key = login.api_key.get_secret_value()
        if key not in self.good and not login.base_url:
            raise ModelError(f"{model!r}: the key {key!r} is wrong.")
