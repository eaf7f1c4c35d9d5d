"""What OpenAI clients call a model: `chat:<name>` or a chat's id, `dataset:<name>`, and the embedding models."""

from collections.abc import AsyncIterator
from typing import Any, Final

from api.apps.context import services
from api.apps.sdk.chat_wire import DEFAULT_LLM, DEFAULT_PROMPT, DEFAULT_SEARCH
from api.db.services.records import DatasetRecord, DialogRecord, Page
from rag.core.types import Principal

CHAT: Final = "chat:"
DATASET: Final = "dataset:"
_OWNER: Final = "parley"
_PAGE: Final = 200


async def list_models(principal: Principal) -> list[dict[str, Any]]:
    """All models of the principal: chats, then datasets, then embedding models."""
    found = [_model(CHAT + chat.name, chat.create_time) async for chat in _chats(principal)]
    found += [_model(DATASET + each.name, each.create_time) async for each in _datasets(principal)]
    return found + [_model(name, 0) for name in services().models.embedding_models()]


async def find_model(principal: Principal, name: str) -> dict[str, Any]:
    """One model.

    Raises:
        NotFound: no such model.
    """
    if name in services().models.embedding_models():
        return _model(name, 0)
    return _model(name, (await dialog_of(principal, name)).create_time)


async def dialog_of(principal: Principal, name: str) -> DialogRecord:
    """The chat that answers for the model `name`; a dataset answers with the settings of a new chat.

    Raises:
        NotFound: no such chat or dataset.
    """
    if name.startswith(DATASET):
        dataset = await services().knowledgebases.by_name(principal, name.removeprefix(DATASET))
        return _dialog_on(dataset, services().models.default_chat())
    assistants = services().assistants
    if name.startswith(CHAT):
        return await assistants.by_name(principal, name.removeprefix(CHAT))
    return await assistants.get(principal, name)


def _dialog_on(dataset: DatasetRecord, chat_model: str) -> DialogRecord:
    return DialogRecord(
        id="",
        tenant_id=dataset.tenant_id,
        name=dataset.name,
        description=dataset.description or "",
        icon="",
        language=dataset.language,
        llm_id=chat_model,
        llm_setting=dict(DEFAULT_LLM),
        prompt_type="simple",
        prompt_config=dict(DEFAULT_PROMPT),
        meta_data_filter={},
        do_refer="1",
        dataset_ids=(dataset.id,),
        status="1",
        create_time=dataset.create_time,
        update_time=dataset.update_time,
        **DEFAULT_SEARCH,
    )


def _model(name: str, created_ms: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created_ms // 1000, "owned_by": _OWNER}


async def _chats(principal: Principal) -> AsyncIterator[DialogRecord]:
    number = 1
    while chats := await services().assistants.list(principal, Page(number=number, size=_PAGE)):
        for chat in chats:
            yield chat
        number += 1


async def _datasets(principal: Principal) -> AsyncIterator[DatasetRecord]:
    number = 1
    while datasets := (await services().knowledgebases.list(principal, Page(number=number, size=_PAGE)))[0]:
        for dataset in datasets:
            yield dataset
        number += 1
