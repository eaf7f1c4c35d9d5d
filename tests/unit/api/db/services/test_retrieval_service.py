from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from api.db.services.records import RetrievalRequest
from api.db.services.retrieval_service import SCOPE_S, RetrievalService
from api.db.tables import Dataset, DocumentVersion
from rag.core.errors import Conflict, InvalidInput, NotFound
from rag.core.types import Retrieved
from rag.llm.base import Embedded
from tests.unit.api.db.services.world import ANN, BOB, World


class Retriever:
    """Keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def retrieve(self, place: Any, **options: Any) -> Retrieved:
        self.asked.append({"place": place.name, **options})
        return Retrieved(hits=(), total=0)


class Embedder:
    dim = 384

    async def encode_query(self, text: str) -> Embedded:
        return Embedded(vectors=np.zeros((1, 384), dtype=np.float32), tokens=1)


class Models:
    def __init__(self) -> None:
        self.keys: list[str] = []

    def bundle_embed(
        self, name: str = "", *, tenant_id: str = "", purpose: str = "embed", key_id: str = ""
    ) -> Embedder:
        self.keys.append(key_id)
        return Embedder()

    async def measure(self, embedding_model: str, tenant_id: str = "") -> int:
        return Embedder.dim


@pytest.fixture
def retriever() -> Retriever:
    return Retriever()


@pytest.fixture
def retrieval(world: World, retriever: Retriever) -> RetrievalService:
    return RetrievalService(world.db, retriever, Models(), world.clock)  # type: ignore[arg-type]  # a fake


def request(*dataset_ids: str, documents: tuple[str, ...] = ()) -> RetrievalRequest:
    return RetrievalRequest(question="cash", dataset_ids=dataset_ids, document_ids=documents)


async def test_only_own_datasets_and_their_documents_are_searched(world: World, retrieval: RetrievalService) -> None:
    mine, other = await world.dataset(), await world.dataset(BOB)
    document, _ = await world.parsed(mine, "a.pdf", ["cash"])
    with pytest.raises(NotFound) as error:
        await retrieval.retrieve(ANN, request(mine.id, other.id))
    assert (error.value.kind, error.value.id) == ("dataset", other.id)
    with pytest.raises(NotFound) as error:
        await retrieval.retrieve(ANN, request(mine.id, documents=(document.id, "else")))
    assert (error.value.kind, error.value.id) == ("document", "else")
    with pytest.raises(InvalidInput):
        await retrieval.retrieve(ANN, request())
    await retrieval.retrieve(ANN, request(mine.id, mine.id, documents=(document.id,)))


async def test_datasets_of_two_places_are_not_searched_together(world: World, retrieval: RetrievalService) -> None:
    one, two = await world.dataset(), await world.dataset()
    await world.db.write(lambda: Dataset.update(place="t_ann_g9").where(Dataset.id == two.id).execute())
    with pytest.raises(Conflict):
        await retrieval.scope(ANN, [one.id, two.id])


async def test_a_scope_that_has_waited_is_read_again(
    world: World, retrieval: RetrievalService, retriever: Retriever
) -> None:
    dataset = await world.dataset()
    scope = await retrieval.scope(ANN, [dataset.id])
    times = {"create_time": 1, "update_time": 1}
    row = {"id": "v1", "document_id": "d", "dataset_id": dataset.id, "place": scope.place, "state": "writing"}
    await world.db.write(lambda: DocumentVersion.create(**row, **times))
    await retrieval.search(scope, request(dataset.id))
    world.clock.pass_s(SCOPE_S + 1)
    await retrieval.search(scope, request(dataset.id))
    assert [asked["without_versions"] for asked in retriever.asked] == [(), ("v1",)]
    await world.db.write(lambda: Dataset.delete().where(Dataset.id == dataset.id).execute())
    world.clock.pass_s(SCOPE_S + 1)
    with pytest.raises(NotFound):
        await retrieval.search(scope, request(dataset.id))


async def test_the_key_that_asks_pays_for_the_question(world: World, retriever: Retriever) -> None:
    models = Models()
    retrieval = RetrievalService(world.db, retriever, models, world.clock)  # type: ignore[arg-type]  # a fake
    dataset = await world.dataset()
    scope = await retrieval.scope(replace(ANN, key_id="k1"), [dataset.id])
    await retrieval.search(scope, request(dataset.id))
    world.clock.pass_s(SCOPE_S + 1)
    await retrieval.search(scope, request(dataset.id))
    assert models.keys == ["k1", "k1"]
