"""Small real calls that tell whether a login and a model work."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

from rag.core.errors import InvalidInput
from rag.core.types import Picture, Turn
from rag.llm.base import ChatRequest, Sampling
from rag.llm.models_file import Kind

_TOKENS: Final = 16
"""Some providers refuse fewer."""
_DOT: Final = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000100000001080200000090"
    "7753de0000000c49444154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
)
"""A white dot as PNG."""


async def probe(kind: Kind, make: Callable[[], Any]) -> None:
    """Make a small call of the model that `make` gives.

    Raises:
        ModelError: the call failed.
        InvalidInput: models of `kind` cannot be checked.
    """
    check = _CHECKS.get(kind)
    if check is None:
        raise InvalidInput(f"Models of kind {kind!r} cannot be checked.", field="model_type")
    await check(make())


async def _chat(model: Any) -> None:
    turns = (Turn(role="user", content="Say ok."),)
    async with aclosing(model.stream(ChatRequest(turns=turns, sampling=Sampling(max_tokens=_TOKENS)))) as stream:
        async for delta in stream:
            if delta.text or delta.reasoning:
                return


async def _embedding(model: Any) -> None:
    await model.encode(["ok"])


async def _rerank(model: Any) -> None:
    await model.rerank("ok", ["ok"])


async def _picture(model: Any) -> None:
    await model.describe(Picture(media_type="image/png", data=_DOT), "Say ok.")


async def _speech(model: Any) -> None:
    async with aclosing(model.speak("ok")) as stream:
        async for _ in stream:
            return


async def _hearing(model: Any) -> None:
    await model.transcribe(_silence(), file_name="silence.wav")


def _silence() -> bytes:
    """A fifth of a second of silence: 16 kHz, 16 bits, one channel."""
    samples = bytes(6400)
    head = b"RIFF" + (36 + len(samples)).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    form = (1).to_bytes(2, "little") + (1).to_bytes(2, "little") + (16000).to_bytes(4, "little")
    rate = (32000).to_bytes(4, "little") + (2).to_bytes(2, "little") + (16).to_bytes(2, "little")
    return head + form + rate + b"data" + len(samples).to_bytes(4, "little") + samples


_CHECKS: Final[Mapping[Kind, Callable[[Any], Awaitable[None]]]] = {
    "chat": _chat,
    "embedding": _embedding,
    "rerank": _rerank,
    "image2text": _picture,
    "speech2text": _hearing,
    "tts": _speech,
}
