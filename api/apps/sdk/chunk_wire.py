"""Chunks as the contract's lists and searches carry them (chunks.md section 1)."""

from typing import Any

from api.apps.sdk.doc_wire import document_body
from api.db.services.records import ChunkPage
from rag.core.types import ChunkText, Hit


def positions(chunk: ChunkText) -> list[list[int]]:
    """Boxes on pages; text without pages has its place in the document instead, as the contract's server does."""
    if chunk.positions:
        return [position.as_wire() for position in chunk.positions]
    place = chunk.ordinal
    return [[place + 1, place, place, place, place]]


def listed_chunk(chunk: ChunkText) -> dict[str, Any]:
    return {
        "id": chunk.chunk_id,
        "content": chunk.content,
        "document_id": chunk.document_id,
        "dataset_id": chunk.dataset_id,
        "docnm_kwd": chunk.document_name,
        "important_keywords": list(chunk.important_keywords),
        "questions": list(chunk.questions),
        "image_id": chunk.image_id,
        "available": chunk.available,
        "positions": positions(chunk),
    }


def chunk_list(page: ChunkPage) -> dict[str, Any]:
    """`data` of the chunk list."""
    return {
        "total": page.total,
        "chunks": [listed_chunk(chunk) for chunk in page.chunks],
        "doc": document_body(page.document),
    }


def found_chunk(hit: Hit) -> dict[str, Any]:
    chunk = hit.chunk
    return {
        "id": chunk.chunk_id,
        "content": chunk.content,
        "document_id": chunk.document_id,
        "dataset_id": chunk.dataset_id,
        "document_keyword": chunk.document_name,
        "important_keywords": list(chunk.important_keywords),
        "image_id": chunk.image_id,
        "positions": positions(chunk),
        "content_ltks": "",
        "similarity": hit.similarity,
        "vector_similarity": hit.vector_similarity,
        "term_similarity": hit.term_similarity,
        "doc_type_kwd": "image" if chunk.kind == "image" else "",
    }


def document_counts(hits: tuple[Hit, ...]) -> list[dict[str, Any]]:
    """How many of these hits each document has, most first."""
    counts: dict[str, dict[str, Any]] = {}
    for hit in hits:
        chunk = hit.chunk
        entry = counts.setdefault(
            chunk.document_id, {"doc_name": chunk.document_name, "doc_id": chunk.document_id, "count": 0}
        )
        entry["count"] += 1
    return sorted(counts.values(), key=lambda entry: -int(entry["count"]))
