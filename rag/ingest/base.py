"""What ingestion is given from above: the documents to read, and where the results go.

The engine declares these Protocols; `api/db/services/task_service.py` and `api/worker.py` supply them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from rag.chunk.base import ChunkConfig
from rag.core.errors import IngestError
from rag.core.types import ChunkText, ParsedDocument
from rag.store.base import Place

SMALL_BYTES = 64 << 10
"""Documents up to this size are taken many at a time: they cost little memory and share calls."""

Stage = Literal["queued", "parsing", "chunking", "embedding", "indexing", "done"]


class TaskLost(IngestError):
    """The task is no longer this worker's: it was stopped, deleted, asked for anew, or its lease ran out."""

    code = "task_lost"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A claimed task and all of its document that ingestion needs.

    `attempt` counts from 1. `size` in bytes. `available` is whether the document is switched on. `leftovers` tells
    that an earlier attempt wrote chunks under this version.
    """

    task_id: str
    owner: str
    document_id: str
    dataset_id: str
    tenant_id: str
    version_id: str
    name: str
    kind: str
    size: int
    blob_key: str
    method: str
    place: Place
    embedding_model: str
    config: ChunkConfig = field(default_factory=ChunkConfig)
    available: bool = True
    attempt: int = 1
    parser_deaths: int = 0
    begun_ms: int = 0
    leftovers: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """How far a job is. `fraction` is above 0 and below 1; `messages` are all lines so far, oldest first.

    `embed_tokens` and `embed_ms` say what the embedding model has done for it, in this attempt.
    """

    job: Job
    stage: Stage
    fraction: float
    messages: tuple[str, ...]
    pages_done: int = 0
    pages_total: int = 0
    chunks_done: int = 0
    chunks_total: int = 0
    embed_tokens: int = 0
    embed_ms: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A job whose chunks are all in rows and index, ready to go live."""

    report: Report
    chunk_count: int
    token_count: int


class Sink(Protocol):
    """Where results go. A job that is no longer its owner's changes nothing and is named in the reply."""

    async def write_chunks(self, groups: Sequence[tuple[Job, Sequence[ChunkText]]]) -> frozenset[str]:
        """Write chunk rows, in one transaction; known ones are replaced. Returns the ids of lost tasks."""
        ...

    async def finish(self, ended: Sequence[Ended]) -> frozenset[str]:
        """Make the versions live, count their chunks and end the tasks, in one transaction. Returns lost task ids."""
        ...

    async def reset_version(self, job: Job) -> None:
        """Remove the chunk rows an earlier attempt left under the job's version.

        Raises:
            TaskLost: the task is no longer this worker's.
        """
        ...

    async def parser_died(self, job: Job) -> int:
        """Count a death of a parser under this file and return the count.

        Raises:
            TaskLost: the task is no longer this worker's.
        """
        ...


class Source(Protocol):
    """Where jobs come from, and what is said of them while they run and when they end badly."""

    async def claim(self, owner: str, *, small: int, large: int) -> list[Job]:
        """Lease up to `small` jobs of small documents and `large` of larger ones to `owner`."""
        ...

    async def report(self, reports: Sequence[Report]) -> frozenset[str]:
        """Write progress down and extend the leases. Returns the ids of lost tasks."""
        ...

    async def fail(self, report: Report, reason: str) -> object:
        """End a job for good; `reason` is a sentence for a person."""
        ...

    async def retry(self, report: Report, reason: str) -> object:
        """Put a job back for a later attempt, or end it when its attempts are used up."""
        ...

    async def release(self, jobs: Sequence[Job]) -> None:
        """Give jobs back as if never claimed."""
        ...

    async def abandon(self, job: Job) -> None:
        """Leave what a lost job wrote to be swept."""
        ...


class DocumentParser(Protocol):
    """Reads one file in a child process. Cancelling the call ends the child's work."""

    async def parse(
        self, path: Path, *, filename: str, alone: bool = False, on_progress: Callable[[int, int], None] | None = None
    ) -> ParsedDocument:
        """Return what the file holds. `on_progress(pages_done, pages_total)` is called on the event loop.

        Raises:
            ParserDied: the child was killed or crashed.
            ParserLimit: it needed more memory, time or output than allowed.
            Unsupported: this type is not read.
            EmptyDocument: there is no text in it.
            IngestError: broken or encrypted; the message is a sentence for a person.
        """
        ...
