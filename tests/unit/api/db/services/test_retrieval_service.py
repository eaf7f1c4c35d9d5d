import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from api.db.services.records import RetrievalRequest
from api.db.services.retrieval_service import SCOPE_S, SEARCHES_AT_ONCE, RetrievalService
from api.db.tables import Dataset, DocumentVersion
from rag.core.errors import Conflict, InvalidInput, ModelOverloaded, NotFound
from rag.core.types import Retrieved
from rag.llm.base import Embedded, Reranked
from tests.unit.api.db.services.talk import CASH, DEBT, RAIN, hits
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

    async def measure(self, embedding_model: str, tenant_id: str = "", *, key_id: str = "") -> int:
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


class Reranks:
    """A bundle of a reranking model that knows the scores."""

    def __init__(self, *scores: float, wait_s: float = 0.0, error: Exception | None = None) -> None:
        self.scores = scores
        self.wait_s = wait_s
        self.error = error
        self.asked: list[tuple[str, list[str]]] = []

    async def similarity(self, question: str, passages: Any) -> Reranked:
        self.asked.append((question, list(passages)))
        await asyncio.sleep(self.wait_s)
        if self.error is not None:
            raise self.error
        return Reranked(scores=np.asarray(self.scores[: len(passages)], dtype=np.float32), tokens=1)


class Reranking(Models):
    def __init__(self, model: Reranks) -> None:
        super().__init__()
        self.model = model
        self.reranked_for: list[tuple[str, str, str]] = []

    def bundle_rerank(self, name: str = "", *, tenant_id: str = "", key_id: str = "") -> Reranks:
        self.reranked_for.append((name, tenant_id, key_id))
        return self.model


class Finds(Retriever):
    """Finds always the same."""

    async def retrieve(self, place: Any, **options: Any) -> Retrieved:
        await super().retrieve(place, **options)
        found = [hit for hit in hits(CASH, DEBT, RAIN) if hit.similarity >= options["threshold"]]
        return Retrieved(hits=tuple(found[: options["page_size"]]), total=len(found), timings_ms={"total": 1.0})


async def reranked(world: World, model: Reranks, **changes: Any) -> tuple[Retrieved, Finds, Reranking]:
    dataset, finds, models = await world.dataset(), Finds(), Reranking(model)
    service = RetrievalService(world.db, finds, models, world.clock, rerank_s=0.05)  # type: ignore[arg-type]  # fakes
    asked = replace(request(dataset.id), rerank_id="ranks@Acme", **changes)
    return await service.retrieve(ANN, asked), finds, models


async def test_a_reranking_model_orders_and_its_score_counts(world: World) -> None:
    model = Reranks(0.1, 0.4, 0.9)
    found, finds, models = await reranked(world, model, similarity_threshold=0.38, vector_similarity_weight=0.5)
    assert [hit.chunk.content for hit in found.hits] == [RAIN, DEBT]
    assert [round(hit.vector_similarity, 3) for hit in found.hits] == [0.9, 0.4]
    assert [round(hit.similarity, 3) for hit in found.hits] == [0.65, 0.4]
    assert found.total == 2
    assert model.asked == [("cash", [CASH, DEBT, RAIN])]
    assert models.reranked_for == [("ranks@Acme", ANN.tenant_id, ANN.key_id)]
    assert finds.asked[0]["page_size"] >= 64
    assert found.timings_ms["rerank"] >= 0


async def test_pages_are_cut_from_one_reranked_order(world: World) -> None:
    pages = [await reranked(world, Reranks(0.1, 0.4, 0.9), page=page, page_size=2) for page in (1, 2, 3)]
    assert [[hit.chunk.content for hit in found.hits] for found, _, _ in pages] == [[RAIN, DEBT], [CASH], []]
    assert {found.total for found, _, _ in pages} == {3}


@pytest.mark.parametrize("model", [Reranks(1, wait_s=5), Reranks(error=ModelOverloaded("busy"))])
async def test_a_reranking_model_that_gives_nothing_in_time_has_no_effect(world: World, model: Reranks) -> None:
    with capture_logs() as logs:
        found, _, _ = await reranked(world, model, page_size=2)
    assert [hit.chunk.content for hit in found.hits] == [CASH, DEBT]
    assert [entry["event"] for entry in logs] == ["reranking_failed"]


async def test_an_empty_question_asks_no_reranking_model(world: World) -> None:
    model = Reranks(0.1)
    await reranked(world, model, question="  ")
    assert model.asked == []
