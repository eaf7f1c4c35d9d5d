"""The search of the page and of search bots (web.md section 5, `retrieval_test`), by internal names."""

from typing import Any, Final

from quart import Response

from api.apps import repr_texts
from api.apps.ask_wire import own_datasets, refuse_search_app
from api.apps.body import number, texts, whole_number
from api.apps.context import services
from api.apps.envelope import Refused, json_result, uncaught
from api.apps.sdk.chunk_wire import document_counts, positions
from api.apps.wording import check_bounds, worded
from api.db.services.highlight import highlighter
from api.db.services.records import RetrievalRequest
from api.db.services.retrieval_service import LONGEST_QUESTION_CHARS, SearchScope
from api.errors import DATA_ERROR
from rag.core.errors import Conflict
from rag.core.types import Hit, Principal

_MOST_CANDIDATES: Final = 1024
_DEFAULT_SIZE: Final = 30


async def search_datasets(principal: Principal, body: dict[str, Any]) -> Response:
    """The best chunks for the body's question, whose required keys `kb_id` and `question` are there."""
    refuse_search_app(body)
    named = body["kb_id"]
    ids = [named] if isinstance(named, str) and named else named
    if not ids:
        raise Refused(DATA_ERROR, "Please specify dataset firstly.")
    if not isinstance(ids, list):
        raise uncaught(repr_texts.not_iterable(ids))
    datasets = await own_datasets(principal, ids)
    try:
        scope = await services().retrieval.scope(principal, [each.id for each in datasets])
    except Conflict as error:
        raise Refused(DATA_ERROR, 'Datasets use different embedding models."') from error
    request = await _request(principal, body, scope)
    if not request.question.strip():
        return json_result({"total": 0, "chunks": [], "doc_aggs": [], "labels": None})
    request = await worded(principal, request, body)
    found = await services().retrieval.search(scope, request)
    mark = highlighter(request.question) if request.highlight else None
    chunks = [chunk_row(hit) | ({"highlight": mark(hit.chunk.content)} if mark else {}) for hit in found.hits]
    counts = document_counts(found.hits)
    return json_result({"total": found.total, "chunks": chunks, "doc_aggs": counts, "labels": None})


async def _request(principal: Principal, body: dict[str, Any], scope: SearchScope) -> RetrievalRequest:
    page, size = whole_number(body.get("page", 1)), whole_number(body.get("size", _DEFAULT_SIZE))
    top_k = whole_number(body.get("top_k", _MOST_CANDIDATES))
    reranker = str(body.get("rerank_id") or "")
    if reranker and not services().models.exists(reranker, "rerank", principal.tenant_id):
        raise uncaught(repr_texts.failed_lookup(f"Model({reranker}) not authorized"))
    check_bounds(page=page, size=size, top_k=top_k)
    question = body["question"]
    return RetrievalRequest(
        question="" if question is None else str(question)[:LONGEST_QUESTION_CHARS],
        dataset_ids=scope.dataset_ids,
        document_ids=await _documents(principal, body, scope),
        page=max(page, 1),
        page_size=size,
        similarity_threshold=number(body.get("similarity_threshold", 0.0)),
        vector_similarity_weight=number(body.get("vector_similarity_weight", 0.3)),
        top_k=min(top_k, _MOST_CANDIDATES),
        highlight=bool(body.get("highlight")),
        rerank_id=reranker,
    )


async def _documents(principal: Principal, body: dict[str, Any], scope: SearchScope) -> tuple[str, ...]:
    named = tuple(texts(body.get("doc_ids") or [], "doc_ids"))
    outside = await services().documents.first_outside(principal, scope.dataset_ids, named) if named else None
    if outside is not None:
        raise Refused(DATA_ERROR, f"The datasets don't own the document {outside}")
    return named


def chunk_row(hit: Hit) -> dict[str, Any]:
    """A chunk that was found, by internal names."""
    chunk = hit.chunk
    return {
        "chunk_id": chunk.chunk_id,
        "content_ltks": "",
        "content_with_weight": chunk.content,
        "doc_id": chunk.document_id,
        "docnm_kwd": chunk.document_name,
        "kb_id": chunk.dataset_id,
        "important_kwd": list(chunk.important_keywords),
        "image_id": chunk.image_id,
        "similarity": hit.similarity,
        "vector_similarity": hit.vector_similarity,
        "term_similarity": hit.term_similarity,
        "positions": positions(chunk),
        "doc_type_kwd": "image" if chunk.kind == "image" else "",
    }
