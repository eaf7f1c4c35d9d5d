"""A set of given models in the place of the registry."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rag.core.errors import ModelError, NotFound
from rag.core.types import TokenUsage
from rag.llm.base import ChatModel, Embedder, ModelInfo, ProviderLogin
from rag.testing.hash_embedder import HashEmbedder
from rag.testing.scripted_chat import ScriptedChat

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedFactory:
    name: str
    tags: str = "LLM"
    kinds: tuple[str, ...] = ("chat",)
    rank: int = 0
    needs_key: bool = True
    open_names: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedModel:
    name: str
    provider: str
    kind: str = "chat"
    max_tokens: int = 1000
    tools: bool = False
    available: bool = False


class FixedModels:
    """Serves the chats, embedders and models of other roles that it was given; looked up by full name or by the part
    before `@`. `asked` keeps with which logins: (name, logins)."""

    providers: tuple[str, ...] = ()

    def __init__(
        self, chats: Sequence[ChatModel] = (), embedders: Sequence[Embedder] = (), others: Sequence[object] = ()
    ) -> None:
        self._chats = list(chats) or [ScriptedChat(name="extractive@Builtin")]
        self._embedders = list(embedders) or [HashEmbedder(name="minilm@Builtin")]
        self._others = list(others)
        self.asked: list[tuple[str, tuple[ProviderLogin, ...]]] = []
        self.warmed = 0
        self.discovered = 0

    def chat_infos(self) -> list[ModelInfo]:
        return [chat.info for chat in self._chats]

    def embedders(self) -> list[Embedder]:
        return list(self._embedders)

    def listed(self, logins: Sequence[ProviderLogin] = ()) -> list[FixedModel]:
        named = [(chat.info.name, "chat") for chat in self._chats]
        named += [(embedder.name, "embedding") for embedder in self._embedders]
        parts = [(*name.partition("@")[::2], kind) for name, kind in named]
        return [FixedModel(name=name, provider=provider, kind=kind, available=True) for name, provider, kind in parts]

    def chat(self, name: str, logins: Sequence[ProviderLogin] = ()) -> ChatModel:
        return self._found(name, logins, [(chat.info.name, chat) for chat in self._chats])

    def embedder(self, name: str, logins: Sequence[ProviderLogin] = ()) -> Embedder:
        return self._found(name, logins, [(embedder.name, embedder) for embedder in self._embedders])

    def reranker(self, name: str, logins: Sequence[ProviderLogin] = ()) -> Any:
        return self._other(name, logins, "rerank")

    def describer(self, name: str, logins: Sequence[ProviderLogin] = ()) -> Any:
        return self._other(name, logins, "describe")

    def transcriber(self, name: str, logins: Sequence[ProviderLogin] = ()) -> Any:
        return self._other(name, logins, "transcribe")

    def speaker(self, name: str, logins: Sequence[ProviderLogin] = ()) -> Any:
        return self._other(name, logins, "speak")

    def warm(self) -> None:
        self.warmed += 1

    async def discover(self) -> None:
        """Nobody to ask."""
        self.discovered += 1

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    def _other(self, name: str, logins: Sequence[ProviderLogin], method: str) -> Any:
        able: list[Any] = [one for one in self._others if hasattr(one, method)]
        return self._found(name, logins, [(one.name, one) for one in able])

    def _found(self, name: str, logins: Sequence[ProviderLogin], models: Sequence[tuple[str, T]]) -> T:
        self.asked.append((name, tuple(logins)))
        for full, model in models:
            if name in (full, full.partition("@")[0]):
                return model
        raise NotFound("model", name)


class FixedProviders:
    """Providers on paper: `Acme` with a model of each of three kinds, `Ollama` with none.

    `probed` are the calls that tried a key; one with a key of `good`, or to an address, goes through. `kinds` are the
    models of `Acme`.
    """

    def __init__(self, *good: str) -> None:
        self.good = set(good)
        self.kinds = {"small": "chat", "large": "chat", "vectors": "embedding", "ranks": "rerank"}
        self.probed: list[tuple[ProviderLogin, str, str]] = []

    def factories(self) -> list[FixedFactory]:
        return [FixedFactory(name="Ollama", needs_key=False, open_names=True), FixedFactory(name="Acme", rank=9)]

    def listed(self, logins: Sequence[ProviderLogin] = ()) -> list[FixedModel]:
        has_key = any(login.provider == "Acme" for login in logins)
        return [
            FixedModel(name=f"{name}@Acme", provider="Acme", kind=kind, available=has_key)
            for name, kind in self.kinds.items()
        ]

    def offers(self, name: str, kind: Any, logins: Sequence[ProviderLogin] = ()) -> bool:
        """`Acme` needs a login, `Ollama` has whatever is named."""
        model, _, provider = name.rpartition("@")
        if provider == "Ollama":
            return True
        added = [own for login in logins for own in login.models if own.enabled]
        known = self.kinds.get(model) == kind or any((own.name, own.kind) == (model, kind) for own in added)
        return known and any(login.provider == provider for login in logins)

    async def probe(self, login: ProviderLogin, kind: Any, model: str) -> TokenUsage:
        self.probed.append((login, kind, model))
        key = login.api_key.get_secret_value()
        if key not in self.good and not login.base_url:
            raise ModelError(f"{model!r}: the key {key!r} is wrong.")
        return TokenUsage(prompt_tokens=3)
