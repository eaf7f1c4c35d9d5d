"""The embedding models of the worker: the built-in one in this process, all others by their provider's login."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from api.db.services.model_catalogue import BUILTIN_EMBEDDING, ModelCatalogue
from rag.core.errors import NotFound, Unsupported
from rag.core.types import Matrix
from rag.ingest.base import Job
from rag.ingest.grouping import EmbedGroup
from rag.llm.base import Embedder

REMOTE_LANES: Final = 4
"""Calls to one provider side by side: they wait, they do not compute."""
_MOST_KEPT: Final = 64


class WorkerModels:
    """One group per tenant and model, so that documents share calls; a changed login makes a new one.

    Args:
        local: The group of the built-in model.
    """

    def __init__(self, models: ModelCatalogue, local: EmbedGroup) -> None:
        self._models = models
        self._local = local
        self._groups: OrderedDict[tuple[str, str, int], tuple[Embedder, EmbedGroup]] = OrderedDict()

    def of_job(self, job: Job) -> EmbedGroup:
        """The group that embeds the chunks of `job`.

        Raises:
            Unsupported: there is no such model for the document's tenant (any more).
        """
        return self._group(job.embedding_model, job.tenant_id, dim=job.place.dim)

    async def embed(self, name: str, texts: Sequence[str], tenant_id: str) -> Matrix:
        """Vectors of `texts` by the built-in model, or as the tenant reaches another one.

        Raises:
            Unsupported: there is no such model.
            ModelError: the model failed.
        """
        try:
            dim = 0 if _is_local(name) else await self._models.measure(name, tenant_id)
        except NotFound as error:
            raise Unsupported(_text(name)) from error
        return await self._group(name, tenant_id, dim=dim).encode(texts)

    def _group(self, name: str, tenant_id: str, *, dim: int) -> EmbedGroup:
        if _is_local(name):
            return self._local
        try:
            embedder = self._models.embedder(name, tenant_id)
            bundle = self._models.bundle_embed(name, tenant_id=tenant_id, purpose="ingest")
        except NotFound as error:
            raise Unsupported(f"{_text(name)} {error.message}") from error
        key = (tenant_id, name, dim)
        kept = self._groups.get(key)
        if kept is None or kept[0] is not embedder:
            kept = (embedder, EmbedGroup(bundle, lanes=REMOTE_LANES, dim=dim))
        self._groups[key] = kept
        self._groups.move_to_end(key)
        if len(self._groups) > _MOST_KEPT:
            self._groups.popitem(last=False)
        return kept[1]


def _is_local(name: str) -> bool:
    return name in (BUILTIN_EMBEDDING, BUILTIN_EMBEDDING.partition("@")[0])


def _text(name: str) -> str:
    return f"The embedding model {name!r} is not available to the worker."
