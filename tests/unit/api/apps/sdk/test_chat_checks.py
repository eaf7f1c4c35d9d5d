"""Checks of chats that need what no contract row can make: datasets of two embedding models."""

import pytest

from api.db.tables import Dataset
from tests.unit.api.apps.web import Web


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_datasets_of_two_embedding_models_are_refused(site: Web, method: str) -> None:
    ann = await site.person("ann")
    first, _ = await site.dataset(ann, "first")
    second, _ = await site.dataset(ann, "second")

    def write() -> None:
        Dataset.update(chunk_count=1).execute()
        Dataset.update(embedding_model="other@Builtin").where(Dataset.id == second).execute()

    await site.services.db.write(write)
    chat = (await site.call("POST", "/api/v1/chats", ann, json={"name": "x", "dataset_ids": [first]}))["data"]["id"]
    path = "/api/v1/chats" if method == "POST" else f"/api/v1/chats/{chat}"
    body = {"name": "y", "dataset_ids": [first, second], "llm": {"model_name": "unknown"}}
    reply = await site.call(method, path, ann, json=body)
    assert reply == {"code": 109, "message": 'Datasets use different embedding models."'}
    reply = await site.call(method, path, ann, json={"name": "y", "dataset_ids": [second, second]})
    assert reply["code"] == 0
