"""Tasks: who ingests which document, for how long, and how it ended. The row is the truth.

A claim is a lease: `lease_owner` may write until `lease_until`, and each second's report extends it. Every write on
behalf of a task first looks, in the same transaction, whether the lease still holds, so a worker that lost its task
(stopped, deleted, asked for anew, lease run out) changes nothing any more.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from api.db.database import Database
from api.db.services.chunk_rows import write_rows
from api.db.services.index_follow import enqueue_renewal
from api.db.services.rebuild_rows import closing_datasets
from api.db.services.removal import bury_versions
from api.db.services.task_rows import (
    VERSION_DEAD,
    job_of,
    mark_version,
    message_text,
    note_embedding,
)
from api.db.tables import Chunk, Dataset, Document, DocumentVersion, IndexPlace, Task
from rag.core.clock import Clock, from_ms, now_ms
from rag.core.settings import IngestSettings
from rag.core.types import ChunkText
from rag.ingest.base import SMALL_BYTES, Ended, Job, Report, TaskLost

EMBEDDED_OWNER = "embedded-"
"""What the owner names of embedded workers begin with."""
_LOSSES_PER_ATTEMPT = 3
"""A worker that is killed says less about a document than an error does: a task may lose this many workers for each
attempt that errors are allowed."""
_RETRY_S = 2.0
_RIVALS = 8
"""So many workers can claim at the same moment and all find tasks."""
_MOVED = "The index was rebuilt in the meantime."

Outcome = Literal["retried", "failed", "lost"]


class TaskService:
    """The task rows of ingestion; implements `Source` and `Sink` of `rag.ingest.base`."""

    def __init__(self, db: Database, clock: Clock, settings: IngestSettings) -> None:
        self._db = db
        self._clock = clock
        self._settings = settings

    async def claim(self, owner: str, *, small: int, large: int) -> list[Job]:
        """Lease waiting tasks to `owner`, highest priority and then oldest first.

        Args:
            owner: Unique to one run of one worker.
            small: How many tasks of documents up to `SMALL_BYTES`, at most.
            large: How many of larger ones, at most.
        """
        if not await self._db.run(lambda: bool(self._waiting(small, large))):
            return []
        return await self._db.write(lambda: self._claim(owner, small, large), locks_rows=True)

    async def report(self, reports: Sequence[Report]) -> frozenset[str]:
        """Write down how far jobs are and extend their leases. Returns the ids of lost tasks."""
        if not reports:
            return frozenset()
        return await self._db.write(lambda: self._report(reports), locks_rows=True)

    async def write_chunks(self, groups: Sequence[tuple[Job, Sequence[ChunkText]]]) -> frozenset[str]:
        """See `Sink`."""

        def write() -> frozenset[str]:
            held = self._held_in_place([job for job, _ in groups])
            write_rows(chunk for job, chunks in groups if job.task_id in held for chunk in chunks)
            return frozenset(job.task_id for job, _ in groups) - held

        return await self._db.write(write, locks_rows=True)

    async def finish(self, ended: Sequence[Ended]) -> frozenset[str]:
        """See `Sink`."""
        return await self._db.write(lambda: self._finish(ended))

    async def reset_version(self, job: Job) -> None:
        """See `Sink`."""

        def reset() -> None:
            Chunk.delete().where(Chunk.version_id == job.version_id).execute()

        await self._db.write(lambda: self._if_held(job, reset))

    async def parser_died(self, job: Job) -> int:
        """See `Sink`."""

        def count() -> int:
            Task.update(parser_deaths=Task.parser_deaths + 1).where(Task.id == job.task_id).execute()
            return int(Task.get_by_id(job.task_id).parser_deaths)

        return await self._db.write(lambda: self._if_held(job, count))

    async def fail(self, report: Report, reason: str) -> Outcome:
        """End a job with `reason`, a sentence for a person: the document reads `FAIL`, progress -1."""

        def fail() -> Outcome:
            if report.job.task_id not in self._held([report.job]):
                return "lost"
            note_embedding([report], "failed", now_ms(self._clock))
            self._end_failed(Task.get_by_id(report.job.task_id), reason, message_text(report))
            return "failed"

        return await self._db.write(fail)

    async def retry(self, report: Report, reason: str) -> Outcome:
        """Put a job back for a later attempt, or end it with `reason` when its attempts are used up."""

        def retry() -> Outcome:
            job = report.job
            if job.task_id not in self._held([job]):
                return "lost"
            note_embedding([report], "failed", now_ms(self._clock))
            task = Task.get_by_id(job.task_id)
            if task.attempts >= self._settings.attempts:
                self._end_failed(task, f"{reason} Given up after {task.attempts} attempts.", message_text(report))
                return "failed"
            wait_ms = int(1000 * _RETRY_S * 2 ** (task.attempts - 1))
            self._requeue([job.task_id], not_before=now_ms(self._clock) + wait_ms, last_error=reason)
            return "retried"

        return await self._db.write(retry)

    async def release(self, jobs: Sequence[Job]) -> None:
        """Give jobs back unfinished, as if never claimed: another worker may take them at once."""

        def release() -> None:
            held = self._held(jobs)
            if held:
                Task.update(attempts=Task.attempts - 1).where(Task.id.in_(held)).execute()
                self._requeue(list(held))

        if jobs:
            await self._db.write(release)

    async def abandon(self, job: Job) -> None:
        """Mark what a lost job had written for sweeping, unless the version lives or another worker goes on with it."""

        def abandon() -> None:
            busy = Task.select().where(Task.version_id == job.version_id, Task.state.in_(("queued", "running")))
            live = Document.select().where(Document.live_version == job.version_id)
            if not busy.exists() and not live.exists():
                mark_version(job, VERSION_DEAD, now_ms(self._clock))

        await self._db.write(abandon)

    async def reap(self) -> int:
        """Put tasks whose lease ran out back into the queue, or end them. Returns how many."""
        now = now_ms(self._clock)
        return await self._take_back(lambda: Task.lease_until < now)

    async def take_over(self, owner: str) -> int:
        """Put all tasks of other embedded workers back. Call it only while holding the folder's worker lock, which
        proves them dead. Returns how many."""
        return await self._take_back(lambda: Task.lease_owner.startswith(EMBEDDED_OWNER) & (Task.lease_owner != owner))

    async def waiting(self) -> bool:
        """Whether any task waits or runs."""

        def look() -> bool:
            return bool(Task.select().where(Task.state.in_(("queued", "running"))).exists())

        return await self._db.run(look)

    def _waiting(self, small: int, large: int, *, locked: bool = False) -> list[str]:
        """The next tasks, `locked` for this transaction where the engine locks rows."""
        ids: list[str] = []
        for limit, size in ((small, Document.size <= SMALL_BYTES), (large, Document.size > SMALL_BYTES)):
            if limit > 0 and locked and self._db.skips_locked:
                ids += self._locked(self._next(limit * _RIVALS, size), limit)
            elif limit > 0:
                ids += self._next(limit, size)
        return ids

    def _next(self, limit: int, size: Any) -> list[str]:
        now = now_ms(self._clock)
        waiting = (
            Task.select(Task.id)
            .join(Document, on=(Document.id == Task.document_id))
            .where(Task.state == "queued", Task.not_before <= now, size, self._open(now))
            .order_by(Task.priority.desc(), Task.create_time, Task.id)
            .limit(limit)
        )
        return [row.id for row in waiting]

    @staticmethod
    def _locked(ids: Sequence[str], limit: int) -> list[str]:
        """The first `limit` of `ids` that no other worker is just claiming. Asked for one by one: a search for several
        locks all rows that it looks at, which in a short table are all."""
        mine: list[str] = []
        for task_id in ids:
            free = Task.select(Task.id).where(Task.id == task_id, Task.state == "queued")
            mine += [row.id for row in free.for_update(skip_locked=True)]
            if len(mine) == limit:
                break
        return mine

    @staticmethod
    def _open(now: int) -> Any:
        """No ingestion begins in a place that is just being left: it would have to begin again in the next."""
        return Task.dataset_id.not_in(closing_datasets(now))

    def _claim(self, owner: str, small: int, large: int) -> list[Job]:
        now = now_ms(self._clock)
        ids = self._waiting(small, large, locked=True)
        if not ids:
            return []
        Task.update(
            state="running",
            lease_owner=owner,
            lease_until=now + int(self._settings.lease_s * 1000),
            attempts=Task.attempts + 1,
            stage="queued",
            update_time=now,
        ).where(Task.id.in_(ids), Task.state == "queued").execute()
        return self._claimed(owner, ids, now)

    def _claimed(self, owner: str, ids: list[str], now: int) -> list[Job]:
        tasks = list(
            Task.select()
            .where(Task.id.in_(ids), Task.lease_owner == owner, Task.state == "running")
            .order_by(Task.priority.desc(), Task.create_time, Task.id)
        )
        documents = {d.id: d for d in Document.select().where(Document.id.in_([t.document_id for t in tasks]))}
        place_of = {d.id: d.place for d in Dataset.select().where(Dataset.id.in_({t.dataset_id for t in tasks}))}
        places = {p.name: p for p in IndexPlace.select().where(IndexPlace.name.in_(set(place_of.values())))}
        begun = Chunk.select(Chunk.version_id).where(Chunk.version_id.in_([t.version_id for t in tasks])).distinct()
        leftovers = {row.version_id for row in begun}
        jobs: list[Job] = []
        for task in tasks:
            document, place = documents.get(task.document_id), places.get(place_of.get(task.dataset_id, ""))
            if document is not None and place is not None:
                jobs.append(job_of(task, document, place, now, leftovers=task.version_id in leftovers))
        for job in jobs:
            mark_version(job, "writing", now)
        gone = set(ids) - {job.task_id for job in jobs}
        if gone:
            # The document's dataset or place vanished between the request and now: nobody can ask for the result.
            Task.update(state="cancelled", lease_owner=None).where(
                Task.id.in_(gone), Task.lease_owner == owner, Task.state == "running"
            ).execute()
        return jobs

    def _held(self, jobs: Sequence[Job]) -> frozenset[str]:
        """Which of `jobs` are still their owner's. The update locks the rows until the transaction ends, on engines
        with row locks too; the read after it does not depend on how an engine counts changed rows."""
        ids = {job.task_id for job in jobs}
        owners = {job.owner for job in jobs}
        mine = (Task.id.in_(ids), Task.state == "running", Task.lease_owner.in_(owners))
        until = now_ms(self._clock) + int(self._settings.lease_s * 1000)
        Task.update(lease_until=until).where(*mine).execute()
        return frozenset(row.id for row in Task.select(Task.id).where(*mine))

    def _held_in_place(self, jobs: Sequence[Job]) -> frozenset[str]:
        """`_held`, without those whose dataset moved to another place since the claim (see `rebuild_service`): what
        they wrote to the index is in the place that was left. They are put back, to be done again in the new one."""
        held = self._held(jobs)
        datasets = Dataset.select(Dataset.id, Dataset.place).where(Dataset.id.in_({job.dataset_id for job in jobs}))
        places = {row.id: row.place for row in datasets}
        moved = {
            job.task_id
            for job in jobs
            if job.task_id in held and places.get(job.dataset_id, job.place.name) != job.place.name
        }
        if moved:
            Task.update(attempts=Task.attempts - 1).where(Task.id.in_(moved)).execute()
            # This worker must have let go of a task before it can claim it again.
            self._requeue(list(moved), not_before=now_ms(self._clock) + int(1000 * _RETRY_S), last_error=_MOVED)
        return held - moved

    def _if_held(self, job: Job, work: "Callable[[], Any]") -> Any:
        if job.task_id not in self._held([job]):
            raise TaskLost(f"The task {job.task_id!r} is no longer this worker's.")
        return work()

    def _report(self, reports: Sequence[Report]) -> frozenset[str]:
        now = now_ms(self._clock)
        held = self._held([report.job for report in reports])
        for report in reports:
            job = report.job
            if job.task_id not in held:
                continue
            self._write_task(report, report.stage)
            Document.update(
                run="RUNNING",
                progress=report.fraction,
                progress_msg=message_text(report),
                process_duration=_seconds(job, now),
            ).where(Document.id == job.document_id).execute()
        return frozenset(report.job.task_id for report in reports) - held

    def _write_task(self, report: Report, stage: str, **more: Any) -> None:
        Task.update(
            stage=stage,
            pages_done=report.pages_done,
            pages_total=report.pages_total,
            chunks_done=report.chunks_done,
            chunks_total=report.chunks_total,
            update_time=now_ms(self._clock),
            **more,
        ).where(Task.id == report.job.task_id).execute()

    def _finish(self, ended: Sequence[Ended]) -> frozenset[str]:
        now = now_ms(self._clock)
        held = self._held_in_place([end.report.job for end in ended])
        documents = {
            row.id: row
            for row in Document.select(
                Document.id,
                Document.name,
                Document.live_version,
                Document.chunk_count,
                Document.token_count,
                Document.enabled,
            ).where(Document.id.in_([end.report.job.document_id for end in ended]))
        }
        lost: set[str] = set()
        growth: dict[str, list[int]] = {}
        for end in ended:
            job = end.report.job
            before = documents.get(job.document_id)
            if job.task_id not in held or before is None:
                lost.add(job.task_id)
                continue
            self._go_live(end, before, now)
            counts = growth.setdefault(job.dataset_id, [0, 0])
            counts[0] += end.chunk_count - before.chunk_count
            counts[1] += end.token_count - before.token_count
        note_embedding([end.report for end in ended if end.report.job.task_id not in lost], "ok", now)
        for dataset_id, (chunks, tokens) in growth.items():
            Dataset.update(chunk_count=Dataset.chunk_count + chunks, token_count=Dataset.token_count + tokens).where(
                Dataset.id == dataset_id
            ).execute()
        return frozenset(lost)

    def _go_live(self, end: Ended, before: Document, now: int) -> None:
        job = end.report.job
        if before.live_version and before.live_version != job.version_id:
            # Searches that began before may still find its entries, and need its rows: it rests before it is swept.
            mark_version(job, VERSION_DEAD, now, version_id=before.live_version)
        DocumentVersion.delete().where(DocumentVersion.id == job.version_id).execute()
        if before.enabled != job.available:
            # It was switched on or off while it was ingested.
            Chunk.update(available=before.enabled).where(Chunk.version_id == job.version_id).execute()
        if before.enabled != job.available or before.name != job.name:
            enqueue_renewal(job.place.name, job.document_id, now)
        Document.update(
            live_version=job.version_id,
            run="DONE",
            progress=1.0,
            progress_msg=message_text(end.report),
            process_duration=_seconds(job, now),
            chunk_count=end.chunk_count,
            token_count=end.token_count,
        ).where(Document.id == job.document_id).execute()
        self._write_task(end.report, "done", state="done", lease_owner=None, lease_until=0)

    def _end_failed(self, task: Task, reason: str, messages: str) -> None:
        now = now_ms(self._clock)
        line = f"{from_ms(now):%H:%M:%S} [ERROR]{reason}"
        Task.update(state="failed", lease_owner=None, lease_until=0, last_error=reason, update_time=now).where(
            Task.id == task.id
        ).execute()
        document = Document.get_or_none(Document.id == task.document_id)
        dataset = Dataset.get_or_none(Dataset.id == task.dataset_id)
        if document is None or dataset is None:
            return
        # A request to parse took the old chunks off the totals; with no new ones to come they go for good.
        bury_versions([document], dataset.place, now)
        begun = document.process_begin_at or now
        Document.update(
            run="FAIL",
            progress=-1.0,
            progress_msg=f"{messages}\n{line}" if messages else line,
            process_duration=max(0, now - begun) / 1000,
        ).where(Document.id == task.document_id).execute()

    def _requeue(self, ids: Sequence[str], *, not_before: int = 0, last_error: str = "") -> None:
        Task.update(
            state="queued",
            lease_owner=None,
            lease_until=0,
            not_before=not_before,
            last_error=last_error,
            stage="queued",
            update_time=now_ms(self._clock),
        ).where(Task.id.in_(ids), Task.state == "running").execute()

    async def _take_back(self, condition: "Callable[[], Any]") -> int:
        """Requeue running tasks that fit; made under the writer's lock, so a report that came first is seen."""

        def look() -> bool:
            return bool(Task.select().where(Task.state == "running", condition()).exists())

        def take_back() -> int:
            limit = self._settings.attempts * _LOSSES_PER_ATTEMPT
            tasks = list(Task.select().where(Task.state == "running", condition()))
            for task in tasks:
                if task.attempts >= limit:
                    reason = (
                        f"The worker stopped {task.attempts} times while it worked on this file, so it was given up."
                    )
                    document = Document.get_or_none(Document.id == task.document_id)
                    self._end_failed(task, reason, document.progress_msg if document else "")
                else:
                    self._requeue([task.id])
            return len(tasks)

        if not await self._db.run(look):
            return 0
        return await self._db.write(take_back)


def _seconds(job: Job, now: int) -> float:
    return max(0, now - job.begun_ms) / 1000
