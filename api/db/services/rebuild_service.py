"""`parley index rebuild`: makes each place's entries again from the rows, beside the old place, then moves over.

Searches go on in the old place until the switch, which is one transaction. Documents that are ingested, changed or
deleted meanwhile are found by comparing (see `rebuild_rows`). For the last steps no ingestion begins; what runs may
end first. A job that is not done by then is given back when it ends, and done again in the new place.

A run can be killed anywhere: the next one takes its rows over and goes on.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from api.db.database import Database
from api.db.services import rebuild_rows
from api.db.services.chunk_rows import text_of
from api.db.services.rebuild_claim import RebuildClaim
from api.db.services.rebuild_drop import RebuildDrop
from api.db.services.rebuild_rows import CLOSING, DROPPING, STALE, Filled, Missing, Rebuild
from api.db.tables import Chunk, Document, IndexRebuild
from rag.core.clock import Clock, now_ms
from rag.core.errors import StoreError
from rag.core.types import ChunkText
from rag.ingest.entries import Embed, entries_of
from rag.store.base import Entry, SearchStore, Selector

GRACE_S = 5.0
"""How long the old place stays after the switch, for searches that began before it."""
CHUNKS_AT_ONCE = 128
PATIENCE_S = 60.0
"""How long the switch waits for documents that are being ingested."""
_LOOK_S = 0.25
_TELL_S = 1.0
_VERSIONS_AT_ONCE = 500
_BATCHES_AHEAD = 2
"""Batches that are analysed and embedded while one is written: no lane of the model waits."""
_DELETED_AT_ONCE = 200
_OPTIMISE_EVERY = 20_000

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a run is: it is at place `number` of `places`, and the chunks are that place's."""

    place: str
    number: int
    places: int
    stage: str
    chunks_done: int
    chunks_total: int
    resumed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What a run did."""

    places: int
    chunks: int


Watch = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Batch:
    """Chunks of some versions, and how far each of those is once they are written."""

    chunks: tuple[ChunkText, ...]
    steps: tuple[Filled, ...]


class RebuildService:
    """One run of the command.

    Args:
        chunks_at_once: Chunks in one write of the index, and in one step that a killed run may have to repeat.
        patience_s, grace_s: Shorter in tests only.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        store: SearchStore,
        embed: Embed,
        claim: RebuildClaim,
        *,
        chunks_at_once: int = CHUNKS_AT_ONCE,
        patience_s: float = PATIENCE_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self._db = db
        self._clock = clock
        self._store = store
        self._embed = embed
        self._claim = claim
        self._chunks_at_once = chunks_at_once
        self._patience_s = patience_s
        self._grace_s = grace_s
        self._drop = RebuildDrop(db, clock, store)

    async def run(self, watch: Watch) -> Summary:
        """Rebuild all places, or those that an earlier run left.

        Raises:
            Conflict: another run is at work.
            StoreError, ModelError: a backend failed; the next run goes on from here.
        """
        rebuilds = await self._claim.begin()
        written = 0
        todo = [rebuild for rebuild in rebuilds if rebuild.state != DROPPING]
        async with self._claim.kept(rebuilds):
            for number, rebuild in enumerate(todo, 1):
                filling = _Filling(self, rebuild, watch, number=number, places=len(todo))
                await filling.run()
                written += filling.written
            for rebuild in rebuilds:
                await self._drop.drop_old(rebuild)
        return Summary(places=len(todo), chunks=written)


class _Filling:
    """The rebuild of one place."""

    def __init__(self, service: RebuildService, rebuild: Rebuild, watch: Watch, *, number: int, places: int) -> None:
        self.written = 0
        self._db = service._db
        self._clock = service._clock
        self._store = service._store
        self._embed = service._embed
        self._claim = service._claim
        self._chunks_at_once = service._chunks_at_once
        self._patience_s = service._patience_s
        self._grace_s = service._grace_s
        self._rebuild = rebuild
        self._watch = watch
        self._number = number
        self._places = places
        self._told_at = -_TELL_S
        self._optimised_at = 0

    async def run(self) -> None:
        """Fill, close, switch."""
        if not await self._db.run(lambda: rebuild_rows.is_begun(self._rebuild)):
            # A place of this name may be there from another time the settings named this index.
            await self._store.drop(self._rebuild.new)
        elif not await self._holds_what_was_noted():
            await self._forget_all()
        await self._fill()
        await self._tell("optimising", at_once=True)
        await self._store.optimise(self._rebuild.new)
        await self._close()
        await self._tell("done", at_once=True)
        log.info("rebuild.switched", old=self._rebuild.old.name, new=self._rebuild.new.name, written=self.written)

    async def _close(self) -> None:
        """Let no ingestion begin, bring the rest, and switch."""

        def close() -> None:
            self._claim.hold(self._rebuild)
            IndexRebuild.update(state=CLOSING).where(IndexRebuild.id == self._rebuild.id).execute()

        def switch() -> int:
            self._claim.hold(self._rebuild)
            now = now_ms(self._clock)
            return rebuild_rows.switch(self._rebuild, now=now, drop_at=now + int(self._grace_s * 1000))

        await self._db.write(close)
        give_up = self._clock.monotonic() + self._patience_s
        checked = False
        while True:
            await self._fill()
            busy = await self._db.run(lambda: rebuild_rows.being_ingested(self._rebuild, now_ms(self._clock)))
            if busy and self._clock.monotonic() < give_up:
                await self._tell(f"waiting for {busy} documents that are being ingested")
                await asyncio.sleep(_LOOK_S)
                continue
            if not checked:
                checked = True
                if not await self._holds_what_was_noted():
                    await self._begin_again()
                    continue
            await self._store.upsert(self._rebuild.new, (), visible=True)
            if await self._db.write(switch) == 0:
                return

    async def _begin_again(self) -> None:
        """The new place lost entries while it was being filled: fill it once more.

        Raises:
            StoreError: it lost some again.
        """
        log.warning("rebuild.entries_lost", place=self._rebuild.new.name)
        await self._forget_all()
        await self._fill()
        if not await self._holds_what_was_noted():
            raise StoreError(
                f"The index keeps losing entries of {self._rebuild.new.name!r}: it holds fewer than were written. "
                "Look at its disk and its log, then run `parley index rebuild` again."
            )

    async def _holds_what_was_noted(self) -> bool:
        """Whether the new place holds as many entries as the rows say were written (someone may have deleted it)."""
        datasets, count = await self._db.run(lambda: rebuild_rows.noted_entries(self._rebuild))
        if count == 0:
            return True
        await self._store.upsert(self._rebuild.new, (), visible=True)
        return (await self._store.sample(self._rebuild.new, datasets)).total >= count

    async def _forget_all(self) -> None:
        def forget() -> None:
            self._claim.hold(self._rebuild)
            rebuild_rows.forget_versions(self._rebuild)

        await self._db.write(forget)
        await self._store.drop(self._rebuild.new)

    async def _fill(self) -> None:
        """Bring what is missing into the new place and take what is left over out of it, until neither is there."""
        while True:
            await self._take_out_left_over()
            found = await self._db.run(lambda: rebuild_rows.missing(self._rebuild, _VERSIONS_AT_ONCE))
            if not found:
                return
            stale = tuple(one.version_id for one in found if one.state == STALE)
            if stale:
                await self._store.delete(self._rebuild.new, Selector(version_ids=stale))

            def begin(versions: Sequence[Missing] = found) -> None:
                self._claim.hold(self._rebuild)
                rebuild_rows.begin_versions(self._rebuild, versions)

            await self._db.write(begin)
            await self._fill_versions([replace(one, cursor="") if one.state == STALE else one for one in found])

    async def _take_out_left_over(self) -> None:
        while gone := await self._db.run(lambda: rebuild_rows.left_over(self._rebuild, _DELETED_AT_ONCE)):
            await self._store.delete(self._rebuild.new, Selector(version_ids=tuple(gone)))

            def forget(versions: Sequence[str] = gone) -> None:
                self._claim.hold(self._rebuild)
                rebuild_rows.forget_versions(self._rebuild, versions)

            await self._db.write(forget)

    async def _fill_versions(self, versions: Sequence[Missing]) -> None:
        """Read and embed the next batches while one is written."""
        batches = self._batches(versions)
        ahead: deque[tuple[_Batch, asyncio.Task[list[Entry]]]] = deque()
        try:
            async for batch in batches:
                work = entries_of(batch.chunks, self._rebuild.embedding_model, self._embed)
                ahead.append((batch, asyncio.create_task(work)))
                if len(ahead) > _BATCHES_AHEAD:
                    await self._write(*ahead.popleft())
            while ahead:
                await self._write(*ahead.popleft())
        finally:
            for _, task in ahead:
                task.cancel()
            await asyncio.gather(*(task for _, task in ahead), return_exceptions=True)
            await batches.aclose()

    async def _batches(self, versions: Sequence[Missing]) -> AsyncGenerator[_Batch, None]:
        left = list(versions)
        while left:
            batch, left = await self._db.run(lambda todo=left: _read(todo, self._chunks_at_once))  # type: ignore[misc]
            yield batch

    async def _write(self, batch: _Batch, work: "asyncio.Task[list[Entry]]") -> None:
        entries = await work
        if entries:
            # Nobody searches there yet.
            await self._store.upsert(self._rebuild.new, entries, visible=False)

        def note() -> None:
            self._claim.hold(self._rebuild)
            rebuild_rows.note_filled(self._rebuild, batch.steps)

        await self._db.write(note)
        self.written += len(entries)
        await self._tell("filling")
        if self.written - self._optimised_at >= _OPTIMISE_EVERY:
            self._optimised_at = self.written
            await self._store.optimise(self._rebuild.new)

    async def _tell(self, stage: str, *, at_once: bool = False) -> None:
        if not at_once and self._clock.monotonic() - self._told_at < _TELL_S:
            return
        self._told_at = self._clock.monotonic()
        done, total = await self._db.run(lambda: rebuild_rows.chunk_counts(self._rebuild))
        self._watch(
            Progress(
                place=self._rebuild.old.name,
                number=self._number,
                places=self._places,
                stage=stage,
                chunks_done=done,
                chunks_total=total,
                resumed=self._rebuild.resumed,
            )
        )


def _read(versions: Sequence[Missing], size: int) -> tuple[_Batch, list[Missing]]:
    """The next `size` chunks in the order of their keys, all seen at one moment; and what is left of `versions`."""
    chunks: list[ChunkText] = []
    steps: list[Filled] = []
    for number, one in enumerate(versions):
        room = size - len(chunks)
        document = Document.get_or_none(Document.id == one.document_id)
        if document is None:
            continue
        after = (Chunk.version_id == one.version_id) & (Chunk.chunk_id > one.cursor)
        rows = list(Chunk.select().where(after).order_by(Chunk.chunk_id).limit(room + 1))
        complete = len(rows) <= room
        rows = rows[:room]
        # A search leaves a document that is switched off out by its version, and switching it on makes all its chunks
        # available: its entries stay what they were.
        chunks += [text_of(row, document.name, available=row.available or not document.enabled) for row in rows]
        cursor = rows[-1].chunk_id if rows else one.cursor
        steps.append(Filled(version_id=one.version_id, cursor=cursor, chunks=len(rows), complete=complete))
        if not complete:
            rest = [replace(one, cursor=cursor), *versions[number + 1 :]]
            return _Batch(chunks=tuple(chunks), steps=tuple(steps)), rest
        if len(chunks) == size:
            return _Batch(chunks=tuple(chunks), steps=tuple(steps)), list(versions[number + 1 :])
    return _Batch(chunks=tuple(chunks), steps=tuple(steps)), []
