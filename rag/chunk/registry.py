"""Which chunk methods there are."""

from collections.abc import Callable

from rag.chunk.base import Chunker
from rag.chunk.naive import NaiveChunker

CHUNKERS: dict[str, Callable[[], Chunker]] = {
    "naive": NaiveChunker,
    # Mails and slides are read like any other document; slides keep one chunk from running over several of them.
    "email": NaiveChunker,
    "presentation": lambda: NaiveChunker(page_per_chunk=True),
}
"""Method name -> factory."""


def chunkers() -> dict[str, Chunker]:
    """A chunker for each method."""
    return {name: make() for name, make in CHUNKERS.items()}
