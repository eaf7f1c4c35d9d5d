"""`POST /api/v1/retrieval` (chunks.md section 6): the order of checks, codes and texts are the contract's."""

from collections.abc import Mapping
from typing import Any

from quart import Blueprint, Response

from api.apps import repr_texts
from api.apps.auth import api_key_required
from api.apps.body import number, tolerant_object, whole_number
from api.apps.context import services
from api.apps.envelope import Refused, sdk_result, uncaught
from api.apps.openapi import describe
from api.apps.sdk.chunk_wire import document_counts, found_chunk
from api.apps.sdk.doc_models import Retrieval
from api.apps.sdk.metadata import matching_documents
from api.apps.wording import check_bounds, worded
from api.db.services.highlight import highlighter
from api.db.services.records import RetrievalRequest
from api.db.services.retrieval_service import LONGEST_QUESTION_CHARS, SearchScope
from api.errors import DATA_ERROR
from rag.core.errors import Conflict, NotFound
from rag.core.types import Principal

bp = Blueprint("retrieval", __name__, url_prefix="/api/v1")
_MOST_CANDIDATES = 1024


@bp.post("/retrieval")
@api_key_required
@describe(request=Retrieval, tag="retrieval")
async def retrieve(principal: Principal, /) -> Response:
    """Search datasets; the best chunks first."""
    body = await tolerant_object()
    scope = await _scope(principal, body)
    if "question" not in body:
        raise Refused(DATA_ERROR, "`question` is required.")
    page, size = whole_number(body.get("page", 1)), whole_number(body.get("page_size", 30))
    document_ids = await _documents(principal, body, scope.dataset_ids)
    request = _request(body, scope, document_ids, page=page, size=size)
    if not request.question.strip():
        return sdk_result({"total": 0, "chunks": [], "doc_aggs": {}})
    request = await worded(principal, request, body)
    found = await services().retrieval.search(scope, request)
    mark = highlighter(request.question) if request.highlight else None
    chunks = [found_chunk(hit) | ({"highlight": mark(hit.chunk.content)} if mark else {}) for hit in found.hits]
    reply = sdk_result({"total": found.total, "chunks": chunks, "doc_aggs": document_counts(found.hits)})
    reply.headers["Server-Timing"] = server_timing(found.timings_ms)
    return reply


def server_timing(timings_ms: Mapping[str, float]) -> str:
    """The value of a `Server-Timing` header: milliseconds by stage."""
    return ", ".join(f"{stage};dur={taken:.1f}" for stage, taken in timings_ms.items())


async def _scope(principal: Principal, body: dict[str, Any]) -> SearchScope:
    ids = body.get("dataset_ids")
    if not ids:
        raise Refused(DATA_ERROR, "`dataset_ids` is required.")
    if not isinstance(ids, list):
        raise Refused(DATA_ERROR, "`dataset_ids` should be a list")
    try:
        return await services().retrieval.scope(principal, [str(each) for each in ids])
    except NotFound as error:
        raise Refused(DATA_ERROR, f"You don't own the dataset {error.id}.") from error
    except Conflict as error:
        raise Refused(DATA_ERROR, 'Datasets use different embedding models."') from error


async def _documents(principal: Principal, body: dict[str, Any], dataset_ids: tuple[str, ...]) -> tuple[str, ...]:
    ids = body.get("document_ids", [])
    if not isinstance(ids, list):
        raise Refused(DATA_ERROR, "`documents` should be a list")
    if ids:
        named = tuple(str(each) for each in ids)
        outside = await services().documents.first_outside(principal, dataset_ids, named)
        if outside is not None:
            raise Refused(DATA_ERROR, f"The datasets don't own the document {outside}")
        return named
    return await matching_documents(principal, dataset_ids, body.get("metadata_condition"))


def _request(
    body: dict[str, Any], scope: SearchScope, document_ids: tuple[str, ...], *, page: int, size: int
) -> RetrievalRequest:
    threshold = number(body.get("similarity_threshold", 0.2))
    weight = number(body.get("vector_similarity_weight", 0.3))
    top_k = whole_number(body.get("top_k", 1024))
    reranker = str(body.get("rerank_id") or "")
    if reranker and not services().models.exists(reranker, "rerank", scope.tenant_id):
        raise uncaught(repr_texts.failed_lookup(f"Model({_model_and_provider(reranker)}) not authorized"))
    check_bounds(page=page, size=size, top_k=top_k)
    question = body["question"]
    return RetrievalRequest(
        question="" if question is None else str(question)[:LONGEST_QUESTION_CHARS],
        dataset_ids=scope.dataset_ids,
        document_ids=document_ids,
        page=max(page, 1),
        page_size=size,
        similarity_threshold=threshold,
        vector_similarity_weight=weight,
        top_k=min(top_k, _MOST_CANDIDATES),
        highlight=str(body.get("highlight", True)) not in ("False", "false") or isinstance(body.get("highlight"), bool),
        rerank_id=reranker,
    )


def _model_and_provider(name: str) -> str:
    model, _, provider = name.partition("@")
    return f"{model}@{provider or None}"
