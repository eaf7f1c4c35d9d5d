"""Ingestion without rows or processes: a source and sink in memory, a parser of plain text, a chunker of lines."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rag.chunk.base import ChunkConfig
from rag.core.errors import EmptyDocument, IngestError
from rag.core.types import ChunkDraft, ChunkText, Element, ElementKind, ParsedDocument
from rag.ingest.base import SMALL_BYTES, Ended, Job, Report, TaskLost


class MemoryTasks:
    """Source and Sink: jobs put in by a test, and what became of them."""

    def __init__(self) -> None:
        self.queued: list[Job] = []
        self.running: dict[str, Job] = {}
        self.rows: dict[str, dict[str, ChunkText]] = {}
        self.done: dict[str, Ended] = {}
        self.failed: dict[str, str] = {}
        self.retried: dict[str, str] = {}
        self.released: list[str] = []
        self.abandoned: list[str] = []
        self.reports: list[Report] = []
        self.writes = 0

    def stop(self, task_id: str) -> None:
        """What a user's stop does."""
        self.running.pop(task_id, None)

    async def claim(self, owner: str, *, small: int, large: int) -> list[Job]:
        room = {True: small, False: large}
        taken = []
        for job in list(self.queued):
            if room[job.size <= SMALL_BYTES] > 0:
                room[job.size <= SMALL_BYTES] -= 1
                self.queued.remove(job)
                taken.append(replace(job, owner=owner))
        self.running.update({job.task_id: job for job in taken})
        return taken

    async def report(self, reports: Sequence[Report]) -> frozenset[str]:
        self.reports += reports
        return frozenset(r.job.task_id for r in reports) - self.running.keys()

    async def fail(self, report: Report, reason: str) -> None:
        if self.running.pop(report.job.task_id, None):
            self.failed[report.job.task_id] = reason

    async def retry(self, report: Report, reason: str) -> None:
        if self.running.pop(report.job.task_id, None):
            self.retried[report.job.task_id] = reason

    async def release(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self.running.pop(job.task_id, None)
            self.released.append(job.task_id)

    async def abandon(self, job: Job) -> None:
        self.abandoned.append(job.task_id)

    async def write_chunks(self, groups: Sequence[tuple[Job, Sequence[ChunkText]]]) -> frozenset[str]:
        self.writes += 1
        for job, chunks in groups:
            if job.task_id in self.running:
                self.rows.setdefault(job.version_id, {}).update({c.chunk_id: c for c in chunks})
        return frozenset(job.task_id for job, _ in groups) - self.running.keys()

    async def finish(self, ended: Sequence[Ended]) -> frozenset[str]:
        lost = frozenset(e.report.job.task_id for e in ended) - self.running.keys()
        for end in ended:
            if self.running.pop(end.report.job.task_id, None):
                self.done[end.report.job.task_id] = end
        return lost

    async def reset_version(self, job: Job) -> None:
        self._check(job)
        self.rows.pop(job.version_id, None)

    async def parser_died(self, job: Job) -> int:
        self._check(job)
        deaths = self.running[job.task_id].parser_deaths + 1
        self.running[job.task_id] = replace(self.running[job.task_id], parser_deaths=deaths)
        return deaths

    def _check(self, job: Job) -> None:
        if job.task_id not in self.running:
            raise TaskLost(f"The task {job.task_id!r} is no longer this worker's.")


class TextParser:
    """DocumentParser of UTF-8 text in this process: a paragraph per line. Calls `before` with the file's name first."""

    def __init__(self, before: Callable[[str], None] | None = None, *, wait_s: float = 0.0) -> None:
        self.calls: list[tuple[str, bool]] = []
        self._before = before
        self._wait_s = wait_s

    async def parse(
        self, path: Path, *, filename: str, alone: bool = False, on_progress: Callable[[int, int], None] | None = None
    ) -> ParsedDocument:
        self.calls.append((filename, alone))
        await asyncio.sleep(self._wait_s)
        if self._before is not None:
            self._before(filename)
        try:
            lines = [line for line in path.read_bytes().decode("utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise IngestError("The file is not text.") from error
        if not lines:
            raise EmptyDocument("There is no text in the file.")
        if on_progress is not None:
            on_progress(1, 1)
        return ParsedDocument(elements=tuple(Element(kind=ElementKind.PARAGRAPH, text=line) for line in lines))


class LineChunker:
    """Chunker: one chunk per element."""

    def chunk(self, document: ParsedDocument, *, config: ChunkConfig) -> list[ChunkDraft]:
        return [ChunkDraft(content=e.text, token_count=len(e.text.split())) for e in document.elements]
