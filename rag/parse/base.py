"""Readers of files. Untrusted input: a parser runs in a child process only (`pool.py`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rag.core.types import ParsedDocument


@dataclass(frozen=True, kw_only=True, slots=True)
class ParseLimits:
    """Bounds for one file. Memory is the child's whole address space beyond its start."""

    memory_bytes: int
    timeout_s: float
    output_chars: int


class Parser(Protocol):
    def parse(self, path: Path, *, filename: str) -> ParsedDocument:
        """Read the file at `path`; `filename` gives the type.

        Raises:
            Unsupported: this type is not read.
            EmptyDocument: there is no text in it.
            ParserLimit: it is larger than the limits allow.
            IngestError: broken or encrypted; the message is a sentence for a person.
        """
        ...
