"""From chunks to entries of the index: the one way, in ingestion and wherever entries are made again from rows."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from rag.core.blocking import Lane, run_in
from rag.core.types import ChunkText, Matrix, Vector
from rag.ingest.index_text import index_text
from rag.nlp.analysis import analyse
from rag.store.base import Entry, EntryKey

REVISION = 1
"""Goes up whenever the same chunk would give other tokens or another text to embed: entries of two revisions must not
be mixed in one place, so those of an older one are made again with `parley index rebuild`."""

Embed = Callable[[str, Sequence[str]], Awaitable[Matrix]]
"""Vectors of texts under a named embedding model, one row per text."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A chunk, the text that stands for it in the index, and that text's tokens joined by spaces."""

    chunk: ChunkText
    text: str
    tokens: str


def prepare(chunk: ChunkText) -> Prepared:
    """Analyse a chunk: some tenths of a millisecond for one of 128 tokens."""
    text = index_text(chunk.document_name, chunk.heading_path, chunk.content)
    return Prepared(chunk, text, " ".join(analyse(text)))


def entry_of(prepared: Prepared, vector: Vector) -> Entry:
    """The entry of a chunk whose text has this vector."""
    chunk = prepared.chunk
    return Entry(
        key=EntryKey(document_id=chunk.document_id, version_id=chunk.version_id, chunk_id=chunk.chunk_id),
        dataset_id=chunk.dataset_id,
        tokens=prepared.tokens,
        vector=vector,
        available=chunk.available,
    )


async def entries_of(chunks: Sequence[ChunkText], model: str, embed: Embed) -> list[Entry]:
    """The entries of `chunks`, in their order.

    Raises:
        ModelError: the embedding model failed.
    """
    if not chunks:
        return []
    prepared = await run_in(Lane.TEXT, lambda: [prepare(chunk) for chunk in chunks])
    vectors = await embed(model, [one.text for one in prepared])
    return [entry_of(one, vectors[row]) for row, one in enumerate(prepared)]
