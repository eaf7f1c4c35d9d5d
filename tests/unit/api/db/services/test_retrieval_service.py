import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from api.db.services.records import RetrievalRequest
from api.db.services.retrieval_service import SCOPE_S, SEARCHES_AT_ONCE, RetrievalService
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
        await options["embed"](options["question"])
        return Retrieved(hits=(), total=0)


class Embedder:
    """Answers when `gate` opens. `waiting` counts calls that have not been answered."""

    dim = 384

    def __init__(self, *, local: bool = False) -> None:
        self.name = "m"
        self.local = local
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0

    async def encode_query(self, text: str) -> Embedded:
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        return Embedded(vectors=np.zeros((1, 384), dtype=np.float32), tokens=1)


class Models:
    """One model for all; `own` has the models of tenants, `measured` opens when their lengths are told."""

    def __init__(self, **own: Embedder) -> None:
        self.keys: list[str] = []
        self.names: list[str] = []
        self.own = own
        self.measured = asyncio.Event()
        self.measured.set()

    def embedder(self, name: str, tenant_id: str = "") -> Embedder:
        return self.own.get(tenant_id) or Embedder()

    def bundle_embed(
        self, name: str = "", *, tenant_id: str = "", purpose: str = "embed", key_id: str = ""
    ) -> Embedder:
        self.keys.append(key_id)
        self.names.append(name)
        return self.embedder(name, tenant_id)

    async def measure(self, embedding_model: str, tenant_id: str = "") -> int:
        if tenant_id in self.own:
            self.own[tenant_id].waiting += 1
            await self.measured.wait()
            self.own[tenant_id].waiting -= 1
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


@pytest.mark.parametrize("step", ["measure", "embed"])
async def test_who_waits_for_a_model_elsewhere_keeps_nobody_from_searching(
    world: World, retriever: Retriever, step: str
) -> None:
    slow = Embedder()
    models = Models(**{ANN.tenant_id: slow})
    gate = slow.gate if step == "embed" else models.measured
    gate.clear()
    retrieval = RetrievalService(world.db, retriever, models, world.clock)  # type: ignore[arg-type]  # a fake
    mine, other = await world.dataset(), await world.dataset(BOB)
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(retrieval.retrieve(ANN, request(mine.id))) for _ in range(SEARCHES_AT_ONCE + 1)]
        async with asyncio.timeout(5):
            while slow.waiting < (SEARCHES_AT_ONCE if step == "measure" else 1):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            await retrieval.retrieve(BOB, request(other.id))
        assert not any(task.done() for task in waiting)
        gate.set()
    assert len(retriever.asked) == len(waiting) + 1


async def test_the_built_in_model_embeds_in_its_turn(world: World, retriever: Retriever) -> None:
    here = Embedder(local=True)
    here.gate.clear()
    models = Models(**{ANN.tenant_id: here})
    retrieval = RetrievalService(world.db, retriever, models, world.clock)  # type: ignore[arg-type]  # a fake
    dataset = await world.dataset()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(SEARCHES_AT_ONCE + 2):
            tasks.create_task(retrieval.retrieve(ANN, request(dataset.id)))
        await asyncio.sleep(0.2)
        assert here.waiting == SEARCHES_AT_ONCE
        here.gate.set()
    assert len(retriever.asked) == SEARCHES_AT_ONCE + 2


async def test_a_dataset_that_moves_to_another_model_meanwhile_is_asked_with_that(
    world: World, retriever: Retriever
) -> None:
    slow = Embedder()
    slow.gate.clear()
    models = Models(**{ANN.tenant_id: slow})
    retrieval = RetrievalService(world.db, retriever, models, world.clock)  # type: ignore[arg-type]  # a fake
    dataset = await world.dataset()
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(5):
        tasks.create_task(retrieval.retrieve(ANN, request(dataset.id)))
        while not slow.waiting:
            await asyncio.sleep(0.01)
        change = Dataset.update(embedding_model="new@P", place="t_new").where(Dataset.id == dataset.id)
        await world.db.write(change.execute)
        world.clock.pass_s(SCOPE_S + 1)
        slow.gate.set()
    assert models.names[1:] == ["new@P"]
    assert [asked["place"] for asked in retriever.asked] == ["t_new"]
