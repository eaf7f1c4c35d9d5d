"""`/api/v1/datasets/<d>/documents`, and parsing under `/api/v1/datasets/<d>/chunks` (documents.md)."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

from quart import Blueprint, Response, request

from api.apps import repr_texts
from api.apps.auth import api_key_required
from api.apps.body import (
    arg,
    ids_of,
    int_arg,
    order_arg,
    page_args,
    texts,
    tolerant,
    tolerant_object,
    unknown_column,
)
from api.apps.context import services
from api.apps.envelope import Refused, bad_argument, batch_reply, sdk_result, uncaught
from api.apps.openapi import describe
from api.apps.sdk.doc_models import DocumentIds, Ids, ListDocuments, UpdateDocument
from api.apps.sdk.doc_wire import changes_of, document_body, uploaded_body
from api.apps.uploads import Upload, receive_upload, takes_upload
from api.db.services.document_intake import NewFile
from api.db.services.names import MAX_FILE_NAME_BYTES
from api.db.services.records import DocumentQuery, DocumentRecord, Page
from api.errors import DATA_ERROR, SERVER_ERROR
from rag.core.errors import Conflict, InvalidInput, LimitExceeded, NotFound, RagError
from rag.core.types import Principal

bp = Blueprint("document", __name__, url_prefix="/api/v1")
_RUNS = {"0": "UNSTART", "1": "RUNNING", "2": "CANCEL", "3": "DONE", "4": "FAIL"}
_DUPLICATE = "Duplicate document ids: "
_NAME_TOO_LONG = "File name must be 255 bytes or less."


@bp.post("/datasets/<dataset_id>/documents")
@api_key_required
@takes_upload
@describe(tag="documents")
async def upload(principal: Principal, dataset_id: str) -> Response:
    """Upload files (multipart, field `file`, one or more)."""
    async with receive_upload(services().settings.data_dir / "tmp") as sent:
        _check_parts(sent)
        try:
            await services().knowledgebases.get(principal, dataset_id)
        except NotFound as error:
            raise uncaught(repr_texts.failed_lookup(f"Can't find the dataset with ID {dataset_id}!")) from error
        files = [NewFile(name=f.name, staged=f.path, size=f.size, sha256=f.sha256) for f in sent.files]
        outcomes = await services().documents.add_all(
            principal, dataset_id, files, parent_path=sent.fields.get("parent_path", "")
        )
    named = zip(files, outcomes, strict=True)
    failures = [f"{file.name}: {_reason(outcome)}" for file, outcome in named if isinstance(outcome, RagError)]
    if failures:
        raise Refused(SERVER_ERROR, "\n".join(failures))
    return sdk_result([uploaded_body(record) for record in outcomes if isinstance(record, DocumentRecord)])


def _check_parts(sent: Upload) -> None:
    if not sent.files and not sent.nameless:
        raise bad_argument("No file part!")
    if sent.nameless:
        raise bad_argument("No file selected!")
    if any(len(file.name.encode("utf-8", "replace")) > MAX_FILE_NAME_BYTES for file in sent.files):
        raise bad_argument(_NAME_TOO_LONG)


def _reason(error: RagError) -> str:
    if isinstance(error, LimitExceeded) and error.facts.get("field") == "name":
        return "Exceed the maximum length of file name!"
    return error.message


@bp.get("/datasets/<dataset_id>/documents")
@api_key_required
@describe(query=ListDocuments, tag="documents")
async def list_documents(principal: Principal, dataset_id: str) -> Response:
    """List the documents of a dataset."""
    number, size = page_args()
    query = DocumentQuery(
        page=Page(
            number=number,
            size=size,
            order_by=order_arg(),
            descending=arg("desc", "true").strip().lower() != "false",
        ),
        keywords=arg("keywords"),
        id=arg("id"),
        name=arg("name"),
        suffixes=tuple(request.args.getlist("suffix")),
        runs=tuple(_RUNS.get(run, run) for run in request.args.getlist("run")),
        created_from_ms=int_arg("create_time_from", 0, limit=2**62),
        created_to_ms=int_arg("create_time_to", 0, limit=2**62),
    )
    try:
        records, total = await services().documents.list(principal, dataset_id, query)
    except NotFound as error:
        if error.kind == "document":
            raise Refused(DATA_ERROR, f"You don't own the document {error.id}.") from error
        raise _not_yours(dataset_id, " ") from error
    except InvalidInput as error:
        if error.facts.get("field") == "orderby":
            unknown_column("Document")
        if error.facts.get("field") == "name":
            raise Refused(DATA_ERROR, f"You don't own the document {query.name}.") from error
        raise
    return sdk_result({"total": total, "docs": [document_body(record, listed=True) for record in records]})


@bp.put("/datasets/<dataset_id>/documents/<document_id>")
@api_key_required
@describe(request=UpdateDocument, tag="documents")
async def update(principal: Principal, dataset_id: str, document_id: str) -> Response:
    """Change a document; only the keys sent are changed."""
    body = await tolerant_object(null=repr_texts.NULL_NOT_ITERABLE)
    documents = services().documents
    try:
        stored = await documents.get(principal, dataset_id, document_id)
        changes = changes_of(body, stored)
        record = await documents.update(principal, dataset_id, document_id, changes) if changes else stored
    except NotFound as error:
        text = "You don't own the dataset." if error.kind == "dataset" else "The dataset doesn't own the document."
        raise Refused(DATA_ERROR, text) from error
    except LimitExceeded as error:
        raise bad_argument(_NAME_TOO_LONG) from error
    except Conflict as error:
        raise Refused(DATA_ERROR, "Duplicated document name in the same dataset.") from error
    return sdk_result(True if "enabled" in changes else document_body(record))


@bp.get("/datasets/<dataset_id>/documents/<document_id>")
@api_key_required
@describe(tag="documents")
async def download(principal: Principal, dataset_id: str, document_id: str) -> Response:
    """The file itself, always as an attachment."""
    try:
        record, content = await services().documents.open(principal, dataset_id, document_id)
    except NotFound as error:
        if error.kind == "dataset":
            raise Refused(DATA_ERROR, f"You do not own the dataset {dataset_id}.") from error
        raise Refused(DATA_ERROR, f"The dataset not own the document {document_id}.") from error
    if record.size == 0:
        raise Refused(DATA_ERROR, "This file is empty.")
    return await attachment(record, content)


async def attachment(record: DocumentRecord, content: AsyncIterator[bytes]) -> Response:
    """A file that no browser shows or runs in our origin. The first piece is read before the reply begins, so a
    file that cannot be read is still an error reply."""
    first = await anext(content, b"")

    async def pieces() -> AsyncIterator[bytes]:
        yield first
        async for piece in content:
            yield piece

    response = Response(pieces(), content_type="application/octet-stream")
    response.timeout = None  # a large file over a slow line takes longer than any reply
    fallback = record.name.encode("ascii", "replace").decode().replace("\\", "_").replace('"', "_")
    response.headers["Content-Disposition"] = (
        f"attachment; filename=\"{fallback}\"; filename*=UTF-8''{quote(record.name, safe='')}"
    )
    response.headers["Content-Length"] = str(record.size)
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "private, no-store"
    return response


@bp.delete("/datasets/<dataset_id>/documents")
@api_key_required
@describe(request=Ids, tag="documents")
async def delete(principal: Principal, dataset_id: str) -> Response:
    """Delete documents with their chunks; without ids all of the dataset."""
    ids = ids_of(await tolerant(), "ids")
    try:
        result = await services().documents.delete(principal, dataset_id, ids)
    except NotFound as error:
        raise _not_yours(dataset_id, " ") from error
    _all_known(result.unknown)
    return batch_reply(result, duplicate=_DUPLICATE)


@bp.post("/datasets/<dataset_id>/chunks")
@api_key_required
@describe(request=DocumentIds, tag="documents")
async def parse(principal: Principal, dataset_id: str) -> Response:
    """Start parsing documents; watch `run` and `progress` in the list."""
    body = await tolerant_object()
    await _own(principal, dataset_id)
    ids = _document_ids(body)
    try:
        result = await services().documents.parse(principal, dataset_id, ids)
    except Conflict as error:
        text = "Can't parse document that is currently being processed"
        raise Refused(DATA_ERROR, text) from error
    _all_known(result.unknown)
    return batch_reply(result, duplicate=_DUPLICATE)


@bp.delete("/datasets/<dataset_id>/chunks")
@api_key_required
@describe(request=DocumentIds, tag="documents")
async def stop(principal: Principal, dataset_id: str) -> Response:
    """Stop parsing documents; their chunks are removed."""
    body = await tolerant_object()
    await _own(principal, dataset_id)
    ids = _document_ids(body)
    try:
        result = await services().documents.stop(principal, dataset_id, ids)
    except NotFound as error:
        raise Refused(DATA_ERROR, f"You don't own the document {error.id}.") from error
    except Conflict as error:
        raise Refused(DATA_ERROR, "Can't stop parsing document with progress at 0 or 1") from error
    return batch_reply(result, duplicate=_DUPLICATE)


async def _own(principal: Principal, dataset_id: str) -> None:
    try:
        await services().knowledgebases.get(principal, dataset_id)
    except NotFound as error:
        raise _not_yours(dataset_id) from error


def _document_ids(body: dict[str, Any]) -> list[str]:
    ids = body.get("document_ids")
    if not ids:
        raise Refused(DATA_ERROR, "`document_ids` is required")
    return texts(ids, "document_ids")


def _not_yours(dataset_id: str, end: str = "") -> Refused:
    """The contract's text; some routes end it with a blank."""
    return Refused(DATA_ERROR, f"You don't own the dataset {dataset_id}.{end}")


def _all_known(unknown: tuple[str, ...]) -> None:
    if unknown:
        raise Refused(DATA_ERROR, f"Documents not found: {list(unknown)}")
