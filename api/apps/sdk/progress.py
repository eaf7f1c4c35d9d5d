"""`POST /api/v1/datasets/<d>/progress`: our own view of ingestion, for progress bars.

The contract's document list tells state, share and messages; this adds the stage, pages and chunks.
"""

from typing import Any

from quart import Blueprint, Response

from api.apps.auth import api_key_required
from api.apps.body import texts, tolerant_object
from api.apps.context import services
from api.apps.envelope import Refused, bad_argument, sdk_result
from api.db.services.records import DocumentQuery, DocumentRecord, Page
from api.errors import DATA_ERROR
from rag.core.errors import NotFound
from rag.core.types import Principal

bp = Blueprint("progress", __name__)
MOST = 200


@bp.post("/api/v1/datasets/<dataset_id>/progress")
@api_key_required
async def progress(principal: Principal, dataset_id: str) -> Response:
    """Where documents are: `{"document_ids": [...]}` (at most 200) in, a list in the same order out.

    Ids that are unknown or deleted are left out.
    """
    body = await tolerant_object()
    ids = tuple(dict.fromkeys(texts(body.get("document_ids"), "document_ids")))
    if not ids or len(ids) > MOST:
        raise bad_argument(f"`document_ids` takes 1 to {MOST} ids")
    query = DocumentQuery(page=Page(size=MOST), ids=ids)
    try:
        documents, _ = await services().documents.list(principal, dataset_id, query)
    except NotFound as error:
        raise Refused(DATA_ERROR, f"You don't own the dataset {dataset_id}.") from error
    found = {document.id: document for document in documents}
    return sdk_result([_wire(found[i]) for i in ids if i in found])


def _wire(document: DocumentRecord) -> dict[str, Any]:
    return {
        "document_id": document.id,
        "name": document.name,
        "run": document.run,
        "progress": document.progress,
        "message": document.progress_msg,
        "stage": document.stage,
        "pages_done": document.pages_done,
        "pages_total": document.pages_total,
        "chunk_count": document.chunk_count or document.chunks_done,
    }
