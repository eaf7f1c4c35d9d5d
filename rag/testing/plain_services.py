"""A reranker, a describer and models of speech without a model: what comes out can be told from what went in."""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from rag.core.errors import InvalidInput
from rag.core.types import Picture, TokenUsage
from rag.llm.base import Described, Reranked, Transcribed
from rag.llm.token_estimate import estimate_tokens

_WORD = re.compile(r"\w+")


class WordReranker:
    """Reranker (synchronous): the share of the question's words that a passage has."""

    name = "words@Testing"

    def rerank(self, question: str, passages: Sequence[str]) -> Reranked:
        asked = set(_WORD.findall(question.casefold()))
        shares = [len(asked & set(_WORD.findall(text.casefold()))) / max(1, len(asked)) for text in passages]
        tokens = sum(map(estimate_tokens, passages))
        return Reranked(scores=np.asarray(shares, dtype=np.float32), tokens=tokens)


class SizeDescriber:
    """Describer (synchronous): tells type and size of the picture."""

    name = "size@Testing"

    def describe(self, picture: Picture, prompt: str) -> Described:
        text = f"{prompt} {picture.media_type}, {len(picture.data)} bytes".strip()
        return Described(text=text, usage=TokenUsage(prompt_tokens=10, completion_tokens=estimate_tokens(text)))


class EchoTranscriber:
    """Transcriber (synchronous): the audio is its own text."""

    name = "echo@Testing"

    def transcribe(self, audio: bytes, *, file_name: str) -> Transcribed:
        if not audio or file_name.rpartition(".")[2].lower() not in ("mp3", "wav") or "." not in file_name.strip("./"):
            raise InvalidInput("No audio.")
        return Transcribed(text=audio.decode("utf-8", "replace").strip(), seconds=len(audio) / 10)


class EchoSpeaker:
    """Speaker (synchronous): the text is its own file."""

    name = "echo@Testing"

    def speak(self, text: str) -> Iterator[bytes]:
        if not text.strip():
            raise InvalidInput("There is nothing to say.")
        yield b"ID3"
        for word in text.split():
            yield word.encode()
