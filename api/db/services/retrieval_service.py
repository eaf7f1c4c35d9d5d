"""Searching a tenant's datasets: who may, in which place, with which model."""

import asyncio
from typing import Protocol

from api.db.database import Database
from api.db.services.owned import in_groups, own_dataset
from api.db.services.records import RetrievalRequest
from api.db.tables import Document
from rag.core.errors import Conflict, InvalidInput, NotFound
from rag.core.types import Principal, Retrieved, Vector
from rag.llm.base import Embedded
from rag.retrieve.retriever import Retriever
from rag.store.base import Place

LONGEST_QUESTION_CHARS = 8000
"""Of a longer question only the beginning is searched for: each further window costs the embedding model time."""
SEARCHES_AT_ONCE = 3
"""The others wait their turn, first come first served: searches of one process share one interpreter, and more of them
side by side only make all end late (16 asked at once: p95 249 ms with three at a time, 283 ms without a limit)."""


class QuestionEmbedder(Protocol):
    """A bundle of an embedding model."""

    @property
    def dim(self) -> int: ...
    async def encode_query(self, text: str) -> Embedded: ...


class QuestionEmbedders(Protocol):
    """What this service needs of the catalogue of models."""

    def bundle_embed(self, name: str = "", *, tenant_id: str = "", purpose: str = "embed") -> QuestionEmbedder: ...


class RetrievalService:
    """Owner-checks every dataset and document of a request, then asks the retriever."""

    def __init__(self, db: Database, retriever: Retriever, models: QuestionEmbedders) -> None:
        self._db = db
        self._retriever = retriever
        self._models = models
        self._turns = asyncio.Semaphore(SEARCHES_AT_ONCE)

    async def retrieve(self, principal: Principal, request: RetrievalRequest) -> Retrieved:
        """Return the page of hits that the request asks for, best first.

        Raises:
            NotFound: kind `dataset` or `document`: absent, another tenant's, or a document of another dataset.
            InvalidInput: no dataset is named.
            Conflict: fact `field="embedding_model"`: the datasets use different embedding models.
            StoreUnavailable, ModelError: the index or the embedding model did not answer.
        """
        if not request.dataset_ids:
            raise InvalidInput("Name at least one dataset to search.", field="dataset_ids")
        async with self._turns:
            return await self._search(principal, request)

    async def _search(self, principal: Principal, request: RetrievalRequest) -> Retrieved:
        place_name, model = await self._db.run(lambda: _checked(principal, request))
        embedder = self._models.bundle_embed(model, tenant_id=principal.tenant_id)

        async def embed(question: str) -> Vector:
            vector: Vector = (await embedder.encode_query(question)).vectors[0]
            return vector

        return await self._retriever.retrieve(
            Place(name=place_name, dim=embedder.dim),
            embed=embed,
            question=request.question[:LONGEST_QUESTION_CHARS],
            dataset_ids=tuple(dict.fromkeys(request.dataset_ids)),
            document_ids=tuple(dict.fromkeys(request.document_ids)) or None,
            page=request.page,
            page_size=request.page_size,
            threshold=request.similarity_threshold,
            weight=request.vector_similarity_weight,
            top_k=request.top_k,
        )


def _checked(principal: Principal, request: RetrievalRequest) -> tuple[str, str]:
    """The place and the embedding model all datasets of the request share."""
    datasets = [own_dataset(principal, dataset_id) for dataset_id in dict.fromkeys(request.dataset_ids)]
    if len({(dataset.place, dataset.embedding_model) for dataset in datasets}) > 1:
        raise Conflict("Datasets use different embedding models; search them one by one.", field="embedding_model")
    dataset_ids = [dataset.id for dataset in datasets]
    known: set[str] = set()
    for group in in_groups(dict.fromkeys(request.document_ids)):
        rows = Document.select(Document.id).where(Document.id.in_(group) & Document.dataset_id.in_(dataset_ids))
        known.update(row.id for row in rows)
    for document_id in request.document_ids:
        if document_id not in known:
            raise NotFound("document", document_id)
    return datasets[0].place, datasets[0].embedding_model
