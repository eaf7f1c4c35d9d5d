"""The sources of an answer as its row keeps them: `Reference` to JSON and back.

Reading is tolerant: rows of older versions may lack fields or carry ones that are gone. Numbers never change.
"""

from collections.abc import Mapping
from typing import Any

from rag.core.types import CitedChunk, DocumentCount, Position, Reference

_POSITION_LENGTH = 5


def reference_to_json(reference: Reference) -> dict[str, Any]:
    """What is stored; positions as `[page, left, right, top, bottom]` with their fractions."""
    return {
        "total": reference.total,
        "chunks": [_chunk_to_json(chunk) for chunk in reference.chunks],
        "documents": [
            {"document_id": each.document_id, "document_name": each.document_name, "count": each.count}
            for each in reference.documents
        ],
    }


def _chunk_to_json(chunk: CitedChunk) -> dict[str, Any]:
    return {
        "index": chunk.index,
        "chunk_id": chunk.chunk_id,
        "document_id": chunk.document_id,
        "document_name": chunk.document_name,
        "dataset_id": chunk.dataset_id,
        "content": chunk.content,
        "positions": [[each.page, each.left, each.right, each.top, each.bottom] for each in chunk.positions],
        "similarity": chunk.similarity,
        "vector_similarity": chunk.vector_similarity,
        "term_similarity": chunk.term_similarity,
        "image_id": chunk.image_id,
        "url": chunk.url,
        "kind": chunk.kind,
    }


def reference_of_json(value: Any) -> Reference | None:
    """The stored sources; None where the row has none."""
    if not isinstance(value, Mapping):
        return None
    chunks = [_chunk(each, number) for number, each in enumerate(_list(value.get("chunks"))) if _is_object(each)]
    return Reference(
        total=int(_number(value.get("total"), len(chunks))),
        chunks=tuple(chunks),
        documents=tuple(
            DocumentCount(
                document_id=_text(each.get("document_id")),
                document_name=_text(each.get("document_name")),
                count=int(_number(each.get("count"), 0)),
            )
            for each in _list(value.get("documents"))
            if _is_object(each)
        ),
    )


def _chunk(stored: Mapping[str, Any], number: int) -> CitedChunk:
    positions = (_position(each) for each in _list(stored.get("positions")))
    return CitedChunk(
        index=int(_number(stored.get("index"), number)),
        chunk_id=_text(stored.get("chunk_id")),
        document_id=_text(stored.get("document_id")),
        document_name=_text(stored.get("document_name")),
        dataset_id=_text(stored.get("dataset_id")),
        content=_text(stored.get("content")),
        positions=tuple(position for position in positions if position is not None),
        similarity=_number(stored.get("similarity"), 0.0),
        vector_similarity=_number(stored.get("vector_similarity"), 0.0),
        term_similarity=_number(stored.get("term_similarity"), 0.0),
        image_id=_text(stored.get("image_id")),
        url=stored["url"] if isinstance(stored.get("url"), str) else None,
        kind=_text(stored.get("kind")) or "text",
    )


def _position(stored: Any) -> Position | None:
    if not isinstance(stored, list) or len(stored) != _POSITION_LENGTH:
        return None
    page, left, right, top, bottom = (_number(each, 0.0) for each in stored)
    return Position(page=int(page), left=left, right=right, top=top, bottom=bottom)


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any, default: float) -> float:
    return value if isinstance(value, int | float) else default
