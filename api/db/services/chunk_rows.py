"""The one place that maps a chunk to its row and back."""

from collections.abc import Iterable
from typing import Any

from api.db.tables import Chunk
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


def positions_to_json(positions: Iterable[Position]) -> list[list[float]]:
    """`[page, left, right, top, bottom]` each, points kept to a tenth."""
    return [[p.page, round(p.left, 1), round(p.right, 1), round(p.top, 1), round(p.bottom, 1)] for p in positions]


def positions_from_json(value: list[list[float]] | None) -> tuple[Position, ...]:
    return tuple(
        Position(page=int(page), left=left, right=right, top=top, bottom=bottom)
        for page, left, right, top, bottom in value or ()
    )
