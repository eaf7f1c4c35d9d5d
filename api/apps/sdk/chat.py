"""`/api/v1/chats`: chat assistants (chats.md). The order of checks is the contract's; texts stand beside them."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from quart import Blueprint, Response

from api.apps import repr_texts
from api.apps.auth import api_key_required
from api.apps.body import arg, ids_of, tolerant, tolerant_object, unknown_column
from api.apps.context import services
from api.apps.envelope import Refused, sdk_result, uncaught
from api.apps.openapi import describe
from api.apps.sdk.chat_models import ChatFields, ListQuery
from api.apps.sdk.chat_wire import (
    chat_wire,
    check_name,
    check_variables,
    columns_of_create,
    columns_of_update,
    dataset_row_wire,
    llm_of,
    prompt_config,
    prompt_of,
    search_settings,
    with_defaults,
)
from api.apps.sdk.doc_models import Ids
from api.apps.sdk.lists import deleted, page_of_request, refused
from api.db.services.records import DatasetRecord, DialogRecord, Page
from api.errors import EXCEPTION, NOT_AUTHENTICATED
from rag.core.errors import Conflict, InvalidInput, NotFound
from rag.core.types import Principal

bp = Blueprint("chats", __name__)

_RERANKERS: Final = ("BAAI/bge-reranker-v2-m3", "maidalun1020/bce-reranker-base_v1")


@bp.post("/api/v1/chats")
@api_key_required
@describe(request=ChatFields, tag="chats")
async def create_chat(principal: Principal) -> Response:
    """Create a chat assistant."""
    body = await tolerant_object()
    dataset_ids = await _checked_datasets(principal, body.get("dataset_ids", []))
    llm, prompt = llm_of(body), prompt_of(body)
    _check_models(principal, llm, prompt)
    fields = columns_of_create(body) | {"dataset_ids": tuple(dataset_ids)}
    if not body.get("name"):
        raise refused("`name` is required.")
    fields["name"] = check_name(body["name"])
    if await _name_taken(principal, fields["name"]):
        raise refused("Duplicated chat name in creating chat.")
    if "tenant_id" in body:
        raise refused("`tenant_id` must not be provided.")
    fields |= search_settings(prompt)
    fields["prompt_config"] = with_defaults(prompt_config(prompt))
    check_variables(fields["prompt_config"])
    if llm:
        # The settings of a sent `llm` are kept exactly, without defaults for those it leaves out (a quirk).
        fields["llm_setting"] = {key: value for key, value in llm.items() if key != "model_name"}
        fields["llm_id"] = llm.get("model_name")
    try:
        chat = await services().assistants.create(principal, fields)
    except Conflict as error:
        raise refused("Duplicated chat name in creating chat.") from error
    except InvalidInput as error:
        raise refused(_unusable(error, "`name` is required.")) from error
    return sdk_result(chat_wire(chat) | {"dataset_ids": body.get("dataset_ids", [])})


@bp.put("/api/v1/chats/<chat_id>")
@api_key_required
@describe(request=ChatFields, tag="chats")
async def update_chat(principal: Principal, chat_id: str) -> Response:
    """Change a chat assistant."""
    try:
        stored = await services().assistants.get(principal, chat_id)
    except NotFound as error:
        raise refused("You do not own the chat") from error
    body = await tolerant_object()
    if "show_quotation" in body:
        body["do_refer"] = body.pop("show_quotation")
    changes = await _changes(principal, body, stored)
    try:
        await services().assistants.update(principal, chat_id, changes)
    except NotFound as error:
        raise refused("Chat not found!") from error
    except Conflict as error:
        raise refused("Duplicated chat name in updating chat.") from error
    except InvalidInput as error:
        raise refused(_unusable(error, "`name` cannot be empty.")) from error
    return sdk_result()


async def _changes(principal: Principal, body: dict[str, Any], stored: DialogRecord) -> dict[str, Any]:
    # An update without datasets detaches them all (a quirk that clients of the original count on).
    dataset_ids = await _checked_datasets(principal, body.get("dataset_ids") or [])
    llm, prompt = llm_of(body), prompt_of(body)
    _check_models(principal, llm, prompt)
    if "name" in body:
        if not body["name"]:
            raise refused("`name` cannot be empty.")
        name = check_name(body["name"])
        if name.casefold() != stored.name.casefold() and await _name_taken(principal, name):
            raise refused("Duplicated chat name in updating chat.")
    changes = {"dataset_ids": tuple(dataset_ids)} | search_settings(prompt)
    if prompt:
        changes["prompt_config"] = stored.prompt_config | prompt_config(prompt)
        check_variables(changes["prompt_config"])
    changes |= columns_of_update(body, stored)
    if llm:
        if "model_name" in llm:
            if llm["model_name"] is None:
                text, data = repr_texts.NULL_MODEL
                raise Refused(EXCEPTION, text, data=data)
            changes["llm_id"] = llm["model_name"]
        changes["llm_setting"] = stored.llm_setting | {k: v for k, v in llm.items() if k != "model_name"}
    return changes


def _unusable(error: InvalidInput, name_text: str) -> str:
    """What is left of a name may be nothing once control characters are taken out."""
    return name_text if error.facts.get("field") == "name" else error.message


async def _checked_datasets(principal: Principal, value: Any) -> list[str]:
    """The datasets of a body, each one the principal's, parsed, and all of one embedding model."""
    if not isinstance(value, Iterable):
        raise uncaught(repr_texts.not_iterable(value))
    wanted = [item for item in value if item]
    models = set()
    for dataset_id in dict.fromkeys(str(item) for item in wanted):
        try:
            dataset = await services().knowledgebases.get(principal, dataset_id)
        except NotFound as error:
            raise refused(f"You don't own the dataset {dataset_id}") from error
        if dataset.chunk_count == 0:
            raise refused(f"The dataset {dataset_id} doesn't own parsed file")
        models.add(dataset.embedding_model)
    if len(models) > 1:
        raise Refused(NOT_AUTHENTICATED, 'Datasets use different embedding models."')
    return [str(item) for item in wanted]


def _check_models(principal: Principal, llm: Mapping[str, Any], prompt: Mapping[str, Any]) -> None:
    models = services().models
    name = llm.get("model_name")
    if name is not None and not (isinstance(name, str) and models.exists(name, "chat", principal.tenant_id)):
        raise refused(f"`model_name` {name} doesn't exist")
    reranker = prompt.get("rerank_model")
    if reranker and reranker not in _RERANKERS and not models.exists(str(reranker), "rerank", principal.tenant_id):
        raise refused(f"`rerank_model` {reranker} doesn't exist")


async def _name_taken(principal: Principal, name: str) -> bool:
    try:
        await services().assistants.by_name(principal, name)
    except NotFound:
        return False
    return True


@bp.get("/api/v1/chats")
@api_key_required
@describe(query=ListQuery, tag="chats")
async def list_chats(principal: Principal) -> Response:
    """List chat assistants."""
    wanted_id, wanted_name = arg("id"), arg("name")
    assistants = services().assistants
    try:
        chats = await assistants.list(principal, page_of_request(), id=wanted_id, name=wanted_name)
        if not chats and (wanted_id or wanted_name):
            first = Page(number=1, size=1)
            if not await assistants.list(principal, first, id=wanted_id, name=wanted_name):
                raise refused("The chat doesn't exist")
    except InvalidInput:
        unknown_column("Dialog")
    datasets = await _datasets_of(principal, chats)
    return sdk_result([_listed(chat, datasets) for chat in chats])


def _listed(chat: DialogRecord, datasets: Mapping[str, DatasetRecord]) -> dict[str, Any]:
    rows = [dataset_row_wire(datasets[each]) for each in chat.dataset_ids if each in datasets]
    return chat_wire(chat) | {"datasets": rows, "top_k": chat.top_k}


async def _datasets_of(principal: Principal, chats: Iterable[DialogRecord]) -> dict[str, DatasetRecord]:
    """The datasets of all these chats by id, without those that were deleted."""
    found: dict[str, DatasetRecord] = {}
    for dataset_id in dict.fromkeys(each for chat in chats for each in chat.dataset_ids):
        try:
            found[dataset_id] = await services().knowledgebases.get(principal, dataset_id)
        except NotFound:
            continue
    return found


@bp.delete("/api/v1/chats")
@api_key_required
@describe(request=Ids, tag="chats")
async def delete_chats(principal: Principal) -> Response:
    """Delete chat assistants; without ids, all of them."""
    ids = ids_of(await tolerant(), "ids")
    result = await services().assistants.delete(principal, ids)
    return deleted(
        result,
        unknown=lambda each: f"Assistant({each}) not found.",
        duplicate=lambda each: f"Duplicate assistant ids: {each}",
    )
