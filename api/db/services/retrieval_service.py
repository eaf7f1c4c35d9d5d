"""Searching a tenant's datasets: who may, in which place, with which model."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from api.db.database import Database
from api.db.services.chunk_rows import hidden_versions
from api.db.services.owned import dataset_places, in_groups
from api.db.services.records import RetrievalRequest
from api.db.services.reranking import WINDOW, Asked, Similarity, reranked
from api.db.tables import Document
from rag.core.blocking import Lane
from rag.core.clock import Clock
from rag.core.errors import Conflict, InvalidInput, NotFound
from rag.core.types import Principal, Retrieved, Vector
from rag.llm.base import Embedded, Embedder
from rag.llm.dispatch import lane_of
from rag.retrieve.retriever import EmbedQuestion, Retriever
from rag.store.base import Place

LONGEST_QUESTION_CHARS = 8000
"""Of a longer question only the beginning is searched for: each further window costs the embedding model time."""
SEARCHES_AT_ONCE = 3
"""The others wait their turn, first come first served: searches of one process share one interpreter, and more of them
side by side only make all end late (16 asked at once: p95 249 ms with three at a time, 283 ms without a limit)."""

SCOPE_S = 1.0
"""So old a scope may be when its search begins. A version that was replaced since is still in the index for ten seconds
(`upkeep_service.SETTLE_MS`), and a place that was left for five, and the retriever searches again when it met one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchScope:
    """Datasets of one tenant that can be searched together. Only `RetrievalService.scope` makes one: who holds it may
    search there. `hidden` names the versions that no search may see, as they were at `read_s` (monotonic); `key_id` the
    API key that asks, if one does."""

    tenant_id: str
    dataset_ids: tuple[str, ...]
    place: str
    embedding_model: str
    hidden: tuple[str, ...]
    read_s: float
    key_id: str = ""


class QuestionEmbedder(Protocol):
    """A bundle of an embedding model."""

    async def encode_query(self, text: str) -> Embedded: ...


class QuestionEmbedders(Protocol):
    """What this service needs of the catalogue of models."""

    def bundle_embed(
        self, name: str = "", *, tenant_id: str = "", purpose: str = "embed", key_id: str = ""
    ) -> QuestionEmbedder: ...
    def bundle_rerank(self, name: str = "", *, tenant_id: str = "", key_id: str = "") -> Similarity: ...
    def embedder(self, name: str, tenant_id: str = "") -> Embedder: ...
    async def measure(self, embedding_model: str, tenant_id: str = "", *, key_id: str = "") -> int: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """A question made ready for `scope`, and for others with the same embedding model; `took_ms` what was embedded
    before the search began took."""

    scope: SearchScope
    question: str
    dim: int
    embed: EmbedQuestion
    took_ms: float = 0.0


class RetrievalService:
    """Owner-checks every dataset and document of a request, then asks the retriever."""

    def __init__(
        self, db: Database, retriever: Retriever, models: QuestionEmbedders, clock: Clock, *, rerank_s: float = 5.0
    ) -> None:
        self._rerank_s = rerank_s
        self._db = db
        self._clock = clock
        self._retriever = retriever
        self._models = models
        self._turns = asyncio.Semaphore(SEARCHES_AT_ONCE)

    async def scope(self, principal: Principal, dataset_ids: Sequence[str]) -> SearchScope:
        """Where to search for the principal's datasets.

        Raises:
            InvalidInput: no dataset is named.
            NotFound: kind `dataset`: the first that is absent or another tenant's.
            Conflict: fact `field="embedding_model"`: the datasets use different embedding models.
        """
        wanted = tuple(dict.fromkeys(dataset_ids))
        if not wanted:
            raise InvalidInput("Name at least one dataset to search.", field="dataset_ids")
        return replace(await self._read_scope(principal.tenant_id, wanted), key_id=principal.key_id)

    async def retrieve(self, principal: Principal, request: RetrievalRequest) -> Retrieved:
        """Return the page of hits that the request asks for, best first.

        Raises:
            NotFound: kind `document`: not one of these datasets; fact `missing` has all such ids. And what `scope` and
                `search` raise.
        """
        scope = await self.scope(principal, request.dataset_ids)
        if request.document_ids:
            await self._db.run(lambda: _check_documents(scope, request.document_ids))
        return await self.search(scope, request)

    async def search(self, scope: SearchScope, request: RetrievalRequest) -> Retrieved:
        """`retrieve` in a scope that is known; the caller has checked that `request.document_ids` lie in it.

        With `request.rerank_id` the best `WINDOW` passages are ordered by that model, the threshold works on the
        `similarity` that its score is part of, and pages are cut from them. A model that fails or is late changes
        nothing.

        Raises:
            NotFound, Conflict: a dataset went, or moved, while this waited for its turn; or there is no such model.
            StoreUnavailable, ModelError: the index or the embedding model did not answer.
        """
        if request.rerank_id and request.question.strip():
            return await self._reranked(scope, request)
        return await self._plain(scope, request)

    async def _reranked(self, scope: SearchScope, request: RetrievalRequest) -> Retrieved:
        model = self._models.bundle_rerank(request.rerank_id, tenant_id=scope.tenant_id, key_id=scope.key_id)
        size = max(WINDOW, request.page_size)
        found = await self._plain(scope, replace(request, page=1, page_size=size, similarity_threshold=0.0))
        began_s = self._clock.monotonic()
        weight = request.vector_similarity_weight
        asked = Asked(question=request.question, weight=weight, timeout_s=self._rerank_s)
        ordered = await reranked(model, found.hits, asked)
        if ordered is None:
            return await self._plain(scope, request)
        kept = [hit for hit in ordered if hit.similarity >= request.similarity_threshold]
        kept.sort(key=lambda hit: -hit.similarity)
        start = (request.page - 1) * request.page_size
        took_ms = 1000 * (self._clock.monotonic() - began_s)
        return Retrieved(
            hits=tuple(kept[start : start + request.page_size]),
            total=len(kept),
            timings_ms=found.timings_ms | {"rerank": took_ms, "total": found.timings_ms.get("total", 0.0) + took_ms},
        )

    async def _plain(self, scope: SearchScope, request: RetrievalRequest) -> Retrieved:
        asked = await self._asked(await self._fresh(scope), request.question[:LONGEST_QUESTION_CHARS])
        async with self._turns:
            scope = await self._fresh(asked.scope)
            if scope.embedding_model == asked.scope.embedding_model:
                return await self._searched(scope, request, asked)
        return await self._plain(scope, request)

    async def _asked(self, scope: SearchScope, question: str) -> "_Asked":
        """What is made ready before a turn comes. A model elsewhere embeds now: it may answer late or never, and who
        waits for it must not keep others from searching. The built-in one works on our processors, in its turn."""
        began_s = self._clock.monotonic()
        dim = await self._models.measure(scope.embedding_model, scope.tenant_id, key_id=scope.key_id)
        is_here = lane_of(self._models.embedder(scope.embedding_model, scope.tenant_id)) is Lane.MODEL
        embedder = self._models.bundle_embed(scope.embedding_model, tenant_id=scope.tenant_id, key_id=scope.key_id)

        async def embed(text: str) -> Vector:
            vector: Vector = (await embedder.encode_query(text)).vectors[0]
            return vector

        if is_here or not question.strip():
            return _Asked(scope=scope, question=question, dim=dim, embed=embed)
        vector = await embed(question)

        async def known(_: str) -> Vector:
            return vector

        took_ms = 1000 * (self._clock.monotonic() - began_s)
        return _Asked(scope=scope, question=question, dim=dim, embed=known, took_ms=took_ms)

    async def _searched(self, scope: SearchScope, request: RetrievalRequest, asked: "_Asked") -> Retrieved:
        found = await self._retriever.retrieve(
            Place(name=scope.place, dim=asked.dim),
            embed=asked.embed,
            question=asked.question,
            dataset_ids=scope.dataset_ids,
            document_ids=tuple(dict.fromkeys(request.document_ids)) or None,
            without_versions=scope.hidden,
            page=request.page,
            page_size=request.page_size,
            threshold=request.similarity_threshold,
            weight=request.vector_similarity_weight,
            top_k=request.top_k,
        )
        more = {name: found.timings_ms[name] + asked.took_ms for name in ("embed", "total") if name in found.timings_ms}
        return replace(found, timings_ms=found.timings_ms | more)

    async def _fresh(self, scope: SearchScope) -> SearchScope:
        """`scope`, read again where it is too old to begin with."""
        if self._clock.monotonic() - scope.read_s <= SCOPE_S:
            return scope
        return replace(await self._read_scope(scope.tenant_id, scope.dataset_ids), key_id=scope.key_id)

    async def _read_scope(self, tenant_id: str, dataset_ids: tuple[str, ...]) -> SearchScope:
        read_s = self._clock.monotonic()

        def read() -> SearchScope:
            own = dataset_places(tenant_id, dataset_ids)
            for dataset_id in dataset_ids:
                if dataset_id not in own:
                    raise NotFound("dataset", dataset_id)
            if len(set(own.values())) > 1:
                raise Conflict(
                    "Datasets use different embedding models; search them one by one.", field="embedding_model"
                )
            place, model = own[dataset_ids[0]]
            return SearchScope(
                tenant_id=tenant_id,
                dataset_ids=dataset_ids,
                place=place,
                embedding_model=model,
                hidden=hidden_versions(place),
                read_s=read_s,
            )

        return await self._db.run(read)


def _check_documents(scope: SearchScope, document_ids: Sequence[str]) -> None:
    known: set[str] = set()
    for group in in_groups(dict.fromkeys(document_ids)):
        rows = Document.select(Document.id).where(Document.id.in_(group) & Document.dataset_id.in_(scope.dataset_ids))
        known.update(row.id for row in rows)
    missing = [document_id for document_id in document_ids if document_id not in known]
    if missing:
        error = NotFound("document", missing[0])
        error.facts["missing"] = frozenset(missing)
        raise error
