"""Small real calls that tell whether a login and a model work."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

from rag.core.errors import InvalidInput
from rag.core.types import Picture, TokenUsage, Turn
from rag.llm.base import ChatRequest, Embedded, Reranked, Sampling
from rag.llm.models_file import Kind
from rag.llm.token_estimate import estimate_tokens

_TOKENS: Final = 16
"""Some providers refuse fewer."""
_SAY: Final = "Say ok."
_DOT: Final = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000100000001080200000090"
    "7753de0000000c49444154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
)
"""A white dot as PNG."""


async def probe(kind: Kind, make: Callable[[], Any]) -> TokenUsage:
    """Make a small call of the model that `make` gives; what it took, estimated where the provider does not say.

    Raises:
        ModelError: the call failed.
        InvalidInput: models of `kind` cannot be checked.
    """
    check = _CHECKS.get(kind)
    if check is None:
        raise InvalidInput(f"Models of kind {kind!r} cannot be checked.", field="model_type")
    return await check(make())


async def _chat(model: Any) -> TokenUsage:
    turns, said = (Turn(role="user", content=_SAY),), ""
    async with aclosing(model.stream(ChatRequest(turns=turns, sampling=Sampling(max_tokens=_TOKENS)))) as stream:
        async for delta in stream:
            if delta.usage is not None:
                usage: TokenUsage = delta.usage
                return usage
            said = delta.text or delta.reasoning
            if said:
                break
    return TokenUsage(prompt_tokens=estimate_tokens(_SAY), completion_tokens=estimate_tokens(said), estimated=True)


async def _embedding(model: Any) -> TokenUsage:
    return _read(await model.encode(["ok"]), "ok")


async def _rerank(model: Any) -> TokenUsage:
    return _read(await model.rerank("ok", ["ok"]), "ok ok")


async def _picture(model: Any) -> TokenUsage:
    described = await model.describe(Picture(media_type="image/png", data=_DOT), _SAY)
    usage: TokenUsage = described.usage
    return usage


async def _speech(model: Any) -> TokenUsage:
    async with aclosing(model.speak("ok")) as stream:
        async for _ in stream:
            break
    return TokenUsage(prompt_tokens=estimate_tokens("ok"), estimated=True)


async def _hearing(model: Any) -> TokenUsage:
    said = await model.transcribe(_silence(), file_name="silence.wav")
    return TokenUsage(completion_tokens=estimate_tokens(said.text), estimated=True)


def _read(found: Embedded | Reranked, text: str) -> TokenUsage:
    tokens = found.tokens or estimate_tokens(text)
    return TokenUsage(prompt_tokens=tokens, estimated=found.estimated or not found.tokens)


def _silence() -> bytes:
    """A fifth of a second of silence: 16 kHz, 16 bits, one channel."""
    samples = bytes(6400)
    head = b"RIFF" + (36 + len(samples)).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    form = (1).to_bytes(2, "little") + (1).to_bytes(2, "little") + (16000).to_bytes(4, "little")
    rate = (32000).to_bytes(4, "little") + (2).to_bytes(2, "little") + (16).to_bytes(2, "little")
    return head + form + rate + b"data" + len(samples).to_bytes(4, "little") + samples


_CHECKS: Final[Mapping[Kind, Callable[[Any], Awaitable[TokenUsage]]]] = {
    "chat": _chat,
    "embedding": _embedding,
    "rerank": _rerank,
    "image2text": _picture,
    "speech2text": _hearing,
    "tts": _speech,
}
