"""An answer's citation marks: repaired, and put in where a model wrote none."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import structlog

from api.db.services.dialog_asking import Asking
from api.db.services.llm_service import LLMBundle
from rag.core.blocking import Lane, apart_if_long, run_in
from rag.core.errors import InvalidInput, LimitExceeded, ModelError, NotFound, StoreError
from rag.core.types import Reference
from rag.nlp import citation

log = structlog.get_logger()

_MOST_CHARS = 40_000
_MOST_PASSAGES = 32
"""Passages that are embedded: those that share most words with the answer. Tools may have found many more."""
_NO_EMBEDDING = (InvalidInput, LimitExceeded, ModelError, NotFound, StoreError)
"""What keeps the embedding model from answering: marks are an extra, and the answer they were for is there already."""


async def cited(asking: Asking, bundle: LLMBundle, sources: Reference, text: str) -> tuple[str, Reference]:
    """The answer with its marks in order, and the reference with the documents they name."""
    chunks = sources.chunks
    with asking.steps.timed("cite"):
        answer = await apart_if_long(len(text), lambda: citation.repair_marks(text, len(chunks)))
        is_own_quote = bundle.info.local
        if not citation.cited_indices(answer) and not is_own_quote and answer.strip() != asking.brief.empty_response:
            who = asking.principal
            embedder = partial(asking.models.bundle_embed, tenant_id=who.tenant_id, key_id=who.key_id, purpose="cite")
            answer = await with_marks(embedder, [chunk.content for chunk in chunks], answer)
        return answer, await apart_if_long(len(answer), lambda: citation.with_counts(sources, answer))


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
