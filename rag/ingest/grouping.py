"""Where documents in work share a call: texts of many in one embedding batch, chunks of many in one index write.

Both groups batch by what is waiting while the last call runs, so that a single small document is not held up and
thousands of small ones cost few calls.
"""

import asyncio
import inspect
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import structlog

from rag.core.blocking import Lane, run_in
from rag.core.clock import Clock
from rag.core.errors import ModelBadOutput, RagError, StoreUnavailable
from rag.core.types import ChunkText, Matrix
from rag.ingest.base import Ended, Job, Sink, TaskLost
from rag.llm.base import Embedded
from rag.store.base import Entry, Place, SearchStore

EMBED_AT_ONCE = 16
"""Texts of one embedding call: less than a second of work for long ones, so that progress moves, a stop is heeded, and
all lanes end together: the last call of the last document keeps one core alone."""

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 4.0
_ONE_BY_ONE_AFTER = 3
"""Repeats of a write after which its documents are tried one by one: it may be one of them alone that cannot be
written."""
_FAILURES_IN_A_ROW = 2
"""Documents tried one by one that fail before the server counts as away, each after its deadline."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Texts:
    texts: tuple[str, ...]
    result: "asyncio.Future[Embedded]"

    @property
    def chars(self) -> int:
        return sum(map(len, self.texts))


class Passages(Protocol):
    """An `Embedder`, as far as passages go."""

    @property
    def name(self) -> str: ...
    @property
    def dim(self) -> int: ...
    def encode(self, texts: Sequence[str]) -> Any: ...


class EmbedGroup:
    """Embeds texts of all documents in work, in the order they were handed in.

    `lanes` calls run side by side. With a local model of one thread each they use the cores better than one call
    that splits every matrix product. `dim` is the length that vectors must have, where the model does not know its own
    before its first call.
    """

    def __init__(self, embedder: Passages, *, lanes: int, at_once: int = EMBED_AT_ONCE, dim: int = 0) -> None:
        self.dim = dim or embedder.dim
        self._embedder = embedder
        self._lanes = lanes
        self._at_once = at_once
        self._waiting: deque[_Texts] = deque()
        self._running: set[asyncio.Task[None]] = set()

    def submit(self, texts: Sequence[str]) -> "asyncio.Future[Embedded]":
        """Queue `texts` and return the future of their vectors, one row per text. Cancel it to give up.

        Of the tokens of a call that others share, theirs are counted by length.

        The future raises:
            ModelError: the model failed, or its answer has the wrong shape.
        """
        request = _Texts(tuple(texts), asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if len(self._running) < self._lanes:
            task = asyncio.create_task(self._work())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return request.result

    async def encode(self, texts: Sequence[str]) -> Matrix:
        """The vectors of any number of texts, on all lanes.

        Raises:
            ModelError: the model failed, or its answer has the wrong shape.
        """
        parts = [self.submit(texts[start : start + self._at_once]) for start in range(0, len(texts), self._at_once)]
        try:
            rows = [(await part).vectors for part in parts]
        finally:
            for part in parts:
                part.cancel()
        joined: Matrix = np.concatenate(rows) if rows else np.zeros((0, self.dim), dtype=np.float32)
        return joined

    async def _work(self) -> None:
        while batch := self._take():
            texts = [text for request in batch for text in request.texts]
            (outcome,) = await asyncio.gather(self._encode(texts), return_exceptions=True)
            if isinstance(outcome, BaseException):
                for request in batch:
                    _fail(request.result, outcome)
                continue
            for request, share in zip(batch, _shares(outcome, batch), strict=True):
                if not request.result.done():
                    request.result.set_result(share)

    def _take(self) -> list[_Texts]:
        batch: list[_Texts] = []
        size = 0
        while self._waiting:
            if self._waiting[0].result.done():
                self._waiting.popleft()
                continue
            if batch and size + len(self._waiting[0].texts) > self._at_once:
                break
            request = self._waiting.popleft()
            batch.append(request)
            size += len(request.texts)
        return batch

    async def _encode(self, texts: list[str]) -> Embedded:
        encode = self._embedder.encode
        if inspect.iscoroutinefunction(encode):
            embedded: Embedded = await encode(texts)
        else:
            embedded = await run_in(Lane.MODEL, encode, texts)
        if embedded.vectors.shape != (len(texts), self.dim):
            raise ModelBadOutput(
                f"The embedding model {self._embedder.name!r} returned vectors of shape "
                f"{embedded.vectors.shape}; expected {(len(texts), self.dim)}.",
                model=self._embedder.name,
            )
        return replace(embedded, vectors=embedded.vectors.astype(np.float32, copy=False))


def _shares(embedded: Embedded, batch: Sequence[_Texts]) -> Iterator[Embedded]:
    """What of a call is whose; the tokens add up to the call's."""
    chars = [request.chars for request in batch]
    whole = sum(chars) or 1
    start = seen = counted = 0
    for request, count in zip(batch, chars, strict=True):
        end = start + len(request.texts)
        seen += count
        until = embedded.tokens * seen // whole
        yield replace(embedded, vectors=embedded.vectors[start:end], tokens=until - counted)
        start, counted = end, until


@dataclass(slots=True, eq=False)
class _Write:
    job: Job
    chunks: tuple[ChunkText, ...]
    entries: tuple[Entry, ...]
    after: "tuple[asyncio.Future[None], ...]"
    end: Callable[[], Ended] | None
    tell: Callable[[str], None] | None
    queued_at: float
    done: "asyncio.Future[None]"
    ended: Ended | None = None

    @property
    def is_open(self) -> bool:
        return not self.done.done()

    def ending(self) -> Ended | None:
        """What `end` gave the first time: it tells the document's progress."""
        if self.ended is None and self.end is not None:
            self.ended = self.end()
        return self.ended


class WriteGroup:
    """Writes chunks of many documents together: rows, then index, then one transaction that ends their tasks.

    A write happens when `max_chunks` wait, when the oldest has waited `max_wait_s`, or at once when no document is
    on its way here.

    Args:
        patient: Whether a write that finds rows or index away is repeated until they are back. Each step of a write
            can be repeated, and what was parsed and embedded for it is not lost meanwhile. A document that cannot be
            written while others can be is not waited for: it fails with StoreUnavailable.
    """

    def __init__(
        self,
        sink: Sink,
        store: SearchStore,
        clock: Clock,
        *,
        max_chunks: int = 500,
        max_wait_s: float = 1.0,
        patient: bool = False,
    ) -> None:
        self._sink = sink
        self._store = store
        self._clock = clock
        self._max_chunks = max_chunks
        self._max_wait_s = max_wait_s
        self._patient = patient
        self._waiting: deque[_Write] = deque()
        self._chunks_waiting = 0
        self._upstream = 0
        self._wake = asyncio.Event()
        self._flusher: asyncio.Task[None] | None = None
        self._grown: Counter[Place] = Counter()

    def grown(self) -> "Counter[Place]":
        """Entries written to each place since this was last asked."""
        grown, self._grown = self._grown, Counter()
        return grown

    @contextmanager
    def upstream(self) -> Iterator[None]:
        """Says that a document is on its way: a write may wait for it."""
        self._upstream += 1
        try:
            yield
        finally:
            self._upstream -= 1
            self._wake.set()

    def submit(
        self,
        job: Job,
        chunks: Sequence[ChunkText],
        entries: Sequence[Entry],
        *,
        after: "Sequence[asyncio.Future[None]]" = (),
        end: Callable[[], Ended] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> "asyncio.Future[None]":
        """Queue a part of a document and return the future of its write.

        Args:
            after: Futures of the document's earlier parts; if one failed, this part is not written.
            end: Given with the last part: called when all parts are in the index, and the task ends with it.
            tell: Called with the reason, once, when a patient write has to wait.

        The future raises:
            TaskLost: the task is no longer this worker's.
            StoreError: rows or index could not be written.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        item = _Write(job, tuple(chunks), tuple(entries), tuple(after), end, tell, self._clock.monotonic(), done)
        self._waiting.append(item)
        self._chunks_waiting += len(item.chunks)
        self._wake.set()
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._work())
        return done

    async def _work(self) -> None:
        while self._waiting:
            await self._gathered()
            batch = self._take()
            (outcome,) = await asyncio.gather(self._flush_patiently(batch), return_exceptions=True)
            if isinstance(outcome, BaseException):
                _fail_all(batch, outcome)
            else:
                _succeed_all(batch)

    async def _gathered(self) -> None:
        deadline = self._waiting[0].queued_at + self._max_wait_s
        while self._upstream > 0 and self._chunks_waiting < self._max_chunks:
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return
            self._wake.clear()
            try:
                async with asyncio.timeout(left):
                    await self._wake.wait()
            except TimeoutError:
                return

    def _take(self) -> list[_Write]:
        """The next parts, in order, at least one; those whose caller gave up or whose earlier part failed are not
        written."""
        batch: list[_Write] = []
        size = 0
        while self._waiting and (not batch or size + len(self._waiting[0].chunks) <= self._max_chunks):
            item = self._waiting.popleft()
            self._chunks_waiting -= len(item.chunks)
            if item.done.done():
                continue
            failed = [f for f in item.after if f.done() and (f.cancelled() or f.exception() is not None)]
            if failed:
                error = None if failed[0].cancelled() else failed[0].exception()
                _fail(item.done, error or TaskLost("An earlier part of the document was given up."))
                continue
            batch.append(item)
            size += len(item.chunks)
        return batch

    async def _flush_patiently(self, batch: list[_Write]) -> None:
        """Write all of `batch`, to which others that wait are added when it cannot be written for a while."""
        pause_s = _FIRST_PAUSE_S
        told: set[Callable[[str], None]] = set()
        for repeats in itertools.count():
            try:
                if repeats < _ONE_BY_ONE_AFTER:
                    await self._flush([item for item in batch if item.is_open])
                else:
                    batch += self._take()
                    await self._write_one_by_one([item for item in batch if item.is_open], first=repeats)
                return
            except StoreUnavailable as error:
                if not self._patient:
                    raise
                waiting = [item for item in batch if item.is_open]
                log.warning("write_waits", chunks=sum(len(item.chunks) for item in waiting), reason=error.message)
                for tell in {item.tell for item in waiting if item.tell is not None} - told:
                    tell(f"[WARN]{error.message} What is ready is kept and written as soon as that works.")
                    told.add(tell)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _flush(self, batch: list[_Write]) -> None:
        """Write `batch`; when the backend refuses a mixed batch for good, each document is tried by itself."""
        if not batch:
            return
        try:
            await self._write(batch)
        except RagError as error:
            jobs = dict.fromkeys(item.job.task_id for item in batch)
            if error.retryable or len(jobs) == 1:
                raise
            await self._write_one_by_one(batch)

    async def _write_one_by_one(self, batch: list[_Write], *, first: int = 0) -> None:
        """Write each document of `batch` by itself. One that is refused fails, and so does one that finds the backend
        away while another does not.

        Args:
            first: Which document is the first to be tried, counted round and round.
        Raises:
            StoreUnavailable: documents are left that found the backend away.
        """
        documents: dict[str, list[_Write]] = {}
        for item in batch:
            documents.setdefault(item.job.task_id, []).append(item)
        found_away: list[tuple[list[_Write], StoreUnavailable]] = []
        order = list(documents.values())
        start = first % len(order) if order else 0
        for own in order[start:] + order[:start]:
            try:
                await self._write(own)
            except StoreUnavailable as error:
                found_away.append((own, error))
                if len(found_away) >= _FAILURES_IN_A_ROW:
                    break
            except RagError as error:
                _fail_all(own, error)
            else:
                _succeed_all(own)
                # It is there, or there again: what fails now does so by itself.
                while found_away:
                    await self._write_or_fail(found_away.pop()[0])
        if found_away:
            raise found_away[0][1]

    async def _write_or_fail(self, own: list[_Write]) -> None:
        try:
            await self._write(own)
        except RagError as error:
            _fail_all(own, error)
        else:
            _succeed_all(own)

    async def _write(self, batch: list[_Write]) -> None:
        lost = await self._sink.write_chunks([(item.job, item.chunks) for item in batch])
        kept = [item for item in batch if item.job.task_id not in lost]
        places: dict[Place, list[Entry]] = {}
        for item in kept:
            places.setdefault(item.job.place, []).extend(item.entries)
        # A version that goes live must be found from then on, with all of its parts; the others may wait.
        goes_live = {item.job.place for item in kept if item.end is not None}
        for place, entries in places.items():
            if entries or place in goes_live:
                await self._store.upsert(place, entries, visible=place in goes_live)
                self._grown[place] += len(entries)
        ended = [ending for item in kept if (ending := item.ending()) is not None]
        if ended:
            lost |= await self._sink.finish(ended)
        for item in batch:
            if item.job.task_id in lost:
                _fail(item.done, TaskLost(f"The task {item.job.task_id!r} is no longer this worker's."))


def _succeed_all(items: Iterable[_Write]) -> None:
    for item in items:
        if item.is_open:
            item.done.set_result(None)


def _fail_all(items: Iterable[_Write], error: BaseException) -> None:
    for item in items:
        _fail(item.done, error)


def _fail(future: "asyncio.Future[Embedded] | asyncio.Future[None]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        # Whoever queued it may have given up meanwhile; an exception nobody reads is then no news.
        future.exception()
