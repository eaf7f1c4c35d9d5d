"""Chunks as people and answers read them: always those of a document's live version."""

import re
from collections.abc import Sequence
from typing import Any

from api.db.database import Database
from api.db.services.chunk_rows import available_texts, hidden_versions, text_of
from api.db.services.document_rows import record_of
from api.db.services.owned import own_document
from api.db.services.records import ChunkPage, Page
from api.db.tables import Chunk, Document
from rag.core.clock import Clock, SystemClock, now_ms
from rag.core.errors import InvalidInput, NotFound
from rag.core.types import ChunkText, Principal
from rag.store.base import EntryKey

_DEFAULT_SIZE = 10
"""Rows on a page of size 0 (the wire contract's rule for chunks)."""


class ChunkService:
    """Reads chunks. What is not the principal's is NotFound; `texts` and `hidden_versions` serve retrieval, whose
    filter was made of the principal's own datasets."""

    def __init__(self, db: Database, clock: Clock | None = None) -> None:
        self._db = db
        self._clock = clock or SystemClock()

    async def list(
        self,
        principal: Principal,
        dataset_id: str,
        document_id: str,
        page: Page,
        *,
        keywords: str = "",
        chunk_id: str = "",
    ) -> ChunkPage:
        """One page of a document's chunks in reading order.

        With `keywords`, those that hold every word of it (case-insensitive), the words in `<em>` marks, the chunks
        that hold them most often first. With `chunk_id`, that chunk only. Unavailable chunks are listed too.

        Raises:
            NotFound: kind `dataset`, `document`, or `chunk` (not one of this document).
            InvalidInput: a negative page or size, or page 0 (fact `field` is `page`).
        """
        if page.number < 1 or page.size < 0:
            raise InvalidInput("Pages start at 1, and sizes cannot be negative.", field="page")
        size = page.size or _DEFAULT_SIZE
        terms = keywords.split()

        def read() -> ChunkPage:
            _, document = own_document(principal, dataset_id, document_id)
            live = Chunk.select().where(Chunk.version_id == (document.live_version or ""))
            if chunk_id:
                rows, total = _one(live, chunk_id), 1
            elif terms:
                rows, total = _with_terms(live, terms, page.number, size)
            else:
                total = live.count()
                rows = list(live.order_by(*_READING_ORDER).paginate(page.number, size))
            chunks = tuple(_text(row, document) for row in rows)
            return ChunkPage(total=total, chunks=chunks, document=record_of(document, now_ms(self._clock)))

        return await self._db.run(read)

    async def texts(self, keys: Sequence[EntryKey]) -> dict[EntryKey, ChunkText]:
        """The chunks behind index entries: only those that are live and available, whatever the index says."""
        by_version: dict[str, set[str]] = {}
        for key in keys:
            by_version.setdefault(key.version_id, set()).add(key.chunk_id)

        def read() -> dict[EntryKey, ChunkText]:
            return {
                EntryKey(document_id=text.document_id, version_id=text.version_id, chunk_id=text.chunk_id): text
                for text in available_texts(by_version)
            }

        return await self._db.run(read)

    async def hidden_versions(self, place: str) -> tuple[str, ...]:
        """Versions in `place` that no search may see: being written, waiting to be swept, or switched off."""

        return await self._db.run(lambda: hidden_versions(place))


_READING_ORDER = (Chunk.page.asc(), Chunk.top.asc(), Chunk.ordinal.asc())


def _text(row: Chunk, document: Document) -> ChunkText:
    return text_of(row, document.name, available=row.available and document.enabled)


def _one(live: Any, chunk_id: str) -> list[Chunk]:
    rows = list(live.where(Chunk.chunk_id == chunk_id))
    if not rows:
        raise NotFound("chunk", chunk_id)
    return rows


def _with_terms(live: Any, terms: Sequence[str], number: int, size: int) -> tuple[list[Chunk], int]:
    """The page of chunks that hold all `terms`, marked; and how many there are."""
    patterns = [re.compile(re.escape(term), re.IGNORECASE) for term in dict.fromkeys(terms)]
    scored: list[tuple[int, Chunk]] = []
    for row in live.order_by(*_READING_ORDER):
        counts = [len(pattern.findall(row.content)) for pattern in patterns]
        if all(counts):
            scored.append((sum(counts), row))
    scored.sort(key=lambda pair: -pair[0])
    shown = [row for _, row in scored[(number - 1) * size : number * size]]
    longest_first = sorted(dict.fromkeys(terms), key=len, reverse=True)
    any_term = re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)
    for row in shown:
        row.content = any_term.sub(r"<em>\g<0></em>", row.content)
    return shown, len(scored)
