"""`/api/v1/datasets` (datasets.md): the order of checks, codes and texts are the contract's."""

from typing import Any

from quart import Blueprint, Response, request

from api.apps.auth import api_key_required
from api.apps.body import LARGEST, validated
from api.apps.context import services
from api.apps.envelope import Refused, bad_argument, sdk_result, times
from api.apps.openapi import describe
from api.apps.sdk.dataset_models import (
    CreateDataset,
    DeleteDatasets,
    ListDatasets,
    UpdateDataset,
    validate,
)
from api.db.services.parser_configs import deep_merge, filled_parser_config
from api.db.services.records import DatasetRecord, Page
from api.errors import DATA_ERROR, NO_PERMISSION
from rag.core.errors import Conflict, NotFound
from rag.core.types import Principal

bp = Blueprint("dataset", __name__, url_prefix="/api/v1")
_LONGEST_NAME_BYTES = 128


@bp.post("/datasets")
@api_key_required
@describe(request=CreateDataset, tag="datasets")
async def create(principal: Principal) -> Response:
    """Create a dataset."""
    sent = validate(CreateDataset, await validated())
    _check_name_bytes(sent.name)
    if sent.embedding_model is not None:
        check_model(principal, sent.embedding_model)
    config = sent.parser_config.model_dump(exclude_unset=True) if sent.parser_config else None
    config = filled_parser_config(sent.chunk_method, config)
    record = await services().knowledgebases.create(
        principal,
        name=sent.name,
        avatar=sent.avatar,
        description=sent.description,
        embedding_model=sent.embedding_model,
        permission=sent.permission,
        chunk_method=sent.chunk_method,
        parser_config=config,
    )
    return sdk_result(dataset_body(record))


@bp.get("/datasets")
@api_key_required
@describe(query=ListDatasets, tag="datasets")
async def list_datasets(principal: Principal) -> Response:
    """List the caller's datasets."""
    sent = validate(ListDatasets, request.args.to_dict())
    page = Page(
        number=min(sent.page, LARGEST),
        size=min(sent.page_size, LARGEST),
        order_by=sent.orderby,
        descending=sent.desc,
    )
    knowledgebases = services().knowledgebases
    try:
        if sent.id:
            await knowledgebases.get(principal, sent.id)
        if sent.name:
            await knowledgebases.by_name(principal, sent.name)
    except NotFound as error:
        raise _no_permission(principal, error.id) from error
    records, total = await knowledgebases.list(principal, page, id=sent.id or "", name=sent.name or "")
    return sdk_result([dataset_body(record) for record in records], total_datasets=total)


@bp.put("/datasets/<dataset_id>")
@api_key_required
@describe(request=UpdateDataset, tag="datasets")
async def update(principal: Principal, dataset_id: str) -> Response:
    """Change a dataset; only the keys sent are changed."""
    body = await validated()
    sent = validate(UpdateDataset, body | {"dataset_id": dataset_id})
    fields = sent.model_fields_set - {"dataset_id"}
    if not fields:
        raise bad_argument("No properties were modified")
    knowledgebases = services().knowledgebases
    try:
        stored = await knowledgebases.get(principal, dataset_id)
        record = await knowledgebases.update(principal, dataset_id, _changes(sent, fields, stored, principal=principal))
    except NotFound as error:
        raise _no_permission(principal, dataset_id) from error
    except Conflict as error:
        raise Refused(DATA_ERROR, _conflict_text(error, sent, stored)) from error
    return sdk_result(dataset_body(record))


@bp.delete("/datasets")
@api_key_required
@describe(request=DeleteDatasets, tag="datasets")
async def delete(principal: Principal) -> Response:
    """Delete datasets with everything in them; `ids: null` deletes all of the caller's."""
    sent = validate(DeleteDatasets, await validated())
    ids = sent.plain_ids()
    if ids == []:
        return sdk_result()
    try:
        await services().knowledgebases.delete(principal, ids)
    except NotFound as error:
        foreign = ", ".join(error.facts.get("ids") or (error.id,))
        text = f"User '{principal.tenant_id}' lacks permission for datasets: '{foreign}'"
        raise Refused(NO_PERMISSION, text) from error
    return sdk_result()


def check_model(principal: Principal, name: str) -> None:
    """Refuse an embedding model nobody here offers (101)."""
    if not services().models.exists(name, "embedding", principal.tenant_id):
        raise bad_argument(f"Unsupported model: <{name}>")


def dataset_body(record: DatasetRecord) -> dict[str, Any]:
    """The dataset object (datasets.md section 1), exactly these keys."""
    return {
        "id": record.id,
        "tenant_id": record.tenant_id,
        "created_by": record.created_by,
        "name": record.name,
        "avatar": record.avatar,
        "description": record.description,
        "language": record.language,
        "embedding_model": record.embedding_model,
        "permission": record.permission,
        "document_count": record.document_count,
        "chunk_count": record.chunk_count,
        "token_num": record.token_count,
        "similarity_threshold": record.similarity_threshold,
        "vector_similarity_weight": record.vector_similarity_weight,
        "chunk_method": record.chunk_method,
        "parser_config": record.parser_config,
        "pipeline_id": None,
        "pagerank": record.pagerank,
        "graphrag_task_id": None,
        "raptor_task_id": None,
        "mindmap_task_id": None,
        "graphrag_task_finish_at": None,
        "raptor_task_finish_at": None,
        "mindmap_task_finish_at": None,
        "status": "1",
        **times(record.create_time, record.update_time),
    }


def _changes(sent: UpdateDataset, fields: set[str], stored: DatasetRecord, *, principal: Principal) -> dict[str, Any]:
    changes: dict[str, Any] = {name: getattr(sent, name) for name in fields - {"parser_config"}}
    if "name" in changes:
        _check_name_bytes(sent.name)
    if "embedding_model" in changes and changes["embedding_model"] is None:
        del changes["embedding_model"]
    model = changes.get("embedding_model")
    if model is not None and model != stored.embedding_model:
        if stored.chunk_count:
            raise Refused(DATA_ERROR, _model_text(stored))
        check_model(principal, model)
    if sent.parser_config is not None:
        config = sent.parser_config.model_dump(exclude_unset=True)
        if config:
            changes["parser_config"] = deep_merge(stored.parser_config, config)
    return changes


def _check_name_bytes(name: str) -> None:
    if len(name.encode()) > _LONGEST_NAME_BYTES:
        raise Refused(DATA_ERROR, f"Dataset name length is {len(name)} which is larger than 128")


def _conflict_text(error: Conflict, sent: UpdateDataset, stored: DatasetRecord) -> str:
    field = error.facts.get("field")
    if field == "name":
        return f"Dataset name '{sent.name}' already exists"
    if field == "embedding_model":
        return _model_text(stored)
    return error.message


def _model_text(stored: DatasetRecord) -> str:
    model, count = stored.embedding_model, stored.chunk_count
    return f"When chunk_num ({count}) > 0, embedding_model must remain {model}"


def _no_permission(principal: Principal, what: str) -> Refused:
    return Refused(NO_PERMISSION, f"User '{principal.tenant_id}' lacks permission for dataset '{what}'")
