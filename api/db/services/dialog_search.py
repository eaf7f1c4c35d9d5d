"""The passages that an answer may rest on."""

from dataclasses import replace
from typing import Protocol

from api.db.services.dialog_asking import Asking
from api.db.services.dialog_brief import Brief
from api.db.services.dialog_question import SearchPlan
from api.db.services.llm_service import LLMBundle
from api.db.services.records import RetrievalRequest
from api.db.services.retrieval_service import LONGEST_QUESTION_CHARS
from rag.core.blocking import Lane, run_in
from rag.core.errors import NotFound
from rag.core.types import Principal, Retrieved
from rag.llm.question import search_text
from rag.llm.quotable import worth_reading

_SEARCHED_FOR_QUOTES = 24
NOTHING = Retrieved(hits=(), total=0)


class Retrieval(Protocol):
    """What answers need of `RetrievalService`."""

    async def retrieve(self, principal: Principal, request: RetrievalRequest) -> Retrieved: ...


async def found_for(asking: Asking, retrieval: Retrieval, bundle: LLMBundle, plan: SearchPlan) -> Retrieved:
    """The passages to answer from. The built-in model reads fast: for it more are searched, and the best kept."""
    brief, principal = asking.brief, asking.principal
    with asking.steps.timed("retrieve"):
        if not bundle.info.local:
            return await retrieved(retrieval, principal, brief, plan)
        wide = replace(brief, top_n=max(brief.top_n, min(_SEARCHED_FOR_QUOTES, brief.top_k)))
        found = await retrieved(retrieval, principal, wide, replace(plan, question=search_text(plan.question)))
        if len(found.hits) <= brief.top_n:
            return found
        passages = [hit.chunk for hit in found.hits]
        kept = await run_in(Lane.TEXT, worth_reading, plan.question, passages, brief.top_n)
        return replace(found, hits=tuple(found.hits[index] for index in kept))


async def retrieved(retrieval: Retrieval, principal: Principal, brief: Brief, plan: SearchPlan) -> Retrieved:
    """Search the datasets; those of the chat that were deleted since are left out."""
    wanted = list(brief.dataset_ids)
    if plan.document_ids == ():
        return NOTHING
    while wanted and plan.question.strip():
        request = RetrievalRequest(
            question=plan.question[:LONGEST_QUESTION_CHARS],
            dataset_ids=tuple(wanted),
            document_ids=plan.document_ids or (),
            page_size=brief.top_n,
            similarity_threshold=brief.similarity_threshold,
            vector_similarity_weight=brief.vector_similarity_weight,
            top_k=brief.top_k,
        )
        try:
            return await retrieval.retrieve(principal, request)
        except NotFound as error:
            if error.kind != "dataset" or error.id not in wanted or error.id in brief.must_exist:
                raise
            wanted.remove(error.id)
    return NOTHING
