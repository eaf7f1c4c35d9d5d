"""`parley index`: what is in the search index, and making it anew from the rows.

These commands open the data folder and the servers of the settings themselves: they work beside a running server and
worker, and without.
"""

import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from api.backends import Store, make_database, make_store
from api.db.data_folder import DataFolder, FileLock
from api.db.database import Database
from api.db.services import rebuild_service
from api.db.services.index_state import PlaceState, advice, index_state
from api.db.services.rebuild_claim import RebuildClaim
from api.db.services.rebuild_service import RebuildService
from rag.core import logs
from rag.core.blocking import Lane, run_in
from rag.core.clock import Clock, SystemClock
from rag.core.errors import Conflict, RagError, Unsupported
from rag.core.ids import new_id
from rag.core.resources import asset_path
from rag.core.settings import Settings
from rag.core.types import Matrix
from rag.ingest.entries import REVISION
from rag.ingest.grouping import EmbedGroup
from rag.llm.minilm import MiniLmEmbedder

_LINE_EVERY_S = 10.0
_SHOWN_CHARS = 180


@dataclass(frozen=True, kw_only=True, slots=True)
class _Opened:
    settings: Settings
    folder: DataFolder
    clock: Clock
    db: Database
    store: Store


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[_Opened]:
    """Rows and index of the settings, as they are: `DataFolder.prepare` is the caller's, and a schema that is not the
    newest is brought up to date."""
    folder = DataFolder(settings.data_dir)
    clock = SystemClock()
    db = make_database(settings, folder)
    await run_in(Lane.ROWS, db.open)
    try:
        store = make_store(settings, folder, clock, cache_bytes=0)
        await store.open()
        try:
            yield _Opened(settings=settings, folder=folder, clock=clock, db=db, store=store)
        finally:
            await store.close()
    finally:
        db.close()


class RebuildView:
    """One progress bar; where nobody looks at a terminal, a line now and then."""

    def __init__(self, console: Console, clock: Clock) -> None:
        self._console = console
        self._clock = clock
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[detail]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._bar: TaskID | None = None
        self._place = ""
        self._began = 0.0
        self._first = 0
        self._line_at = -_LINE_EVERY_S

    def __enter__(self) -> "RebuildView":
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def show(self, progress: rebuild_service.Progress) -> None:
        now = self._clock.monotonic()
        if progress.place != self._place:
            self._place, self._began, self._first = progress.place, now, progress.chunks_done
            if progress.resumed:
                self._console.print(f"Going on with {progress.place}, which an earlier run began.", highlight=False)
        text = detail(progress, self._first, now - self._began)
        head = f"place {progress.number} of {progress.places}"
        if not self._console.is_terminal:
            if progress.stage == "done" or now - self._line_at >= _LINE_EVERY_S:
                self._line_at = now
                self._console.print(f"{head}: {text}", markup=False, highlight=False, soft_wrap=True)
            return
        if self._bar is None:
            self._bar = self._bars.add_task(head, detail=text)
        total = max(progress.chunks_total, 1)
        done = total if progress.stage == "done" else progress.chunks_done
        self._bars.update(self._bar, description=head, completed=done, total=total, detail=text)


def detail(progress: rebuild_service.Progress, first: int, seconds: float) -> str:
    """Chunks, chunks a second since chunk `first`, and what is left."""
    parts = [f"{progress.chunks_done:,} of {progress.chunks_total:,} chunks"]
    speed = (progress.chunks_done - first) / seconds if seconds > 0 else 0.0
    if speed > 0:
        parts.append(f"{speed:.0f} chunks/s")
    left = progress.chunks_total - progress.chunks_done
    if speed > 0 and left > 0:
        minutes, rest = divmod(round(left / speed), 60)
        parts.append(f"{minutes}:{rest:02} left")
    return ", ".join([*parts, progress.stage])


async def rebuild_index(settings: Settings) -> int:
    """Make every place anew from the rows, or go on with what an earlier run left.

    Raises:
        Conflict: another run is at work.
    """
    console = Console(stderr=True)
    logs.configure(settings.log.model_copy(update={"level": "warning"}))
    # Beside a server, its searches go first.
    os.nice(settings.ingest.nice)
    await run_in(Lane.FILES, DataFolder(settings.data_dir).prepare)
    async with _opened(settings) as parts:
        with await run_in(Lane.FILES, _only_one, parts.folder):
            model = MiniLmEmbedder(asset_path("minilm"), threads=1, batch_tokens=settings.ingest.embed_batch_tokens)
            group = EmbedGroup(model, lanes=settings.models.embed_threads)

            async def embed(name: str, texts: Sequence[str]) -> Matrix:
                if name not in (model.name, model.name.partition("@")[0]):
                    raise Unsupported(f"The embedding model {name!r} is not available to `parley index rebuild`.")
                return await group.encode(texts)

            secret = await run_in(Lane.FILES, parts.folder.secret)
            owner = f"{hashlib.sha256(secret.encode()).hexdigest()[:16]}:{new_id()}"
            claim = RebuildClaim(parts.db, parts.clock, parts.store, owner=owner, made_for=_made_for(settings))
            at_once = min(settings.ingest.index_group_chunks, rebuild_service.CHUNKS_AT_ONCE)
            service = RebuildService(parts.db, parts.clock, parts.store, embed, claim, chunks_at_once=at_once)
            began = parts.clock.monotonic()
            try:
                with RebuildView(console, parts.clock) as view:
                    done = await service.run(view.show)
            finally:
                model.close()
            seconds = parts.clock.monotonic() - began
    places = "1 place" if done.places == 1 else f"{done.places} places"
    console.print(
        f"{places} rebuilt, {done.chunks:,} chunks written in {seconds:.0f} s."
        if done.places
        else "Nothing to rebuild: there are no places yet, or an earlier run had only an old one left to remove.",
        highlight=False,
    )
    return 0


def _only_one(folder: DataFolder) -> FileLock:
    lock = FileLock(folder.path / "rebuild.lock")
    if not lock.acquire():
        raise Conflict(
            f"Another `parley index rebuild` (process {lock.holder() or 'unknown'}) is at work on this data folder; "
            "`parley index status` shows how far it is."
        )
    return lock


def _made_for(settings: Settings) -> str:
    """What a half-filled place must have been filled for, to go on with it."""
    if not settings.index.url:
        return f"lancedb revision {REVISION}"
    where = f"{settings.index.url} {settings.index.prefix}"
    if len(where) > _SHOWN_CHARS:
        # The column has an end; the whole decides nevertheless.
        where = f"{where[:_SHOWN_CHARS]} {hashlib.sha256(where.encode()).hexdigest()[:16]}"
    return f"elasticsearch {where} revision {REVISION}"


class NotCompared(RagError):
    """Rows and index were not compared, as that would have changed the rows. `empty` tells that there are none yet."""

    def __init__(self, message: str, *, empty: bool) -> None:
        super().__init__(message)
        self.empty = empty


async def look_at_index(settings: Settings) -> tuple[str, list[PlaceState]]:
    """The index of the settings, by name and version, and the state of each place. Changes no rows.

    Raises:
        NotCompared: the schema is not the newest.
    """
    found = await run_in(Lane.ROWS, make_database(settings, DataFolder(settings.data_dir)).examine)
    if found.schema < found.newest:
        raise NotCompared(
            f"not looked at: the schema is {found.schema} of {found.newest}, `parley serve` brings it up to date",
            empty=found.schema == 0,
        )
    async with _opened(settings) as parts:
        return await parts.store.check(), await index_state(parts.db, parts.store, parts.clock)


async def show_index(settings: Settings) -> int:
    """Print each place with what the rows and the index have of it; 1 if anything is missing or was not compared."""
    try:
        where, places = await look_at_index(settings)
    except NotCompared as reason:
        Console().print(reason.message, markup=False, highlight=False)
        return 0 if reason.empty else 1
    table = Table("place", "embedding model", "datasets", "documents", "chunks", "found", "missing", "rebuild")
    for place in places:
        table.add_row(
            place.name,
            escape(place.embedding_model),
            *(f"{n:,}" for n in (place.datasets, place.documents, place.chunks, place.entries, place.missing)),
            _rebuild_cell(place),
        )
    console = Console()
    console.print(escape(where), highlight=False)
    console.print(table)
    for place in places:
        if place.damage:
            console.print(f"{place.name}: {place.damage.splitlines()[0]}", markup=False, highlight=False)
    todo = advice(places)
    if todo:
        console.print(todo, markup=False, highlight=False)
    return 1 if todo else 0


def _rebuild_cell(place: PlaceState) -> str:
    if place.rebuild is None:
        return ""
    share = 100 * place.rebuild.chunks_done // max(1, place.rebuild.chunks_total)
    if place.rebuild.running:
        return f"{place.rebuild.state}, {share} %"
    return f"stopped at {share} %"
