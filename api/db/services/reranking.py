"""Ordering what a search found by a reranking model. A model that fails or is late is left out, with a warning."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from rag.core.errors import InvalidInput, LimitExceeded, ModelError, NotFound, StoreError
from rag.core.types import Hit
from rag.llm.base import Reranked

log = structlog.get_logger()

WINDOW = 64
"""Passages that are given to a reranking model, the best of the search. What lies beyond is not looked at."""
_LONGEST_CHARS = 8000
_NO_RERANKING = (InvalidInput, LimitExceeded, ModelError, NotFound, StoreError, TimeoutError)


class Similarity(Protocol):
    """A bundle of a reranking model."""

    async def similarity(self, question: str, passages: Sequence[str]) -> Reranked: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the passages are held against, `weight` of the model's score in `similarity`, and how long it may take."""

    question: str
    weight: float
    timeout_s: float


async def reranked(model: Similarity, hits: Sequence[Hit], asked: Asked) -> list[Hit] | None:
    """`hits` by the model's score, best first; None where the model gives none in time.

    The score takes the place of the cosine: `vector_similarity` is the score (0 to 1), and `similarity` is
    `weight * score + (1 - weight) * term_similarity`.
    """
    passages = [hit.chunk.content[:_LONGEST_CHARS] for hit in hits]
    try:
        async with asyncio.timeout(asked.timeout_s):
            scores = (await model.similarity(asked.question, passages)).scores.tolist()
    except _NO_RERANKING as error:
        log.warning("reranking_failed", error=getattr(error, "code", type(error).__name__))
        return None
    scored = [_scored(hit, score, asked.weight) for hit, score in zip(hits, scores, strict=True)]
    scored.sort(key=lambda hit: -hit.vector_similarity)
    return [replace(hit, rank=rank) for rank, hit in enumerate(scored, 1)]


def _scored(hit: Hit, score: float, weight: float) -> Hit:
    similarity = weight * score + (1 - weight) * hit.term_similarity
    return replace(hit, vector_similarity=score, similarity=similarity, fused=score)
