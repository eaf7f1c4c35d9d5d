import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from api.db.services.model_catalogue import ModelCatalogue
from api.worker_models import WorkerModels
from rag.core.errors import Unsupported
from rag.core.settings import load_settings
from rag.ingest.grouping import EmbedGroup
from rag.store.base import Place
from rag.testing.hash_embedder import HashEmbedder
from rag.testing.models import FixedModels


def job(name: str, tenant_id: str = "ann", dim: int = 16) -> Any:
    return SimpleNamespace(embedding_model=name, tenant_id=tenant_id, place=Place(name="t_ann_g1", dim=dim))


@pytest.fixture
def local() -> EmbedGroup:
    return EmbedGroup(HashEmbedder(name="minilm@Builtin", dim=8), lanes=1)


@pytest.fixture
def models(local: EmbedGroup) -> WorkerModels:
    source = FixedModels(embedders=[HashEmbedder(name="vectors@Acme", dim=16)])
    return WorkerModels(ModelCatalogue(load_settings(environ={}), source), local)


async def test_the_built_in_model_is_the_local_one(models: WorkerModels, local: EmbedGroup) -> None:
    assert models.of_job(job("minilm@Builtin", dim=8)) is local
    assert models.of_job(job("minilm", dim=8)) is local
    assert (await models.embed("minilm", ["a"], "ann")).shape == (1, 8)


async def test_documents_of_a_tenant_share_a_group(models: WorkerModels) -> None:
    group = models.of_job(job("vectors@Acme"))
    assert models.of_job(job("vectors@Acme")) is group
    assert models.of_job(job("vectors@Acme", "bob")) is not group
    async with asyncio.timeout(5):
        assert (await group.encode(["a", "b"])).shape == (2, 16)
        assert (await models.embed("vectors@Acme", ["a"], "ann")).shape == (1, 16)


async def test_a_model_that_is_gone_is_unsupported(models: WorkerModels) -> None:
    with pytest.raises(Unsupported, match="gone@Acme"):
        models.of_job(job("gone@Acme"))
    with pytest.raises(Unsupported, match="gone@Acme"):
        await models.embed("gone@Acme", ["a"], "ann")


async def test_groups_are_bounded(models: WorkerModels) -> None:
    for number in range(200):
        models.of_job(job("vectors@Acme", f"tenant{number}"))
    assert len(models._groups) == 64
