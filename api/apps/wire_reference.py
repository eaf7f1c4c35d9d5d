"""The sources of an answer on the wire: the contract's reference object and its shorter stored form."""

from typing import Any

from rag.core.types import CitedChunk, Reference

EMPTY_REFERENCE: dict[str, Any] = {"total": 0, "chunks": [], "doc_aggs": []}
"""What an answer carries that found nothing and says the chat's `empty_response`."""


def reference_wire(reference: Reference) -> dict[str, Any]:
    """The contract's reference object; `{}` where there are no sources."""
    if not reference.chunks:
        return {}
    return {
        "total": reference.total,
        "chunks": [chunk_wire(chunk) for chunk in reference.chunks],
        "doc_aggs": [
            {"doc_name": each.document_name, "doc_id": each.document_id, "count": each.count}
            for each in reference.documents
        ],
    }


def numbered_reference_wire(reference: Reference) -> dict[str, Any]:
    """The same on our own routes: each source has its `index`, the n of `[ID:n]`, and its `page` or null."""
    wire = reference_wire(reference)
    for chunk, source in zip(wire.get("chunks", ()), reference.chunks, strict=True):
        chunk |= {"index": source.index, "page": source.page}
    return wire


def chunk_wire(chunk: CitedChunk) -> dict[str, Any]:
    """A source as live answers carry it."""
    return stored_chunk_wire(chunk) | {
        "url": chunk.url,
        "similarity": chunk.similarity,
        "vector_similarity": chunk.vector_similarity,
        "term_similarity": chunk.term_similarity,
        "doc_type": [] if chunk.kind == "text" else chunk.kind,
    }


def stored_chunk_wire(chunk: CitedChunk) -> dict[str, Any]:
    """A source as the list of sessions carries it: fewer keys."""
    return {
        "id": chunk.chunk_id,
        "content": chunk.content,
        "document_id": chunk.document_id,
        "document_name": chunk.document_name,
        "dataset_id": chunk.dataset_id,
        "image_id": chunk.image_id,
        "positions": [position.as_wire() for position in chunk.positions],
    }
