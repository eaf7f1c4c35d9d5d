"""A set of given models in the place of the registry."""

from collections.abc import Sequence

from rag.core.errors import NotFound
from rag.llm.base import ChatModel, Embedder, ModelInfo
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
