"""Reading a part of a document: its passages in order, by page or by ordinal."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from api.db.database import Database
from api.db.services.chunk_rows import text_of
from api.db.services.owned import in_groups
from api.db.tables import Chunk, Document
from rag.core.errors import InvalidInput, NotFound
from rag.core.types import ChunkText, Principal

MOST_AT_ONCE = 60
"""Passages of one reading at the most."""
_NAMED = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What is to be read: `document` is an id or a name within `dataset_ids`, and one of `document_ids` unless that is
    empty. Pages start at 1 and passages at 0; both ends of a range count, None leaves it open."""

    document: str
    dataset_ids: tuple[str, ...]
    document_ids: tuple[str, ...] = ()
    first_page: int | None = None
    last_page: int | None = None
    first_passage: int | None = None
    last_passage: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Passages in their order; `more` says whether the range goes on, `passages` how many the document has."""

    chunks: tuple[ChunkText, ...]
    passages: int
    more: bool = False


class DocumentReader:
    """Reads what the principal owns: everything else is not found."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def read(self, principal: Principal, reading: Reading) -> Part:
        """The available passages of the range, at most `MOST_AT_ONCE`.

        Raises:
            NotFound: kind `document`: none of that id or name within reach that can be read.
            InvalidInput: several have the name; the message gives their ids.
        """
        return await self._db.run(lambda: _read(principal, reading))


def _read(principal: Principal, reading: Reading) -> Part:
    document = _found(principal, reading)
    live = (Chunk.document_id == document.id) & (Chunk.version_id == document.live_version)
    readable = live & (Chunk.available == True)  # noqa: E712  # A column in SQL.
    query = Chunk.select().where(readable).order_by(Chunk.ordinal).limit(MOST_AT_ONCE + 1)
    for column, first, last in (
        (Chunk.page, reading.first_page, reading.last_page),
        (Chunk.ordinal, reading.first_passage, reading.last_passage),
    ):
        if first is not None:
            query = query.where(column >= first)
        if last is not None:
            query = query.where(column <= last)
    chunks = [text_of(row, document.name) for row in query]
    return Part(chunks=tuple(chunks[:MOST_AT_ONCE]), passages=document.chunk_count, more=len(chunks) > MOST_AT_ONCE)


def _found(principal: Principal, reading: Reading) -> Document:
    """The document meant. Its id comes first, then its exact name, then its name in any case."""
    wanted = reading.document
    by_id = Document.id == wanted
    for condition in (by_id, Document.name == wanted, Document.name_fold == wanted.casefold()):
        found = list(_matching(principal, reading, condition)) if wanted else []
        if len(found) > 1:
            ids = ", ".join(f"{row.id} ({row.name!r})" for row in found[:_NAMED])
            raise InvalidInput(f"{len(found)} documents are called {wanted!r}; name one by its id: {ids}.")
        if found:
            return found[0]
    raise NotFound("document", wanted[:255])


def _matching(principal: Principal, reading: Reading, condition: Any) -> Iterable[Document]:
    for group in in_groups(reading.dataset_ids):
        readable = (Document.enabled == True) & Document.live_version.is_null(False)  # noqa: E712  # A column in SQL.
        own = (Document.tenant_id == principal.tenant_id) & Document.dataset_id.in_(group)
        for row in Document.select().where(own & readable & condition):
            if not reading.document_ids or row.id in reading.document_ids:
                yield row
