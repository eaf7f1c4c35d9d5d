"""Embedding models of providers: OpenAI-compatible addresses by our own client, all others through LiteLLM.

A text that is longer than the model reads is cut into windows; its vector is their mean weighted by length, as with
the built-in model.
"""

import asyncio
import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import numpy as np

from rag.core.blocking import Lane, run_in
from rag.core.errors import ModelBadOutput
from rag.core.types import Matrix
from rag.llm import litellm_port
from rag.llm.base import Embedded
from rag.llm.endpoint import Endpoint
from rag.llm.token_estimate import estimate_tokens
from rag.llm.token_usages import tokens_of
from rag.llm.upstream_call import UpstreamCall

BATCH_TEXTS: Final = 64
"""Texts of one request: Zhipu takes 64, Cohere 96, Gemini 100, OpenAI 2,048."""
BATCH_TOKENS: Final = 8_000
"""Tokens of one request: Mistral takes 16,000, and estimates may be too low."""
SAMPLE: Final = "length"
"""What is embedded to learn how long vectors are."""
_NOTHING: Final = Embedded(vectors=np.zeros((0, 0), dtype=np.float32), tokens=0)
_AT_ONCE: Final = 4
_DEFAULT_CONTEXT: Final = 512
_MARGIN: Final = 0.8
"""Share of what a model reads that a window takes by our estimate."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What one request brought: shape (n, dim), as the provider gave them; tokens as it counted, else our estimate."""

    vectors: Matrix
    tokens: int
    estimated: bool = False


class EmbeddingWire(Protocol):
    """Sends one request."""

    async def embed(self, texts: Sequence[str], *, query: bool) -> Rows:
        """One row per text; no text is empty.

        Raises:
            ModelError: the call failed.
        """
        ...


class CompatibleEmbedding:
    """`POST /embeddings` as OpenAI has it."""

    def __init__(self, call: UpstreamCall) -> None:
        self._call = call

    async def embed(self, texts: Sequence[str], *, query: bool) -> Rows:
        body = {"model": self._call.endpoint.model, "input": list(texts)}
        reply = await self._call.post_json("/embeddings", body)
        return await run_in(Lane.TEXT, rows_of, reply, len(texts), self._call.name)


class LiteLLMEmbedding:
    """Any provider that LiteLLM has an adapter for."""

    def __init__(self, name: str, endpoint: Endpoint, *, timeout_s: float) -> None:
        self._name = name
        self._endpoint = endpoint
        self._timeout_s = timeout_s

    async def embed(self, texts: Sequence[str], *, query: bool) -> Rows:
        reply = await litellm_port.embed(
            self._endpoint, list(texts), name=self._name, query=query, timeout_s=self._timeout_s
        )
        return await run_in(Lane.TEXT, rows_of, reply, len(texts), self._name)


class ProviderEmbedder:
    """Embedder, asynchronous. Keeps nothing but the length of the vectors."""

    def __init__(self, name: str, wire: EmbeddingWire, *, dim: int = 0, context_tokens: int = 0) -> None:
        """`dim` 0: learnt from the first call. `context_tokens`: what the model reads of a text, 0: 512."""
        self.name = name
        self._wire = wire
        self._dim = dim
        self._window = max(32, int((context_tokens or _DEFAULT_CONTEXT) * _MARGIN))

    @property
    def dim(self) -> int:
        """Length of the vectors.

        Raises:
            ModelBadOutput: it is not known before the first call.
        """
        if not self._dim:
            raise ModelBadOutput(f"How long the vectors of {self.name!r} are is not known yet; try again.")
        return self._dim

    @property
    def knows_dim(self) -> bool:
        """Whether `dim` is known: listed, or learnt."""
        return self._dim > 0

    async def encode(self, texts: Sequence[str]) -> Embedded:
        """Embed passages; a zero row for an empty text.

        Raises:
            ModelError: a request failed; `ModelBadOutput` where a reply cannot be used.
        """
        return await self._encode(texts, query=False)

    async def encode_query(self, text: str) -> Embedded:
        """Embed a question; one row."""
        return await self._encode([text], query=True)

    def count_tokens(self, text: str) -> int:
        return estimate_tokens(text)

    async def _encode(self, texts: Sequence[str], *, query: bool) -> Embedded:
        windows = await run_in(Lane.TEXT, lambda: list(_windows(texts, self._window)))
        if not windows:
            learnt = await self._encode([SAMPLE], query=False) if texts and not self._dim else _NOTHING
            return replace(learnt, vectors=np.zeros((len(texts), self._dim), dtype=np.float32))
        batches = list(_batches(windows))
        found = await self._all(batches, query=query)
        vectors = await run_in(Lane.TEXT, self._pooled, found, batches, len(texts))
        estimated = any(rows.estimated for rows in found)
        return Embedded(vectors=vectors, tokens=tokens_of(*(rows.tokens for rows in found)), estimated=estimated)

    async def _all(self, batches: list[list["_Window"]], *, query: bool) -> list[Rows]:
        """The rows of all batches; the first failure ends the others."""
        limit = asyncio.Semaphore(_AT_ONCE)

        async def one(batch: list[_Window]) -> Rows:
            async with limit:
                rows = await self._wire.embed([window.text for window in batch], query=query)
            # A server that does not count: our estimate stands in.
            return rows if rows.tokens else Rows(rows.vectors, sum(window.tokens for window in batch), estimated=True)

        tasks = [asyncio.ensure_future(one(batch)) for batch in batches]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _pooled(self, found: list[Rows], batches: list[list["_Window"]], count: int) -> Matrix:
        """One row of unit length per text."""
        dims = {rows.vectors.shape[1] for rows in found} | ({self._dim} if self._dim else set())
        if len(dims) != 1:
            raise ModelBadOutput(f"{self.name!r} gave vectors of different lengths: {sorted(dims)}.", model=self.name)
        self._dim = dims.pop()
        sums = np.zeros((count, self._dim), dtype=np.float64)
        for rows, batch in zip(found, batches, strict=True):
            for window, row in zip(batch, unit(rows.vectors, self.name), strict=True):
                sums[window.index] += row * window.tokens
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        result: Matrix = np.divide(sums, norms, out=np.zeros_like(sums), where=norms > 0).astype(np.float32)
        return result


@dataclass(frozen=True, slots=True)
class _Window:
    index: int
    text: str
    tokens: int


def _windows(texts: Sequence[str], most_tokens: int) -> Iterator[_Window]:
    """Pieces of `texts` of about `most_tokens` at the most; none of a text without a visible character."""
    for index, text in enumerate(texts):
        plain = text.encode("utf-8", "replace").decode("utf-8").strip()
        if not plain:
            continue
        tokens = max(1, estimate_tokens(plain))
        if tokens <= most_tokens:
            yield _Window(index, plain, tokens)
            continue
        size = max(1, len(plain) * most_tokens // tokens)
        pieces = (plain[start : start + size].strip() for start in range(0, len(plain), size))
        yield from (_Window(index, piece, max(1, estimate_tokens(piece))) for piece in pieces if piece)


def _batches(windows: Sequence[_Window]) -> Iterator[list[_Window]]:
    batch: list[_Window] = []
    tokens = 0
    for window in windows:
        if batch and (len(batch) >= BATCH_TEXTS or tokens + window.tokens > BATCH_TOKENS):
            yield batch
            batch, tokens = [], 0
        batch.append(window)
        tokens += window.tokens
    if batch:
        yield batch


def rows_of(reply: Any, count: int, name: str) -> Rows:
    """The vectors of a reply in OpenAI's form, by their index.

    Raises:
        ModelBadOutput: it has another form, or not one vector per text.
    """
    data = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(data, list) or len(data) != count:
        raise ModelBadOutput(f"{name!r} did not give one vector per text.", model=name)
    rows: list[Any] = [None] * count
    try:
        for place, item in enumerate(data):
            index = item.get("index")
            rows[place if index is None else int(index)] = _vector(item["embedding"])
        vectors = np.stack(rows)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise ModelBadOutput(f"{name!r} gave vectors that cannot be read.", model=name) from error
    if vectors.ndim != 2 or not vectors.shape[1]:
        raise ModelBadOutput(f"{name!r} gave vectors that cannot be read.", model=name)
    usage = reply.get("usage")
    return Rows(vectors, tokens_of(usage.get("prompt_tokens")) if isinstance(usage, dict) else 0)


def _vector(value: Any) -> Matrix:
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4").astype(np.float32)
    return np.asarray(value, dtype=np.float32)


def unit(vectors: Matrix, name: str) -> Matrix:
    """`vectors` with rows of unit length.

    Raises:
        ModelBadOutput: one is zero, or not a number.
    """
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not (norms > 0).all():
        raise ModelBadOutput(f"{name!r} gave a vector without a direction.", model=name)
    result: Matrix = (vectors / norms).astype(np.float32)
    return result


def knows_dim(embedder: object) -> bool:
    """Whether `embedder.dim` tells its length before the first call."""
    return not isinstance(embedder, ProviderEmbedder) or embedder.knows_dim
