"""Making a document's index entries again from its rows, after a change that all of them show.

It takes a while, and the version can be replaced or deleted meanwhile: what was written after its sweeping would stay
in the index for ever. So each part is followed by a look, and what no longer lives is taken out again, at the latest
by the next attempt: the outbox row names the version before its first entry is written.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from api.db.database import Database
from api.db.services.chunk_rows import text_of
from api.db.tables import Chunk, Dataset, Document, Outbox
from rag.core.types import ChunkText, Matrix
from rag.ingest.entries import entries_of
from rag.store.base import Place, SearchStore, Selector

_AT_ONCE = 200
_BEGUN = "version_id"
TenantEmbed = Callable[[str, Sequence[str], str], Awaitable[Matrix]]
"""Vectors of texts under a named embedding model, as the tenant whose id comes last reaches it; one row per text."""


class EntryRenewal:
    """Carries out one outbox row of the action `renewal`."""

    def __init__(self, db: Database, store: SearchStore, embed: TenantEmbed) -> None:
        self._db = db
        self._store = store
        self._embed = embed

    async def run(self, outbox_id: int, place: Place, model: str, payload: Mapping[str, Any]) -> None:
        """Write the live chunks of the document of `payload` into `place` as their rows are now.

        Raises:
            StoreError: rows or index do not answer; to be run again.
        """
        document_id, begun = payload["document_id"], payload.get(_BEGUN)
        version, tenant_id, chunks = await self._db.run(lambda: _read(document_id, place))
        if begun and begun != version:
            await self._take_out(place, document_id, begun)
        if not version or not chunks:
            return
        note = Outbox.update(payload=dict(payload) | {_BEGUN: version}).where(Outbox.id == outbox_id)
        await self._db.write(note.execute)

        async def embed(name: str, texts: Sequence[str]) -> Matrix:
            return await self._embed(name, texts, tenant_id)

        for start in range(0, len(chunks), _AT_ONCE):
            entries = await entries_of(chunks[start : start + _AT_ONCE], model, embed)
            # Embedding takes seconds. A place that was left and dropped meanwhile must not be made again.
            if await self._lives(place, document_id, version):
                await self._store.upsert(place, entries)
            if not await self._lives(place, document_id, version):
                await self._take_out(place, document_id, version)
                return

    async def _lives(self, place: Place, document_id: str, version: str) -> bool:
        return await self._db.run(lambda: _live_version(document_id, place) == version)

    async def _take_out(self, place: Place, document_id: str, version: str) -> None:
        """Unless it lives on in another place: this one is dropped as a whole, once nobody searches it any more."""
        document = await self._db.run(lambda: Document.get_or_none(Document.id == document_id))
        if document is None or document.live_version != version:
            await self._store.delete(place, Selector(version_ids=(version,)))


def _live_version(document_id: str, place: Place) -> str | None:
    """The document's version that searches in `place` find."""
    row = (
        Document.select(Document.live_version)
        .join(Dataset, on=(Dataset.id == Document.dataset_id))
        .where(Document.id == document_id, Dataset.place == place.name)
        .get_or_none()
    )
    return row.live_version if row else None


def _read(document_id: str, place: Place) -> tuple[str | None, str, list[ChunkText]]:
    """The version to be renewed, its tenant, and its chunks."""
    version = _live_version(document_id, place)
    if version is None:
        return None, "", []
    document = Document.get_by_id(document_id)
    rows = Chunk.select().where(Chunk.version_id == version).order_by(Chunk.ordinal)
    chunks = [text_of(row, document.name, available=row.available and document.enabled) for row in rows]
    return version, document.tenant_id, chunks
