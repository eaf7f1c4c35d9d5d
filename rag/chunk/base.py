"""Chunk methods: a parsed document in, chunk drafts out. Pure functions of their input."""

from dataclasses import dataclass
from typing import Protocol

from rag.core.types import ChunkDraft, ParsedDocument


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkConfig:
    """`chunk_token_num` 1 to 2,048 tokens, a soft limit; `delimiter` a set of single characters, several-character
    delimiters in back quotes; the two characters backslash n mean a newline."""

    chunk_token_num: int = 512
    delimiter: str = "\n"


class Chunker(Protocol):
    def chunk(self, document: ParsedDocument, *, config: ChunkConfig) -> list[ChunkDraft]:
        """Chunks in reading order; empty if there is no text. Deterministic."""
        ...
