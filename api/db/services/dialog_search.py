"""The passages that an answer may rest on: from the datasets and from the web, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import structlog

from api.db.services.beside import side_by_side
from api.db.services.dialog_asking import Asking
from api.db.services.dialog_brief import Brief
from api.db.services.dialog_question import SearchPlan
from api.db.services.dialog_sources import unranked
from api.db.services.document_reader import Part, Reading
from api.db.services.llm_service import LLMBundle
from api.db.services.records import RetrievalRequest
from api.db.services.reranking import WINDOW, Asked, Similarity, reranked
from api.db.services.retrieval_service import LONGEST_QUESTION_CHARS
from rag.core.blocking import Lane, apart_if_long, run_in
from rag.core.errors import NotFound, RagError, StoreError
from rag.core.types import ChunkText, Hit, Principal, Retrieved
from rag.llm.question import search_text
from rag.llm.quotable import worth_reading
from rag.retrieve.joined import joined
from rag.retrieve.web_search import WebSearchFailed

log = structlog.get_logger()

MOST_QUERIES = 8
"""Wordings of one question that are searched."""
_SEARCHED_FOR_QUOTES = 24
_BEST_HEADINGS = 3
_AROUND = 3
"""Passages before and after one of the best that may be added under its heading."""
NOTHING = Retrieved(hits=(), total=0)


class Retrieval(Protocol):
    """What answers need of `RetrievalService`."""

    async def retrieve(self, principal: Principal, request: RetrievalRequest) -> Retrieved: ...


class Pages(Protocol):
    """The web search; `WebPages`."""

    async def find(self, principal: Principal, sealed: str, question: str) -> tuple[Hit, ...]: ...


class Reader(Protocol):
    """Reads documents; `DocumentReader`."""

    async def read(self, principal: Principal, reading: Reading) -> Part: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Where passages come from. `rerank_s` is how long a reranking model may take."""

    retrieval: Retrieval
    reader: Reader
    pages: Pages | None = None
    rerank_s: float = 5.0


def web_for_model(brief: Brief, query: str, instead: str = "") -> str:
    """What the web is searched for when a model searches for `query`. A model that has read passages of the datasets
    may write what stands there: its own words leave only where there is nothing to read, or the chat allows it, and
    `instead` is searched for otherwise."""
    return query if brief.web_by_model or not brief.dataset_ids else instead


async def found_for(asking: Asking, sources: Sources, bundle: LLMBundle, plan: SearchPlan) -> Retrieved:
    """The passages to answer from, best first: those of the datasets, then pages of the web.

    Raises:
        NotFound: a dataset that this call named is gone.
        RagError: the datasets could not be searched. A web search, reranking and further passages under the same
            heading that cannot be had are left out with a warning.
    """
    found, pages = await side_by_side([_in_datasets(asking, sources, bundle, plan), _on_the_web(asking, sources, plan)])
    return replace(found, hits=(*found.hits, *pages.hits), total=found.total + pages.total)


async def _in_datasets(asking: Asking, sources: Sources, bundle: LLMBundle, plan: SearchPlan) -> Retrieved:
    brief, local = asking.brief, bundle.info.local
    if not brief.dataset_ids or plan.document_ids == ():
        return NOTHING
    # The built-in model reads fast: for it more are searched, and the best kept.
    most = max(brief.top_n, min(_SEARCHED_FOR_QUOTES, brief.top_k)) if local else brief.top_n
    model = _reranker(asking)
    # A model's score decides later: what it is not given, it cannot raise.
    wide = brief if model is None else replace(brief, similarity_threshold=0.0)
    wide = replace(wide, top_n=most if model is None else max(most, min(WINDOW, brief.top_k)))
    with asking.steps.timed("retrieve"):
        size = sum(min(len(text), LONGEST_QUESTION_CHARS) for text in (plan.searched, *plan.queries))
        wordings = await apart_if_long(size, partial(_wordings, plan, local=local))
        searches = [retrieved(sources.retrieval, asking.principal, wide, each) for each in wordings]
        found = joined(await side_by_side(searches), wide.top_n)
    if model is not None:
        with asking.steps.timed("rerank"):
            found = await _reranked(model, sources, brief, plan.searched, found)
    found = replace(found, hits=found.hits[:most])
    if local and len(found.hits) > brief.top_n:
        passages = [hit.chunk for hit in found.hits]
        question = plan.question[:LONGEST_QUESTION_CHARS]
        kept = await run_in(Lane.TEXT, worth_reading, question, passages, brief.top_n)
        found = replace(found, hits=tuple(found.hits[index] for index in kept))
    if brief.headings and found.hits:
        with asking.steps.timed("headings"):
            found = replace(found, hits=(*found.hits, *await _below_headings(asking, sources, found.hits)))
    return found


def _wordings(plan: SearchPlan, *, local: bool) -> list[SearchPlan]:
    """The searches of `plan`. For the built-in model, with the names that reports have for what is asked for."""
    # More is not searched for, and looking for names in a megabyte would hold the loop.
    begun = (text[:LONGEST_QUESTION_CHARS] for text in (plan.searched, *plan.queries))
    texts = [text for text in dict.fromkeys(begun) if text.strip()][:MOST_QUERIES] or [""]
    return [replace(plan, question=search_text(text) if local else text) for text in texts]


def _reranker(asking: Asking) -> Similarity | None:
    """The chat's reranking model. The two names that every chat may have mean nothing without a provider for them."""
    brief, principal = asking.brief, asking.principal
    if not brief.rerank:
        return None
    try:
        return asking.models.bundle_rerank(
            brief.rerank,
            tenant_id=principal.tenant_id,
            dialog_id=brief.dialog_id,
            conversation_id=asking.session_id or None,
            message_id=asking.message_id or None,
            key_id=principal.key_id,
        )
    except NotFound:
        log.info("reranker_not_there", model=brief.rerank, message=asking.message_id)
        return None


async def _reranked(model: Similarity, sources: Sources, brief: Brief, question: str, found: Retrieved) -> Retrieved:
    """In the model's order, those whose score reaches the threshold; as found where the model gives no scores."""
    asked = Asked(question=question, weight=brief.vector_similarity_weight, timeout_s=sources.rerank_s)
    ordered = await reranked(model, found.hits, asked)
    if ordered is None:
        kept = [hit for hit in found.hits if hit.similarity >= brief.similarity_threshold]
    else:
        kept = [hit for hit in ordered if hit.vector_similarity >= brief.similarity_threshold]
    return replace(found, hits=tuple(kept), total=len(kept))


async def _on_the_web(asking: Asking, sources: Sources, plan: SearchPlan) -> Retrieved:
    """Pages of the web; none where the search fails, which never fails the answer."""
    question = plan.searched_on_the_web
    if sources.pages is None or not asking.brief.web_key or not question.strip():
        return NOTHING
    with asking.steps.timed("web_search"):
        try:
            pages = await sources.pages.find(asking.principal, asking.brief.web_key, question)
        except (WebSearchFailed, StoreError) as error:
            log.warning("web_search_failed", message=asking.message_id, reason=error.message)
            return NOTHING
        return Retrieved(hits=pages, total=len(pages))


async def _below_headings(asking: Asking, sources: Sources, hits: Sequence[Hit]) -> list[Hit]:
    """The passages around the best ones, below the same heading; they come last, and are shown if there is room."""
    known = {(hit.chunk.document_id, hit.chunk.ordinal) for hit in hits}
    more: list[Hit] = []
    for hit in [hit for hit in hits if hit.chunk.heading_path][:_BEST_HEADINGS]:
        for chunk in await _around(asking, sources, hit.chunk):
            if (chunk.document_id, chunk.ordinal) not in known:
                known.add((chunk.document_id, chunk.ordinal))
                more.append(replace(unranked(chunk), rank=len(hits) + len(more) + 1))
    return more


async def _around(asking: Asking, sources: Sources, chunk: ChunkText) -> list[ChunkText]:
    """The passages next to `chunk`, as far as they stand below its heading."""
    reading = Reading(
        document=chunk.document_id,
        dataset_ids=(chunk.dataset_id,),
        first_passage=max(0, chunk.ordinal - _AROUND),
        last_passage=chunk.ordinal + _AROUND,
    )
    try:
        part = await sources.reader.read(asking.principal, reading)
    except RagError as error:
        log.warning("heading_not_read", message=asking.message_id, code=error.code)
        return []
    below = {
        each.ordinal: each
        for each in part.chunks
        if each.heading_path == chunk.heading_path and each.version_id == chunk.version_id
    }
    found = []
    for step in (1, -1):
        ordinal = chunk.ordinal + step
        while ordinal in below:
            found.append(below[ordinal])
            ordinal += step
    return found


async def retrieved(retrieval: Retrieval, principal: Principal, brief: Brief, plan: SearchPlan) -> Retrieved:
    """Search the datasets; those of the chat that were deleted since are left out, and so are documents that are not
    there. Where only such were named, nothing is found."""
    wanted, documents = list(brief.dataset_ids), plan.document_ids or ()
    if plan.document_ids == ():
        return NOTHING
    while wanted and plan.question.strip():
        request = RetrievalRequest(
            question=plan.question[:LONGEST_QUESTION_CHARS],
            dataset_ids=tuple(wanted),
            document_ids=documents,
            page_size=brief.top_n,
            similarity_threshold=brief.similarity_threshold,
            vector_similarity_weight=brief.vector_similarity_weight,
            top_k=brief.top_k,
        )
        try:
            return await retrieval.retrieve(principal, request)
        except NotFound as error:
            gone = frozenset(error.facts.get("missing", ())) & frozenset(documents)
            if error.kind == "document" and gone:
                documents = tuple(each for each in documents if each not in gone)
                if not documents:
                    return NOTHING
                continue
            if error.kind != "dataset" or error.id not in wanted or error.id in brief.must_exist:
                raise
            wanted.remove(error.id)
    return NOTHING
