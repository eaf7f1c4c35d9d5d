"""Citation marks put in where a model wrote none."""

from collections.abc import Callable, Sequence

import numpy as np
import structlog

from api.db.services.llm_service import LLMBundle
from rag.core.blocking import Lane, run_in
from rag.core.errors import InvalidInput, LimitExceeded, ModelError, NotFound, StoreError
from rag.nlp import citation

log = structlog.get_logger()

_MOST_CHARS = 40_000
_MOST_PASSAGES = 32
"""Passages that are embedded: those that share most words with the answer. Tools may have found many more."""
_NO_EMBEDDING = (InvalidInput, LimitExceeded, ModelError, NotFound, StoreError)
"""What keeps the embedding model from answering: marks are an extra, and the answer they were for is there already."""


async def with_marks(find: Callable[[], LLMBundle], passages: Sequence[str], answer: str) -> str:
    """`answer` with marks where `passages` support it. It stays as it is where the embedding model that `find` gives
    cannot be had: there is none, it fails, or a budget refuses it."""
    claims = await run_in(Lane.TEXT, citation.citable_sentences, answer[:_MOST_CHARS])
    if not claims:
        return answer
    texts = [claim.text for claim in claims]
    overlap = await run_in(Lane.TEXT, citation.word_overlap, texts, passages)
    likely = [index for index in range(len(texts)) if overlap[index].max() > 0]
    if not likely:
        return answer
    claims = [claims[index] for index in likely]
    overlap = overlap[likely]
    near = np.sort(np.argsort(-overlap.max(axis=0), kind="stable")[:_MOST_PASSAGES])
    try:
        embedded = await find().encode([*(claim.text for claim in claims), *(passages[index] for index in near)])
    except _NO_EMBEDDING as error:
        log.warning("citing_failed", code=error.code)
        return answer
    scores = np.zeros_like(overlap)
    cosines = embedded.vectors[: len(claims)] @ embedded.vectors[len(claims) :].T
    scores[:, near] = citation.support(cosines, overlap[:, near])
    return citation.insert_marks(answer, claims, scores)
