"""One document's way in: parse, chunk, embed, index. Pure orchestration; every adapter is an argument."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rag.blob.base import BlobStore
from rag.chunk.base import Chunker
from rag.core.blocking import Lane, run_in
from rag.core.clock import Clock, now_ms
from rag.core.errors import EmptyDocument, IngestError, LimitExceeded, NotFound, ParserDied, Unsupported
from rag.core.ids import chunk_id
from rag.core.types import ChunkDraft, ChunkText, ParsedDocument
from rag.ingest.base import DocumentParser, Ended, Job, Sink
from rag.ingest.entries import Prepared, entry_of, prepare
from rag.ingest.grouping import EMBED_AT_ONCE, EmbedGroup, WriteGroup
from rag.ingest.progress import Track
from rag.llm.base import Embedded
from rag.store.base import SearchStore, Selector

PARSER_DEATHS = 2
"""A file that has killed this many parsers is given up."""
_PARTS_AHEAD = 4
"""Parts of one document that the embedder has at a time: enough that two lanes find the next ones waiting when they
end, few enough that a small document behind a large one is served soon."""
_REFUSED_KINDS = {
    "visual": "Images and videos cannot be read yet; upload a document with text.",
    "aural": "Sound files cannot be read yet; upload a document with text.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapters:
    """What the pipeline works with. `chunkers` by method name; `embed` gives the group of an embedding model.

    `embed` raises Unsupported for a model it does not know.
    """

    parser: DocumentParser
    chunkers: Mapping[str, Chunker]
    embed: Callable[[Job], EmbedGroup]
    store: SearchStore
    blobs: BlobStore
    sink: Sink
    writes: WriteGroup
    clock: Clock
    tmp_dir: Path
    max_file_bytes: int


class Pipeline:
    """Takes claimed jobs in, many at a time on one loop."""

    def __init__(self, adapters: Adapters) -> None:
        self._with = adapters

    async def run(self, job: Job, track: Track) -> None:
        """Ingest one document; when this returns, its task has ended and its version is live.

        Raises:
            TaskLost: the task was stopped or taken away.
            IngestError, LimitExceeded: the document cannot be ingested; the message is a sentence for a person.
            ModelError: the embedding model failed.
            StoreError: rows, files or index failed.
        """
        with self._with.writes.upstream():
            last = await self._bring(job, track)
        await last

    async def _bring(self, job: Job, track: Track) -> "asyncio.Future[None]":
        """Do all but the last write, and return its future."""
        chunker = self._chunker(job)
        embed = self._with.embed(job)
        if job.attempt > 1:
            track.say(f"Taken up again, attempt {job.attempt}.")
        if job.leftovers:
            # The rows tell that there is something to remove, so they go last.
            await self._with.store.delete(job.place, Selector(version_ids=(job.version_id,)))
            await self._with.sink.reset_version(job)
        track.enter("parsing")
        track.say("Start to parse.")
        try:
            parsed = await self._read(job, track)
        except EmptyDocument:
            return self._nothing(job, track)
        track.enter("chunking")
        prepared = await run_in(Lane.PARSE, self._prepare, job, chunker, parsed)
        if not prepared:
            return self._nothing(job, track)
        track.say(f"Generate {len(prepared)} chunks")
        return await self._embed(job, track, embed, prepared)

    def _chunker(self, job: Job) -> Chunker:
        if job.kind in _REFUSED_KINDS:
            raise Unsupported(_REFUSED_KINDS[job.kind])
        chunker = self._with.chunkers.get(job.method)
        if chunker is None:
            raise Unsupported(f"Chunk method {job.method!r} is not available yet; use 'naive'.")
        return chunker

    async def _read(self, job: Job, track: Track) -> ParsedDocument:
        if job.size > self._with.max_file_bytes:
            raise LimitExceeded(f"File size exceeds( <= {self._with.max_file_bytes >> 20}Mb )")
        if job.size == 0:
            raise EmptyDocument("The file is empty.")
        with _temporary(self._with.tmp_dir / job.task_id) as path:
            try:
                await self._with.blobs.fetch(job.blob_key, path)
            except NotFound as error:
                raise IngestError("The stored file is missing; upload the document again.") from error
            return await self._parse(job, track, path)

    async def _parse(self, job: Job, track: Track, path: Path) -> ParsedDocument:
        deaths = job.parser_deaths
        while True:
            if deaths >= PARSER_DEATHS:
                raise ParserDied(
                    f"The parser was killed {deaths} times by this file, so it was given up. "
                    "The file may be damaged, or need more memory than a parser is allowed."
                )
            try:
                return await self._with.parser.parse(path, filename=job.name, alone=deaths > 0, on_progress=track.pages)
            except ParserDied:
                deaths = await self._with.sink.parser_died(job)
                track.say("The parser was killed by this file.")

    def _prepare(self, job: Job, chunker: Chunker, parsed: ParsedDocument) -> list[Prepared]:
        """Chunk rows in reading order; of equal texts the first stays."""
        chunks: dict[str, Prepared] = {}
        created = now_ms(self._with.clock)
        for draft in chunker.chunk(parsed, config=job.config):
            content = _storable(draft.content)
            key = chunk_id(content, job.document_id)
            if content.strip() and key not in chunks:
                chunk = _chunk_of(job, draft, key=key, content=content, ordinal=len(chunks), created=created)
                chunks[key] = prepare(chunk)
        return list(chunks.values())

    async def _embed(
        self, job: Job, track: Track, embed: EmbedGroup, prepared: Sequence[Prepared]
    ) -> "asyncio.Future[None]":
        track.enter("embedding")
        track.chunks(0, len(prepared))
        parts = [prepared[i : i + EMBED_AT_ONCE] for i in range(0, len(prepared), EMBED_AT_ONCE)]
        ahead: deque[asyncio.Future[Embedded]] = deque()
        writes: list[asyncio.Future[None]] = []
        done = 0

        def end() -> Ended:
            track.say(f"Indexing done ({track.stage_s():.2f}s).")
            track.enter("done")
            track.say(f"Task done ({track.total_s():.2f}s)")
            tokens = sum(p.chunk.token_count for p in prepared)
            return Ended(report=track.report(), chunk_count=len(prepared), token_count=tokens)

        try:
            for number, part in enumerate(parts):
                while len(ahead) < _PARTS_AHEAD and number + len(ahead) < len(parts):
                    ahead.append(embed.submit([p.text for p in parts[number + len(ahead)]]))
                embedded = await ahead.popleft()
                track.embedded(embedded.tokens)
                done += len(part)
                track.chunks(done, len(prepared))
                last = number == len(parts) - 1
                if last:
                    track.say(f"Embedding chunks ({track.stage_s():.2f}s)")
                    track.enter("indexing")
                entries = [entry_of(p, embedded.vectors[i]) for i, p in enumerate(part)]
                chunks = [p.chunk for p in part]
                writes.append(
                    self._with.writes.submit(
                        job, chunks, entries, after=tuple(writes), end=end if last else None, tell=track.say
                    )
                )
                _raise_first_failure(writes)
        except BaseException:
            for to_come in ahead:
                to_come.cancel()
            for write in writes:
                write.cancel()
            raise
        return writes[-1]

    def _nothing(self, job: Job, track: Track) -> "asyncio.Future[None]":
        """End a document without text: done, with no chunks."""

        def end() -> Ended:
            track.enter("done")
            track.say(f"No chunk built from {job.name}")
            track.say(f"Task done ({track.total_s():.2f}s)")
            return Ended(report=track.report(), chunk_count=0, token_count=0)

        return self._with.writes.submit(job, (), (), end=end)


def _chunk_of(job: Job, draft: ChunkDraft, *, key: str, content: str, ordinal: int, created: int) -> ChunkText:
    return ChunkText(
        chunk_id=key,
        document_id=job.document_id,
        version_id=job.version_id,
        dataset_id=job.dataset_id,
        document_name=job.name,
        ordinal=ordinal,
        content=content,
        heading_path=tuple(_storable(heading) for heading in draft.heading_path),
        positions=draft.positions,
        token_count=draft.token_count,
        available=job.available,
        kind=draft.kind,
        create_time=created,
    )


def _storable(text: str) -> str:
    """`text` without what rows and JSON refuse: lone surrogates and NUL."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "")


def _raise_first_failure(writes: "Sequence[asyncio.Future[None]]") -> None:
    for future in writes:
        if future.done():
            future.result()


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
