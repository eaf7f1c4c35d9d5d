"""`/v1/dialog` (web.md section 6): the chats of the page. The order of checks is the contract's."""

from collections.abc import Iterable
from typing import Any, Final

from quart import Blueprint, Response, request

from api.apps import repr_texts
from api.apps.ask_wire import own_datasets
from api.apps.auth import login_required, marked
from api.apps.body import LARGEST, arg, int_arg, order_arg, raw_object, required, texts, unknown_column
from api.apps.context import services
from api.apps.dialog_models import DialogIds, NextQuery, OneDialog, Owners, SetDialog
from api.apps.dialog_wire import (
    LONGEST_NAME,
    check_prompt,
    datasets_of,
    empty_name,
    fields_of_create,
    fields_of_update,
    long_name,
    made_wire,
    name_of,
    named_row,
)
from api.apps.envelope import Refused, json_result, uncaught
from api.apps.openapi import describe
from api.db.services.records import DialogRecord, Page
from api.errors import DATA_ERROR, OPERATING_ERROR
from rag.core.errors import InvalidInput, LimitExceeded, NotFound
from rag.core.types import Principal

bp = Blueprint("dialog", __name__, url_prefix="/v1/dialog")

NOT_THE_OWNER: Final = "Only owner of dialog authorized for this operation."
_NAME: Final = "New Dialog"


@bp.post("/set")
@marked("login")
@describe(request=SetDialog, tag="page")
async def set_dialog() -> Response:
    """Make a chat, or change the one that `dialog_id` names."""
    # The contract looks for this key before it looks at the login.
    body = await required("prompt_config")
    reply: Response = await _set(body)
    return reply


@login_required
async def _set(principal: Principal, body: dict[str, Any]) -> Response:
    name = name_of(body, _NAME)
    try:
        if body.get("dialog_id"):
            return await _change(principal, body, name)
        return await _make(principal, body, name)
    except (InvalidInput, LimitExceeded) as error:
        raise _unusable(error, name) from error


async def _make(principal: Principal, body: dict[str, Any], name: str) -> Response:
    fields = fields_of_create(body) | {"name": name, "dataset_ids": await _datasets(principal, datasets_of(body))}
    return json_result(made_wire(await services().assistants.create(principal, fields, as_page=True)))


async def _change(principal: Principal, body: dict[str, Any], name: str) -> Response:
    stored = await _own(principal, str(body["dialog_id"]))
    changes = fields_of_update(body, stored)
    if "name" in body:
        changes["name"] = name
    if "kb_ids" in body:
        changes["dataset_ids"] = await _datasets(principal, datasets_of(body))
    prompt = changes.get("prompt_config", stored.prompt_config)
    check_prompt(prompt, changes.get("dataset_ids", stored.dataset_ids))
    chat = await services().assistants.update(principal, stored.id, changes, as_page=True)
    return json_result(named_row(chat, await _names(principal, [chat])))


@bp.get("/get")
@login_required
@describe(query=OneDialog, tag="page")
async def get_dialog(principal: Principal) -> Response:
    """A chat."""
    chat = await _own(principal, request.args["dialog_id"])
    return json_result(named_row(chat, await _names(principal, [chat])))


@bp.get("/list")
@login_required
@describe(tag="page")
async def list_dialogs(principal: Principal) -> Response:
    """All chats, the newest first."""
    chats, _ = await services().assistants.search(principal, Page(size=LARGEST))
    return json_result(await _rows(principal, chats))


@bp.post("/next")
@login_required
@describe(request=Owners, query=NextQuery, tag="page")
async def next_dialogs(principal: Principal) -> Response:
    """Chats by page, order and words of their name."""
    page = _page()
    owners = texts((await raw_object()).get("owner_ids") or [], "owner_ids")
    if owners and principal.tenant_id not in owners:
        return json_result({"dialogs": [], "total": 0})
    try:
        chats, total = await services().assistants.search(principal, page, arg("keywords"))
    except InvalidInput:
        unknown_column("Dialog")
    return json_result({"dialogs": await _rows(principal, chats), "total": total})


def _page() -> Page:
    """Everything, unless page and size are both given."""
    number, size = int_arg("page", 0), int_arg("page_size", 0)
    if number < 0 or size < 0:
        raise uncaught(repr_texts.NEGATIVE_PAGE)
    number, size = (number, size) if number and size else (1, LARGEST)
    descending = arg("desc", "true").lower() != "false"
    return Page(number=number, size=size, order_by=order_arg(), descending=descending)


@bp.post("/rm")
@login_required
@describe(request=DialogIds, tag="page")
async def delete_dialogs(principal: Principal) -> Response:
    """Delete chats, all of them or none."""
    ids = (await required("dialog_ids"))["dialog_ids"]
    if not isinstance(ids, Iterable):
        raise uncaught(repr_texts.not_iterable(ids))
    try:
        await services().assistants.delete_together(principal, [str(each) for each in ids])
    except NotFound as error:
        raise Refused(OPERATING_ERROR, NOT_THE_OWNER, data=False) from error
    return json_result(True)


async def _own(principal: Principal, dialog_id: str) -> DialogRecord:
    try:
        return await services().assistants.get(principal, dialog_id)
    except NotFound as error:
        raise Refused(DATA_ERROR, "Dialog not found!") from error


async def _datasets(principal: Principal, ids: list[str]) -> tuple[str, ...]:
    """The datasets of a body, each one the principal's, and all of one embedding model."""
    datasets = await own_datasets(principal, ids)
    models = [each.embedding_model for each in datasets]
    if len(set(models)) > 1:
        raise Refused(DATA_ERROR, f'Datasets use different embedding models: {models}"')
    return tuple(ids)


async def _rows(principal: Principal, chats: list[DialogRecord]) -> list[dict[str, Any]]:
    names = await _names(principal, chats)
    return [named_row(chat, names) for chat in chats]


async def _names(principal: Principal, chats: Iterable[DialogRecord]) -> dict[str, str]:
    """The names of all datasets of these chats that are still there, by id."""
    found: dict[str, str] = {}
    for dataset_id in dict.fromkeys(each for chat in chats for each in chat.dataset_ids):
        try:
            found[dataset_id] = (await services().knowledgebases.get(principal, dataset_id)).name
        except NotFound:
            continue
    return found


def _unusable(error: InvalidInput | LimitExceeded, name: str) -> Refused:
    """What is left of a name may be nothing once control characters are taken out, or too long with its number."""
    if error.facts.get("field") != "name":
        return Refused(DATA_ERROR, error.message)
    return empty_name() if isinstance(error, InvalidInput) else long_name(max(len(name), LONGEST_NAME + 1))
