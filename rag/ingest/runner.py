"""Many documents at a time: claims jobs while there is room, reports on them each second, and ends them."""

import asyncio

import structlog

from rag.core.clock import Clock
from rag.core.errors import IngestError, RagError
from rag.core.settings import IngestSettings
from rag.ingest.base import SMALL_BYTES, Job, Source, TaskLost
from rag.ingest.pipeline import Pipeline
from rag.ingest.progress import Track
from rag.queue.base import JobQueue

SMALL_IN_WORK = 160
"""Small documents in work at a time: more than are done in the second an index write may wait for company."""
_SMALL_ROOM = SMALL_IN_WORK // 4
_REPORT_S = 1.0
"""Each report is a heartbeat too: it extends the lease."""
_GRACE_S = 2.0

log = structlog.get_logger(__name__)


class Runner:
    """The ingestion of one worker. Everything runs on one event loop."""

    def __init__(
        self,
        source: Source,
        pipeline: Pipeline,
        queue: JobQueue,
        clock: Clock,
        settings: IngestSettings,
        *,
        owner: str,
    ) -> None:
        self._source = source
        self._pipeline = pipeline
        self._queue = queue
        self._clock = clock
        self._settings = settings
        self._owner = owner
        self._tracks: dict[str, Track] = {}
        self._works: dict[str, asyncio.Task[None]] = {}
        self._lost: set[str] = set()
        self._wake = asyncio.Event()
        self._dry = (False, False)

    @property
    def idle(self) -> bool:
        """Whether no document is in work."""
        return not self._works

    def wake(self) -> None:
        """Look at the tasks now."""
        self._dry = (False, False)
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then finish what is nearly done and give back the rest."""
        helpers = [
            asyncio.create_task(work) for work in (self._listen(), self._report_each_second(), self._wake_at(stop))
        ]
        try:
            while not stop.is_set():
                self._wake.clear()
                if await self._take_jobs():
                    continue
                await self._wake.wait()
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await self._wind_down()

    async def _take_jobs(self) -> bool:
        """Start what there is room for. Returns whether more may be waiting for room that is there."""
        small, large = self._room()
        if not small and not large:
            return False
        try:
            jobs = await self._source.claim(self._owner, small=small, large=large)
        except RagError as error:
            log.warning("claim_failed", code=error.code, reason=error.message)
            return False
        # Of those claimed together the smallest is parsed first: embedding has nothing to do until one is.
        for job in sorted(jobs, key=lambda job: job.size):
            self._tracks[job.task_id] = Track(job, self._clock)
            work = asyncio.create_task(self._work(self._tracks[job.task_id]))
            self._works[job.task_id] = work
        found = sum(1 for job in jobs if job.size <= SMALL_BYTES)
        self._dry = (self._dry[0] or found < small, self._dry[1] or len(jobs) - found < large)
        return bool(jobs)

    def _room(self) -> tuple[int, int]:
        """How many small and large jobs to ask for; none of a kind that ran dry, until the next wake-up or poll."""
        small = sum(1 for track in self._tracks.values() if track.job.size <= SMALL_BYTES)
        large = len(self._tracks) - small
        small_room = SMALL_IN_WORK - small
        # Small jobs are claimed some dozens at a time: each claim is a transaction.
        if self._dry[0] or small_room < _SMALL_ROOM:
            small_room = 0
        return small_room, 0 if self._dry[1] else max(0, self._settings.concurrency - large)

    async def _work(self, track: Track) -> None:
        job = track.job
        try:
            await self._pipeline.run(job, track)
            log.debug("ingested", document_id=job.document_id, seconds=round(track.total_s(), 3))
        except asyncio.CancelledError:
            if job.task_id in self._lost:
                await self._settle(self._source.abandon(job), job)
            raise
        except TaskLost:
            await self._settle(self._source.abandon(job), job)
        except RagError as error:
            await self._end_badly(track, error)
        except Exception as error:  # the worker's edge: no document may stop the others
            log.exception("ingest_broke", document_id=job.document_id)
            reason = f"An internal error ({type(error).__name__}) stopped the ingestion; the worker's log has more."
            await self._settle(self._source.retry(track.report(), reason), job)
        finally:
            self._tracks.pop(job.task_id, None)
            self._works.pop(job.task_id, None)
            self._lost.discard(job.task_id)
            self._wake.set()

    async def _end_badly(self, track: Track, error: RagError) -> None:
        job = track.job
        log.info("ingest_failed", document_id=job.document_id, code=error.code, reason=error.message)
        if error.retryable and not isinstance(error, IngestError):
            await self._settle(self._source.retry(track.report(), error.message), job)
        else:
            await self._settle(self._source.fail(track.report(), error.message), job)

    async def _settle(self, ending: "object", job: Job) -> None:
        """Await a row change that ends a job; if rows are out of reach, its lease runs out and it is taken up again."""
        try:
            await ending  # type: ignore[misc]  # a coroutine of Source, whatever it returns
        except RagError as error:
            log.warning("ending_not_written", document_id=job.document_id, code=error.code, reason=error.message)

    async def _listen(self) -> None:
        while True:
            await self._queue.wait(self._settings.poll_s)
            self.wake()

    async def _wake_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()

    async def _report_each_second(self) -> None:
        while True:
            await asyncio.sleep(min(_REPORT_S, self._settings.heartbeat_s))
            try:
                await self._report()
            except RagError as error:
                log.warning("report_failed", code=error.code, reason=error.message)

    async def _report(self) -> None:
        """Write progress of all jobs in one transaction; give up those that were stopped or deleted.

        A small document is not reported in its first second, in which most of them are done. A job that is just
        being ended is left out too: its row may read `done` already.
        """
        reports = [
            track.report()
            for track in self._tracks.values()
            if track.job.size > SMALL_BYTES or track.total_s() >= _REPORT_S
        ]
        for task_id in await self._source.report([report for report in reports if report.stage != "done"]):
            work = self._works.get(task_id)
            track = self._tracks.get(task_id)
            if work is not None and track is not None and track.report().stage != "done":
                self._lost.add(task_id)
                work.cancel()

    async def _wind_down(self) -> None:
        """Let documents finish that only wait for their write, cancel the others, and give back what is left."""
        works = {work: self._tracks[task_id] for task_id, work in self._works.items()}
        for work, track in works.items():
            if track.report().stage not in ("indexing", "done"):
                work.cancel()
        if works:
            _, pending = await asyncio.wait(works, timeout=_GRACE_S)
            for work in pending:
                work.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        try:
            await self._source.release([track.job for work, track in works.items() if work.cancelled()])
        except RagError as error:
            log.warning("release_failed", code=error.code, reason=error.message)
