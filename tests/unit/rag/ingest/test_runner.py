import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag.core.clock import SystemClock
from rag.core.errors import NotFound, ParserDied, RagError, StoreUnavailable, Unsupported
from rag.core.ids import chunk_id
from rag.core.settings import IngestSettings
from rag.ingest.base import Job
from rag.ingest.grouping import EmbedGroup, WriteGroup
from rag.ingest.pipeline import Adapters, Pipeline
from rag.ingest.runner import Runner
from rag.store.base import Place
from rag.store.memory import MemoryStore
from rag.testing.hash_embedder import HashEmbedder
from rag.testing.memory_ingest import LineChunker, MemoryTasks, TextParser
from rag.testing.memory_queue import MemoryQueue

PLACE = Place(name="t_x_g1", dim=8)


class MemoryBlobs:
    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.fail: RagError | None = None

    async def fetch(self, key: str, target: Path) -> None:
        if self.fail is not None:
            raise self.fail
        if key not in self.files:
            raise NotFound("file", key)
        target.write_bytes(self.files[key])


@dataclass
class Bench:
    """A runner with fakes all round."""

    tmp: Path
    tasks: MemoryTasks = field(default_factory=MemoryTasks)
    store: MemoryStore = field(default_factory=MemoryStore)
    blobs: MemoryBlobs = field(default_factory=MemoryBlobs)
    queue: MemoryQueue = field(default_factory=MemoryQueue)
    parser: TextParser = field(default_factory=TextParser)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, name: str, text: str | bytes, **more: Any) -> Job:
        data = text.encode() if isinstance(text, str) else text
        key = hashlib.sha256(data).hexdigest()
        self.blobs.files[key] = data
        job = Job(
            **{
                "task_id": f"t-{name}",
                "owner": "",
                "document_id": f"d-{name}",
                "dataset_id": "ds",
                "tenant_id": "x",
                "version_id": f"v-{name}",
                "name": name,
                "kind": "doc",
                "size": len(data),
                "blob_key": key,
                "method": "naive",
                "place": PLACE,
                "embedding_model": "hash@Testing",
                **more,
            }
        )
        self.tasks.queued.append(job)
        return job

    def embed(self, group: EmbedGroup, job: Job) -> EmbedGroup:
        if job.embedding_model != "hash@Testing":
            raise Unsupported(f"The embedding model {job.embedding_model!r} is not available.")
        return group

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Runner]:
        clock = SystemClock()
        settings = IngestSettings(poll_s=0.05, concurrency=2, max_file_bytes=1 << 20)
        writes = WriteGroup(self.tasks, self.store, clock, max_wait_s=0.2)
        group = EmbedGroup(HashEmbedder(dim=8), lanes=2)
        pipeline = Pipeline(
            Adapters(
                parser=self.parser,
                chunkers={"naive": LineChunker()},
                embed=lambda job: self.embed(group, job),
                store=self.store,
                blobs=self.blobs,  # type: ignore[arg-type]  # only fetch is used
                sink=self.tasks,
                writes=writes,
                clock=clock,
                tmp_dir=self.tmp,
                max_file_bytes=settings.max_file_bytes,
            )
        )
        runner = Runner(self.tasks, pipeline, self.queue, clock, settings, owner="w")
        work = asyncio.create_task(runner.run(self.stop))
        try:
            yield runner
        finally:
            self.stop.set()
            await asyncio.wait_for(work, 10)

    async def until(self, condition: Callable[[], object], timeout_s: float = 8.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.01)


async def test_a_document_goes_all_the_way(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    job = bench.put("a.txt", "one fish\ntwo fish\none fish\n\x00\n")
    async with bench.running():
        await bench.until(lambda: bench.tasks.done)
    end = bench.tasks.done[job.task_id]
    assert (end.chunk_count, end.token_count) == (2, 4), "equal texts are one chunk"
    assert end.report.embed_tokens > 0
    assert end.report.embed_ms > 0
    rows = sorted(bench.tasks.rows[job.version_id].values(), key=lambda c: c.ordinal)
    assert [(c.ordinal, c.content) for c in rows] == [(0, "one fish"), (1, "two fish")]
    assert rows[0].chunk_id == chunk_id("one fish", job.document_id)
    texts = [line[9:] for line in end.report.messages]
    assert texts[:2] == ["Start to parse.", "Generate 2 chunks"]
    assert [text.split(" (")[0] for text in texts[2:]] == ["Embedding chunks", "Indexing done", "Task done"]
    assert texts[3].endswith("s).")
    assert not list(tmp_path.iterdir()), "no temporary file stays"


async def test_a_document_without_text_is_done_with_no_chunks(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    blank, empty = bench.put("blank.txt", "\n \n"), bench.put("empty.txt", b"")
    async with bench.running():
        await bench.until(lambda: len(bench.tasks.done) == 2)
    for job in (blank, empty):
        end = bench.tasks.done[job.task_id]
        assert end.chunk_count == 0
        assert f"No chunk built from {job.name}" in end.report.messages[-2]
        assert "Task done" in end.report.messages[-1]


async def test_refusals_name_themselves_and_others_go_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.put("qa.txt", "x", method="qa")
    bench.put("cat.png", "x", kind="visual", method="picture")
    bench.put("song.mp3", "x", kind="aural", method="audio")
    bench.put("bad.txt", b"\xff\xfe\xff")
    bench.put("model.txt", "x", embedding_model="other@Cloud")
    bench.put("big.txt", "x", size=2 << 20)
    bench.put("gone.txt", "x", blob_key="nowhere")
    bench.put("good.txt", "fine")
    async with bench.running():
        await bench.until(lambda: len(bench.tasks.failed) == 7 and bench.tasks.done)
    failed = bench.tasks.failed
    assert failed["t-qa.txt"] == "Chunk method 'qa' is not available yet; use 'naive'."
    assert "Images" in failed["t-cat.png"]
    assert "Sound" in failed["t-song.mp3"]
    assert failed["t-bad.txt"] == "The file is not text."
    assert "other@Cloud" in failed["t-model.txt"]
    assert failed["t-big.txt"].startswith("File size exceeds( <= 1Mb )")
    assert "upload" in failed["t-gone.txt"]


async def test_a_file_that_kills_its_parser_twice_is_given_up(tmp_path: Path) -> None:
    def die(name: str) -> None:
        if name == "killer.txt" or (name == "once.txt" and len(bench.parser.calls) < 2):
            raise ParserDied("The parser died.")

    bench = Bench(tmp_path)
    bench.parser = TextParser(die)
    once = bench.put("once.txt", "fine")
    async with bench.running():
        await bench.until(lambda: bench.tasks.done)
        assert bench.parser.calls == [("once.txt", False), ("once.txt", True)]
        killer = bench.put("killer.txt", "x")
        await bench.until(lambda: bench.tasks.failed)
    assert bench.parser.calls[2:] == [("killer.txt", False), ("killer.txt", True)]
    assert "killed 2 times" in bench.tasks.failed[killer.task_id]
    assert once.task_id in bench.tasks.done


async def test_what_an_earlier_attempt_left_is_removed_first(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    first = bench.put("a.txt", "old line")
    async with bench.running():
        await bench.until(lambda: bench.tasks.done)
        bench.tasks.done.clear()
        again = bench.put("a.txt", "new line", attempt=2, leftovers=True)
        await bench.until(lambda: bench.tasks.done)
    assert again.version_id == first.version_id
    assert [c.content for c in bench.tasks.rows[again.version_id].values()] == ["new line"]
    assert (await bench.store.optimise(PLACE)).entries == 1
    assert any("attempt 2" in line for line in bench.tasks.done[again.task_id].report.messages)


async def test_a_stopped_task_is_given_up_within_two_seconds(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.parser = TextParser(wait_s=30)
    job = bench.put("a.txt", "x" * 70_000)
    async with bench.running() as runner:
        await bench.until(lambda: bench.parser.calls)
        bench.tasks.stop(job.task_id)
        await bench.until(lambda: bench.tasks.abandoned == [job.task_id], 2.5)
        await bench.until(lambda: runner.idle)
    assert not bench.tasks.released


async def test_progress_is_reported_each_second(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.parser = TextParser(wait_s=2.5)
    bench.put("a.txt", "x" * 70_000)
    async with bench.running():
        await bench.until(lambda: bench.tasks.done)
    assert len(bench.tasks.reports) >= 2
    assert all(0 < r.fraction < 1 and r.stage == "parsing" for r in bench.tasks.reports)


async def test_a_stop_gives_jobs_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.parser = TextParser(wait_s=30)
    job = bench.put("a.txt", "x")
    async with bench.running():
        await bench.until(lambda: bench.parser.calls)
    assert bench.tasks.released == [job.task_id]
    assert not bench.tasks.failed
    assert not list(tmp_path.iterdir())


async def test_trouble_with_a_backend_is_retried(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.blobs.fail = StoreUnavailable("The disk is full.")
    bench.put("a.txt", "x")
    async with bench.running():
        await bench.until(lambda: bench.tasks.retried)
    assert bench.tasks.retried == {"t-a.txt": "The disk is full."}


async def test_a_fault_of_ours_does_not_stop_the_worker(tmp_path: Path) -> None:
    def break_it(name: str) -> None:
        if name == "a.txt":
            raise ZeroDivisionError

    bench = Bench(tmp_path)
    bench.parser = TextParser(break_it)
    bench.put("a.txt", "x")
    bench.put("b.txt", "y")
    async with bench.running():
        await bench.until(lambda: bench.tasks.retried and bench.tasks.done)
    assert "ZeroDivisionError" in bench.tasks.retried["t-a.txt"]


async def test_hundreds_of_small_documents_share_writes(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for number in range(400):
        bench.put(f"{number}.txt", f"document number {number}")
    async with bench.running():
        await bench.until(lambda: len(bench.tasks.done) == 400)
    assert bench.tasks.writes < 100
    assert (await bench.store.optimise(PLACE)).entries == 400


async def test_at_most_the_allowed_large_documents_are_in_work(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.parser = TextParser(wait_s=0.3)
    for number in range(5):
        bench.put(f"{number}.txt", "x" * 70_000 + str(number))
    async with bench.running():
        await bench.until(lambda: bench.parser.calls)
        assert len(bench.tasks.running) <= 2
        await bench.until(lambda: len(bench.tasks.done) == 5)


async def test_a_stop_gives_back_what_was_claimed_but_not_begun(tmp_path: Path) -> None:
    class StopAtClaim(MemoryTasks):
        async def claim(self, owner: str, *, small: int, large: int) -> list[Job]:
            jobs = await super().claim(owner, small=small, large=large)
            if jobs:
                bench.stop.set()
            return jobs

    bench = Bench(tmp_path, tasks=StopAtClaim())
    jobs = [bench.put(f"{number}.txt", "x") for number in range(3)]
    async with bench.running():
        await bench.stop.wait()
    assert sorted(bench.tasks.released) == sorted(job.task_id for job in jobs)
