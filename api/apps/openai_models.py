"""What OpenAI clients call a model: `chat:<name>` or a chat's id, `dataset:<name>`, and the embedding models."""

from collections.abc import AsyncIterator
from typing import Any, Final

from api.apps.context import services
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
    return found + [_model(name, 0) for name in services().models.embedding_models(principal.tenant_id)]


async def find_model(principal: Principal, name: str) -> dict[str, Any]:
    """One model.

    Raises:
        NotFound: no such model.
    """
    if name in services().models.embedding_models(principal.tenant_id):
        return _model(name, 0)
    return _model(name, (await answering(principal, name)).create_time)


async def answering(principal: Principal, name: str) -> DialogRecord | DatasetRecord:
    """The chat or the dataset that answers for the model `name`.

    Raises:
        NotFound: no such chat or dataset.
    """
    if name.startswith(DATASET):
        return await services().knowledgebases.by_name(principal, name.removeprefix(DATASET))
    assistants = services().assistants
    if name.startswith(CHAT):
        return await assistants.by_name(principal, name.removeprefix(CHAT))
    return await assistants.get(principal, name)


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
