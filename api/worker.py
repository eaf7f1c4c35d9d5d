"""Wiring of the worker: the process that takes documents in and tidies up.

Embedded, it is a child of the server: a newline on its standard input wakes it, the end of that input stops it, and
`DATA/worker.lock` says that it is the only one of its kind. Others may run beside it on the same folder.
"""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from api.backends import Store, make_database, make_store
from api.db.data_folder import DataFolder, FileLock
from api.db.database import Database
from api.db.services.meters import make_meters
from api.db.services.model_catalogue import ModelCatalogue
from api.db.services.secret_box import SecretBox, former_secrets
from api.db.services.task_service import EMBEDDED_OWNER, TaskService
from api.db.services.tenant_logins import TenantLogins
from api.db.services.upkeep_service import UpkeepService
from api.worker_models import WorkerModels
from rag.blob.object_store import ObjectBlobStore
from rag.chunk.registry import chunkers
from rag.core import blocking, logs
from rag.core.blocking import Lane, run_in
from rag.core.clock import Clock, SystemClock
from rag.core.errors import Conflict, RagError, StoreUnavailable
from rag.core.ids import new_id
from rag.core.resources import asset_path
from rag.core.settings import Settings
from rag.ingest.grouping import EmbedGroup, WriteGroup
from rag.ingest.pipeline import Adapters, Pipeline
from rag.ingest.runner import Runner
from rag.llm.minilm import MiniLmEmbedder
from rag.llm.registry import Registry
from rag.parse.base import ParseLimits
from rag.parse.pool import ParsePool
from rag.queue.embedded import WorkerQueue
from rag.store.base import Place, SearchStore

STDIN = 0
_LOCK_WAIT_S = 30.0
_LOCK_LOOK_S = 0.1
_TICK_S = 1.0
_AWAY_S = 1.0
_AWAY_CHORE_S = 5.0
_SWEEP_S = 5.0
_REAP_S = 10.0
_ORPHANS_S = 60.0
_GROWN_AT_REST = 500
"""New entries that are worth optimising as soon as nothing else is to do."""
_GROWN_TOO_MUCH = 20_000
"""New entries after which searches are slow enough to optimise between documents."""

_Chore = tuple[float, Callable[[], Awaitable[object]]]
log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What a worker is made of, open."""

    settings: Settings
    clock: Clock
    owner: str
    folder: DataFolder
    tasks: TaskService
    upkeep: UpkeepService
    store: SearchStore
    writes: WriteGroup
    runner: Runner


async def run_worker(settings: Settings, *, embedded: bool) -> int:
    """Take documents in until a signal, or, embedded, until the server is gone. Returns the exit code.

    Raises:
        RagError: the data folder or a backend cannot be opened.
    """
    logs.configure(settings.log)
    stop = asyncio.Event()
    queue = WorkerQueue(STDIN if embedded else None)
    async with AsyncExitStack() as stack:
        _stop_at_signals(stop, stack)
        queue.open()
        stack.callback(queue.close)
        watch = asyncio.create_task(_stop_at_end(queue, stop))
        stack.callback(watch.cancel)
        if embedded:
            os.nice(settings.ingest.nice)
        folder = DataFolder(settings.data_dir)
        await run_in(Lane.FILES, folder.prepare)
        if embedded:
            lock = await _only_embedded(folder, stop)
            if lock is None:
                return 0
            stack.callback(lock.release)
        owner = f"{EMBEDDED_OWNER if embedded else 'worker-'}{new_id()}"
        opened = await stack.enter_async_context(_backends(settings, folder, stop))
        if opened is None:
            return 0
        parts = await stack.enter_async_context(_open(settings, folder, queue, owner, db=opened[0], store=opened[1]))
        if embedded and await parts.tasks.take_over(owner):
            log.info("leases_taken_over")
        log.info("worker_ready", owner=owner)
        keeper = asyncio.create_task(_Keeper(parts).run())
        try:
            await parts.runner.run(stop)
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
    blocking.shutdown()
    log.info("worker_stopped", owner=owner)
    return 0


@asynccontextmanager
async def _backends(
    settings: Settings, folder: DataFolder, stop: asyncio.Event
) -> AsyncIterator[tuple[Database, Store] | None]:
    """Rows and index, open; of servers that are down the worker waits for its first sign. None if `stop` came first."""
    async with AsyncExitStack() as stack:
        db = make_database(settings, folder)
        stack.callback(db.close)
        # A worker asks the index for nothing, so it keeps no copy of it in memory.
        store = make_store(settings, folder, SystemClock(), cache_bytes=0)
        stack.push_async_callback(store.close)
        if settings.rows.url:
            reached = await _reached("rows", lambda: run_in(Lane.ROWS, db.open), stop)
        else:
            reached = True
            await run_in(Lane.ROWS, db.open)
        await store.open()
        if settings.index.url:
            reached = reached and await _reached("index", store.check, stop)
        yield (db, store) if reached else None


async def _reached(part: str, reach: Callable[[], Awaitable[object]], stop: asyncio.Event) -> bool:
    """Wait until a server can be reached; False if `stop` came first.

    Raises:
        RagError: it cannot be used, and waiting would not help.
    """
    told = ""
    while not stop.is_set():
        try:
            await reach()
        except StoreUnavailable as error:
            if error.message != told:
                log.warning("server_away", part=part, reason=error.message)
            told = error.message
        else:
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(_AWAY_S):
                await stop.wait()
    return False


@asynccontextmanager
async def _open(
    settings: Settings, folder: DataFolder, queue: WorkerQueue, owner: str, *, db: Database, store: Store
) -> AsyncIterator[Parts]:
    """Build what works with the backends; close it in reverse."""
    clock = SystemClock()
    ingest = settings.ingest
    async with AsyncExitStack() as stack:
        tmp_dir = folder.tmp_path / f"ingest-{owner}"
        await run_in(Lane.FILES, _fresh_tmp, folder.tmp_path, tmp_dir)
        stack.callback(shutil.rmtree, tmp_dir, ignore_errors=True)
        pool = ParsePool(
            children=ingest.parse_children,
            limits=ParseLimits(
                memory_bytes=ingest.parse_memory_bytes,
                timeout_s=ingest.parse_timeout_s,
                output_chars=ingest.parse_output_chars,
            ),
            recycle_files=ingest.parse_recycle_files,
            tmp_dir=tmp_dir.absolute(),
        )
        await pool.open()
        stack.push_async_callback(pool.close)
        # One thread a call and several calls side by side: no thread waits for another inside a matrix product.
        model = MiniLmEmbedder(asset_path("minilm"), threads=1, batch_tokens=ingest.embed_batch_tokens)
        stack.callback(model.close)
        embedding = EmbedGroup(model, lanes=settings.models.embed_threads)
        blobs = ObjectBlobStore.in_folder(folder.files_path)
        tasks = TaskService(db, clock, ingest)
        writes = WriteGroup(
            tasks,
            store,
            clock,
            max_chunks=ingest.index_group_chunks,
            max_wait_s=ingest.index_group_s,
            patient=bool(settings.rows.url or settings.index.url),
        )

        models = WorkerModels(await stack.enter_async_context(_catalogue(settings, folder, db)), embedding)
        adapters = Adapters(
            parser=pool,
            chunkers=chunkers(),
            embed=models.of_job,
            store=store,
            blobs=blobs,
            sink=tasks,
            writes=writes,
            clock=clock,
            tmp_dir=tmp_dir,
            max_file_bytes=ingest.max_file_bytes,
        )
        yield Parts(
            settings=settings,
            clock=clock,
            owner=owner,
            folder=folder,
            tasks=tasks,
            upkeep=UpkeepService(db, clock, store, blobs, models.embed),
            store=store,
            writes=writes,
            runner=Runner(tasks, Pipeline(adapters), queue, clock, ingest, owner=owner),
        )


@asynccontextmanager
async def _catalogue(settings: Settings, folder: DataFolder, db: Database) -> AsyncIterator[ModelCatalogue]:
    """The models of the server and of its tenants, open; what tenants change is followed."""
    clock = SystemClock()
    given = settings.auth.secret
    secret = given.get_secret_value() if given is not None else await run_in(Lane.FILES, folder.secret)
    logins = TenantLogins(db, SecretBox(secret, *former_secrets(settings)), private=settings.models.private_addresses)
    meters = make_meters(settings, db, clock)
    models = ModelCatalogue(
        settings, Registry(settings), usage=meters.usage, clock=clock, logins=logins, budget=meters.budget
    )
    await models.open()
    try:
        await models.refresh()
        watching = asyncio.create_task(models.watch(settings.models.tenants_refresh_s))
        try:
            yield models
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    finally:
        await models.close()


class _Keeper:
    """Does the chores beside ingestion, one at a time: takes up lost tasks, sweeps. Beside them it compacts the index,
    which may take half an hour."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._chores: list[_Chore] = [
            (_REAP_S, self._reap),
            (_TICK_S, parts.upkeep.drain_outbox),
            (_SWEEP_S, parts.upkeep.sweep),
            (_ORPHANS_S, parts.upkeep.bury_orphans),
            (_ORPHANS_S, parts.upkeep.remove_garbage),
            (_ORPHANS_S, parts.upkeep.tidy_rebuilds),
        ]
        self._grown: dict[Place, int] = {}
        self._optimised = parts.clock.monotonic()
        self._first = True

    async def run(self) -> None:
        """Go on until cancelled. A chore that fails is logged and comes again at its time."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._repeat(self._chores))
            both.create_task(self._repeat([(_TICK_S, self._optimise)]))

    async def _repeat(self, chores: list[_Chore]) -> None:
        due = [0.0] * len(chores)
        while True:
            for number, (every_s, chore) in enumerate(chores):
                now = self._parts.clock.monotonic()
                if now >= due[number]:
                    due[number] = now + every_s
                    try:
                        await chore()
                    except RagError as error:
                        log.warning("chore_failed", chore=chore.__name__, code=error.code, reason=error.message)
                        if isinstance(error, StoreUnavailable):
                            due[number] = max(due[number], self._parts.clock.monotonic() + _AWAY_CHORE_S)
                    except Exception:  # the worker's edge: a chore that breaks must not end the others
                        log.exception("chore_broke", chore=chore.__name__)
            await asyncio.sleep(_TICK_S)

    async def _reap(self) -> None:
        count = await self._parts.tasks.reap()
        if count:
            log.info("leases_reaped", count=count)
            self._parts.runner.wake()

    async def _optimise(self) -> None:
        """Compact what has grown: when at rest, or when it has grown so much that searches feel it."""
        for place, entries in self._parts.writes.grown().items():
            self._grown[place] = self._grown.get(place, 0) + entries
        if self._first and self._parts.runner.idle:
            # What an earlier worker left: known only to the index itself.
            self._first = False
            for place in await self._parts.upkeep.places():
                self._grown.setdefault(place, 1)
        most = max(self._grown.values(), default=0)
        rested = self._parts.clock.monotonic() - self._optimised >= self._parts.settings.ingest.optimise_s
        at_rest = self._parts.runner.idle and (most >= _GROWN_AT_REST or (most > 0 and rested))
        if not at_rest and most < _GROWN_TOO_MUCH:
            return
        lock = FileLock(self._parts.folder.path / "optimise.lock")
        if not await run_in(Lane.FILES, lock.acquire):
            return
        with lock:
            for place, grown in list(self._grown.items()):
                if at_rest or grown >= _GROWN_TOO_MUCH:
                    stats = await self._parts.store.optimise(place)
                    self._grown.pop(place, None)
                    log.debug("optimised", place=place.name, entries=stats.entries, unindexed=stats.unindexed)
        self._optimised = self._parts.clock.monotonic()


def _stop_at_signals(stop: asyncio.Event, stack: AsyncExitStack) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
        stack.callback(loop.remove_signal_handler, number)


async def _stop_at_end(queue: WorkerQueue, stop: asyncio.Event) -> None:
    await queue.ended.wait()
    stop.set()


async def _only_embedded(folder: DataFolder, stop: asyncio.Event) -> FileLock | None:
    """The folder's worker lock; None if `stop` came first.

    The worker of a server that was killed a moment ago may still be ending, so this waits a while.

    Raises:
        Conflict: another embedded worker keeps it.
    """
    lock = folder.worker_lock()
    for _ in range(int(_LOCK_WAIT_S / _LOCK_LOOK_S)):
        if stop.is_set():
            return None
        if await run_in(Lane.FILES, lock.acquire):
            return lock
        await asyncio.sleep(_LOCK_LOOK_S)
    raise Conflict(f"Another embedded worker (process {lock.holder()}) uses the data folder {str(folder.path)!r}.")


def _fresh_tmp(above: Path, own: Path) -> None:
    """Make this worker's temporary folder; embedded, also remove those of embedded workers that were killed."""
    if own.name.startswith(f"ingest-{EMBEDDED_OWNER}"):
        for left in above.glob(f"ingest-{EMBEDDED_OWNER}*"):
            shutil.rmtree(left, ignore_errors=True)
    own.mkdir(mode=0o700)
