"""`/api/v1/datasets/<d>/documents/<doc>/chunks` (chunks.md): list and get."""

from quart import Blueprint, Response

from api.apps import repr_texts
from api.apps.auth import api_key_required
from api.apps.body import arg, int_arg
from api.apps.context import services
from api.apps.envelope import Refused, sdk_result, uncaught
from api.apps.openapi import describe
from api.apps.sdk.chunk_wire import chunk_list
from api.apps.sdk.doc_models import ListChunks
from api.db.services.records import Page
from api.errors import DATA_ERROR, NOT_FOUND
from rag.core.errors import NotFound
from rag.core.types import Principal

bp = Blueprint("chunk", __name__, url_prefix="/api/v1")
_ENGINE_DEFAULT = 10
"""What the contract's search engine gives for a page of size 0."""


@bp.get("/datasets/<dataset_id>/documents/<document_id>/chunks")
@api_key_required
@describe(query=ListChunks, tag="chunks")
async def list_chunks(principal: Principal, dataset_id: str, document_id: str) -> Response:
    """List the chunks of a document, or get one with `id`."""
    chunk_id = arg("id")
    page = Page() if chunk_id else _page()
    try:
        found = await services().chunks.list(
            principal, dataset_id, document_id, page, keywords=arg("keywords"), chunk_id=chunk_id
        )
    except NotFound as error:
        if error.kind == "chunk":
            raise Refused(NOT_FOUND, f"Chunk not found: {dataset_id}/{chunk_id}") from error
        what = dataset_id if error.kind == "dataset" else document_id
        raise Refused(DATA_ERROR, f"You don't own the {error.kind} {what}.") from error
    return sdk_result(chunk_list(found))


def _page() -> Page:
    number, size = int_arg("page", 1), int_arg("page_size", 30)
    if number < 1 or size < 0:
        raise uncaught(repr_texts.NEGATIVE_SLICE)
    return Page(number=number, size=size or _ENGINE_DEFAULT)
