"""Descriptions of pictures by chat models that see."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final, Protocol

from rag.core.errors import ModelBadOutput
from rag.core.types import Picture, TokenUsage, Turn
from rag.llm.base import ChatRequest, Delta, Described, ModelInfo, Sampling
from rag.llm.token_estimate import estimate_tokens

_EVERYTHING: Final = (
    "Describe what this picture shows, so that somebody who searches for its content finds it. Write down all text and "
    "all figures in it as they are. Do not guess."
)
_MOST_TOKENS: Final = 2048
_PICTURE_TOKENS: Final = 1000
"""What a picture counts where the provider does not say; providers charge 85 to 1,600."""


class _AsyncChat(Protocol):
    info: ModelInfo

    def stream(self, request: ChatRequest) -> AsyncIterator[Delta]: ...


class ChatDescriber:
    """Describer, asynchronous, over a chat model that sees. Keeps nothing."""

    def __init__(self, chat: Any) -> None:
        self.name: str = chat.info.name
        self._chat: _AsyncChat = chat

    async def describe(self, picture: Picture, prompt: str) -> Described:
        """What `picture` shows, as `prompt` asks.

        Raises:
            ModelError: the call failed, or ended without a word.
        """
        asked = prompt.strip() or _EVERYTHING
        request = ChatRequest(
            turns=(Turn(role="user", content=asked, pictures=(picture,)),), sampling=Sampling(max_tokens=_MOST_TOKENS)
        )
        pieces: list[str] = []
        usage: TokenUsage | None = None
        stream: Any = self._chat.stream(request)
        async with aclosing(stream):
            async for delta in stream:
                pieces.append(delta.text)
                usage = delta.usage or usage
        text = "".join(pieces).strip()
        if not text:
            raise ModelBadOutput(f"{self.name!r} said nothing about the picture.", model=self.name)
        return Described(text=text, usage=usage or _estimated(asked, text))


def _estimated(asked: str, said: str) -> TokenUsage:
    return TokenUsage(
        prompt_tokens=estimate_tokens(asked) + _PICTURE_TOKENS,
        completion_tokens=estimate_tokens(said),
        estimated=True,
    )
