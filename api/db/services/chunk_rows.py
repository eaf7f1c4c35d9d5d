"""The one place that maps a chunk to its row and back."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import orjson

from api.db.raw_sql import execute
from api.db.services.owned import in_groups
from api.db.tables import Chunk, database_proxy
from rag.core.types import ChunkText, Position


def row_of(chunk: ChunkText) -> dict[str, Any]:
    """The columns of `Chunk`, for `Chunk.insert_many`. The document's name stays with the document."""
    first = chunk.positions[0] if chunk.positions else None
    return {
        "document_id": chunk.document_id,
        "version_id": chunk.version_id,
        "chunk_id": chunk.chunk_id,
        "dataset_id": chunk.dataset_id,
        "ordinal": chunk.ordinal,
        "content": chunk.content,
        "heading_path": list(chunk.heading_path),
        "positions": positions_to_json(chunk.positions),
        "page": first.page if first else None,
        "top": first.top if first else 0.0,
        "token_count": chunk.token_count,
        "important_keywords": list(chunk.important_keywords),
        "questions": list(chunk.questions),
        "available": chunk.available,
        "image_id": chunk.image_id,
        "kind": chunk.kind,
        "create_time": chunk.create_time,
    }


def text_of(row: Chunk, document_name: str, *, available: bool | None = None) -> ChunkText:
    """The chunk of a row. `available` overrides the row's own flag (a disabled document has no available ones)."""
    return ChunkText(
        chunk_id=row.chunk_id,
        document_id=row.document_id,
        version_id=row.version_id,
        dataset_id=row.dataset_id,
        document_name=document_name,
        ordinal=row.ordinal,
        content=row.content,
        heading_path=tuple(row.heading_path or ()),
        positions=positions_from_json(row.positions),
        token_count=row.token_count,
        important_keywords=tuple(row.important_keywords or ()),
        questions=tuple(row.questions or ()),
        available=row.available if available is None else available,
        image_id=row.image_id,
        kind=row.kind,
        create_time=row.create_time,
    )


_TEXT_COLUMNS = (
    "document_id, version_id, chunk_id, dataset_id, ordinal, content, heading_path, positions, token_count, "
    "important_keywords, questions, image_id, kind, create_time"
)
_VERSIONS_AT_ONCE = 100


def available_texts(by_version: Mapping[str, Collection[str]], names: Mapping[str, str]) -> Iterator[ChunkText]:
    """The available ones of the chunks named by version and chunk id; `names` of their documents by id.

    Sent as text, because each search makes it: for 128 chunks the statement and models of peewee cost 4 ms more.
    Each pair is one look-up in the primary key.
    """
    mark = database_proxy.param
    for group in in_groups(by_version.items(), _VERSIONS_AT_ONCE):
        places = " OR ".join(
            f"(version_id = {mark} AND chunk_id IN ({', '.join([mark] * len(ids))}))" for _, ids in group
        )
        values = [value for version_id, ids in group for value in (version_id, *ids)]
        cursor = execute(
            database_proxy.obj, f"SELECT {_TEXT_COLUMNS} FROM chunk WHERE available = 1 AND ({places})", values
        )
        for row in cursor.fetchall():
            yield _text_of_values(row, names.get(row[0], ""))


def _text_of_values(row: tuple[Any, ...], document_name: str) -> ChunkText:
    """The chunk of a row of `_TEXT_COLUMNS`."""
    return ChunkText(
        document_id=row[0],
        version_id=row[1],
        chunk_id=row[2],
        dataset_id=row[3],
        document_name=document_name,
        ordinal=row[4],
        content=row[5],
        heading_path=_strings(row[6]),
        positions=() if row[7] == "[]" else positions_from_json(orjson.loads(row[7])),
        token_count=row[8],
        important_keywords=_strings(row[9]),
        questions=_strings(row[10]),
        image_id=row[11],
        kind=row[12],
        create_time=row[13],
    )


def _strings(text: str) -> tuple[str, ...]:
    return () if text == "[]" else tuple(orjson.loads(text))


def positions_to_json(positions: Iterable[Position]) -> list[list[float]]:
    """`[page, left, right, top, bottom]` each, points kept to a tenth."""
    return [[p.page, round(p.left, 1), round(p.right, 1), round(p.top, 1), round(p.bottom, 1)] for p in positions]


def positions_from_json(value: list[list[float]] | None) -> tuple[Position, ...]:
    return tuple(
        Position(page=int(page), left=left, right=right, top=top, bottom=bottom)
        for page, left, right, top, bottom in value or ()
    )
