"""Workers and parsers that are killed at any moment: every document ends as if nothing had happened."""

import asyncio
import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from api.db.data_folder import DataFolder
from api.db.database import Database
from api.db.services.document_service import DocumentService
from api.db.tables import Chunk, Dataset, Document, DocumentVersion, IndexPlace, Task, Tenant
from rag.blob.object_store import ObjectBlobStore
from rag.core.clock import SystemClock
from rag.core.settings import IngestSettings
from rag.core.types import Principal, Scope
from rag.store.base import Place
from rag.testing.memory_queue import MemoryQueue
from tests.e2e.serving import environment
from tests.e2e.stacks import Stack

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
ME = Principal(tenant_id="a" * 32, user_id="a" * 32, scope=Scope.API, credential="api_key")
PLACE = Place(name="t_crash_g1", dim=384)
DATASET = "d" * 32
TIMES = {"create_time": 1, "update_time": 1}
WORKER = (
    "import asyncio, sys\n"
    "from api.worker import run_worker\n"
    "from rag.core.settings import load_settings\n"
    "settings = load_settings({'data_dir': sys.argv[1]})\n"
    "sys.exit(asyncio.run(run_worker(settings, embedded=sys.argv[2] == 'embedded')))\n"
)
WORDS = """river stone lantern copper meadow signal harbour velvet ridge ember canyon willow anchor saffron
""".split()  # noqa: SIM905  # easier to read than fourteen quoted words


def long_text(lines: int = 600) -> str:
    """Lines that all differ; six of them make a chunk of 128 tokens."""
    count = len(WORDS)
    words = [[WORDS[(i * 7 + j * (i % 5 + 1)) % count] for j in range(12)] for i in range(lines)]
    return "\n".join(f"Line {i}: {' '.join(line)}" for i, line in enumerate(words))


@dataclass(frozen=True)
class Outcome:
    """All that must not depend on what happened on the way."""

    documents: tuple[tuple[str, str, int, int], ...]
    chunks: tuple[tuple[str, int, str, str], ...]
    dataset: tuple[int, int, int]
    entries: tuple[str, ...]
    versions_left: int


class Folder:
    """A data folder seen from outside: rows are read and documents are added as the server does."""

    def __init__(self, path: Path, stack: Stack) -> None:
        self.layout = DataFolder(path)
        self.stack = stack

    @contextmanager
    def rows(self) -> Iterator[Database]:
        db = self.stack.database(self.layout.path)
        db.open()
        try:
            yield db
        finally:
            db.close()

    def read(self, look: Callable[[], T]) -> T:
        with self.rows() as db:
            return db.run_blocking(look)

    def make(self) -> None:
        self.layout.prepare()

        def write() -> None:
            Tenant.create(id=ME.tenant_id, name="x", **TIMES)
            IndexPlace.create(
                name=PLACE.name, tenant_id=ME.tenant_id, embedding_model="minilm@Builtin", dim=PLACE.dim, **TIMES
            )
            Dataset.create(
                id=DATASET,
                tenant_id=ME.tenant_id,
                created_by=ME.user_id,
                name="D",
                name_norm="d",
                embedding_model="minilm@Builtin",
                parser_config={"chunk_token_num": 128, "delimiter": "\n"},
                place=PLACE.name,
                **TIMES,
            )

        with self.rows() as db:
            db.write_blocking(write)

    def add(self, files: dict[str, str], *, parse: bool = True) -> list[str]:
        async def add(db: Database) -> list[str]:
            ids = []
            async with self._service(db) as documents:
                for name, text in files.items():
                    staged = self.layout.tmp_path / "staged"
                    staged.write_text(text)
                    sha256 = hashlib.sha256(text.encode()).hexdigest()
                    size = staged.stat().st_size
                    record = await documents.add(ME, DATASET, name=name, staged=staged, size=size, sha256=sha256)
                    ids.append(record.id)
                if parse:
                    await documents.parse(ME, DATASET, ids)
            return ids

        with self.rows() as db:
            return asyncio.run(add(db))

    def ask(self, action: str, ids: Sequence[str]) -> None:
        async def ask(db: Database) -> None:
            async with self._service(db) as documents:
                await getattr(documents, action)(ME, DATASET, list(ids))

        with self.rows() as db:
            asyncio.run(ask(db))

    @asynccontextmanager
    async def _service(self, db: Database) -> AsyncIterator[DocumentService]:
        blobs = ObjectBlobStore.in_folder(self.layout.files_path)
        store = self.stack.store(self.layout.path)
        try:
            yield DocumentService(db, SystemClock(), blobs, MemoryQueue(), store, IngestSettings())
        finally:
            await store.close()

    def outcome(self) -> Outcome:
        def read() -> tuple[tuple, tuple, tuple, int]:
            names = {d.id: d.name for d in Document.select()}
            documents = tuple(sorted((d.name, d.run, d.chunk_count, d.token_count) for d in Document.select()))
            chunks = tuple(sorted((names[c.document_id], c.ordinal, c.chunk_id, c.content) for c in Chunk.select()))
            dataset = Dataset.get_by_id(DATASET)
            counts = (dataset.document_count, dataset.chunk_count, dataset.token_count)
            return documents, chunks, counts, DocumentVersion.select().count()

        async def entries() -> tuple[str, ...]:
            store = self.stack.store(self.layout.path)
            sample = await store.sample(PLACE, (DATASET,))
            await store.close()
            assert sample.total == len(sample.tokens)
            return tuple(sorted(sample.tokens))

        documents, chunks, dataset, left = self.read(read)
        return Outcome(documents, chunks, dataset, asyncio.run(entries()), left)

    def until(self, condition: Callable[[], T], timeout_s: float = 90) -> T:
        """Wait until `condition`, a look at the rows, is true, and return what it said."""
        with self.rows() as db:
            give_up = time.monotonic() + timeout_s
            while time.monotonic() < give_up:
                if found := db.run_blocking(condition):
                    return found
                time.sleep(0.02)
        raise AssertionError(f"not within {timeout_s} s; the worker said:\n{self.log()}")

    def until_ended(self) -> None:
        self.until(lambda: not Task.select().where(Task.state.in_(("queued", "running"))).exists())

    def log(self) -> str:
        return (self.layout.path / "worker.log").read_text()[-4000:]


class Worker:
    """A real worker process; embedded, its standard input is held open here."""

    def __init__(self, folder: Folder, *, embedded: bool = True) -> None:
        with open(folder.layout.path / "worker.log", "a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", WORKER, str(folder.layout.path), "embedded" if embedded else "external"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=environment() | {"PARLEY_INGEST__NICE": "0"} | folder.stack.environment(folder.layout.path),
            )

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill(self) -> None:
        children = self.children()
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive, "parsers end with their worker"

    def stop(self) -> int:
        """Let go of the life line, as a server that dies does."""
        assert self.process.stdin is not None
        if not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            return self.process.wait(20)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()


@contextmanager
def working(folder: Folder, *, embedded: bool = True) -> Iterator[Worker]:
    worker = Worker(folder, embedded=embedded)
    try:
        yield worker
    finally:
        if worker.process.poll() is None:
            worker.process.send_signal(signal.SIGTERM)
            worker.stop()


@pytest.fixture(scope="module")
def seeded(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Documents that wait to be taken in: one long, some short, one without text, one that is refused."""
    folder = Folder(tmp_path_factory.mktemp("seeded") / "data", stack)
    folder.make()
    files = {"long.txt": long_text(), "blank.txt": " \n", "broken.pdf": "%PDF-1.4 nothing"}
    files |= {f"short{i}.txt": f"The {word} is number {i}." for i, word in enumerate(WORDS[:6])}
    folder.add(files)
    return folder


def copy_of(seeded: Folder, path: Path) -> Folder:
    seeded.stack.copy(seeded.layout.path, path)
    return Folder(path, seeded.stack)


@pytest.fixture(scope="module")
def undisturbed(seeded: Folder, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = copy_of(seeded, tmp_path_factory.mktemp("undisturbed") / "data")
    with working(folder):
        folder.until_ended()
    outcome = folder.outcome()
    runs = {name: run for name, run, _, _ in outcome.documents}
    assert runs.pop("broken.pdf") == "FAIL"
    assert set(runs.values()) == {"DONE"}
    assert len(outcome.chunks) > 80
    assert len(outcome.entries) == len(outcome.chunks) == outcome.dataset[1]
    return outcome


def same(folder: Folder, undisturbed: Outcome) -> None:
    outcome = folder.outcome()
    assert outcome.documents == undisturbed.documents
    assert outcome.chunks == undisturbed.chunks
    assert outcome.dataset == undisturbed.dataset
    assert outcome.entries == undisturbed.entries


MOMENTS: dict[str, Callable[[], object]] = {
    "claimed": lambda: Task.select().where(Task.state == "running").exists(),
    "first chunks written": lambda: Chunk.select().exists(),
    "one document done": lambda: Document.select().where(Document.run == "DONE").exists(),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_worker_changes_nothing(moment: str, seeded: Folder, undisturbed: Outcome, tmp_path: Path) -> None:
    folder = copy_of(seeded, tmp_path / "data")
    with working(folder) as worker:
        folder.until(MOMENTS[moment])
        worker.kill()
    with working(folder):
        folder.until_ended()
    same(folder, undisturbed)


def test_a_worker_killed_again_and_again_changes_nothing(seeded: Folder, undisturbed: Outcome, tmp_path: Path) -> None:
    folder = copy_of(seeded, tmp_path / "data")
    for pause_s in (0.0, 0.4, 1.1, 0.2):
        with working(folder) as worker:
            folder.until(lambda: Task.select().where(Task.lease_owner.is_null(False)).exists())
            time.sleep(pause_s)
            worker.kill()
    with working(folder):
        folder.until_ended()
    same(folder, undisturbed)


def test_a_worker_that_loses_its_server_gives_back_and_another_goes_on(
    seeded: Folder, undisturbed: Outcome, tmp_path: Path
) -> None:
    folder = copy_of(seeded, tmp_path / "data")
    with working(folder) as worker:
        folder.until(MOMENTS["first chunks written"])
        began = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - began < 10
    assert folder.read(lambda: not Task.select().where(Task.state == "running").exists())
    with working(folder):
        folder.until_ended()
    same(folder, undisturbed)


def test_an_external_worker_beside_the_embedded_one(seeded: Folder, undisturbed: Outcome, tmp_path: Path) -> None:
    folder = copy_of(seeded, tmp_path / "data")
    with working(folder), working(folder, embedded=False):
        folder.until_ended()
    same(folder, undisturbed)


def test_an_embedded_worker_is_the_only_one(stack: Stack, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "data", stack)
    folder.make()
    with working(folder) as first, working(folder) as second:
        folder.add({"a.txt": "one fish"})
        folder.until_ended()
        lock = folder.layout.worker_lock()
        assert lock.holder() in (first.process.pid, second.process.pid)
        waiting = second if lock.holder() == first.process.pid else first
        assert waiting.process.poll() is None
        assert waiting.stop() == 0


def slept_child(worker: Worker) -> psutil.Process:
    """The worker's parser, put to sleep: the next file waits in it."""
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        children = worker.children()
        if children and "worker_ready" in Path(f"/proc/{worker.process.pid}/fd/1").read_text():
            children[0].suspend()
            return children[0]
        time.sleep(0.05)
    raise AssertionError("no parser was started")


def test_a_killed_parser_costs_one_more_try(stack: Stack, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "data", stack)
    folder.make()
    with working(folder) as worker:
        child = slept_child(worker)
        (document_id,) = folder.add({"a.txt": "one fish\ntwo fish"})
        folder.until(lambda: Task.select().where(Task.state == "running").exists())
        time.sleep(0.5)
        child.kill()
        folder.until_ended()
    task = folder.read(lambda: Task.get(Task.document_id == document_id))
    assert (task.state, task.parser_deaths, task.attempts) == ("done", 1, 1)
    assert folder.read(lambda: Chunk.select().count()) >= 1


def test_a_file_that_kills_its_parser_twice_fails_in_words(stack: Stack, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "data", stack)
    folder.make()
    with working(folder) as worker:
        child = slept_child(worker)
        (document_id,) = folder.add({"a.txt": "one fish"})
        folder.until(lambda: Task.select().where(Task.state == "running").exists())
        time.sleep(0.5)
        child.kill()
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            fresh = [c for c in worker.children() if c.pid != child.pid]
            if fresh:
                fresh[0].kill()
                break
        folder.until_ended()
        document = folder.read(lambda: Document.get_by_id(document_id))
        assert (document.run, document.progress) == ("FAIL", -1.0)
        assert "[ERROR]The parser was killed 2 times by this file" in document.progress_msg
        folder.add({"b.txt": "two fish"})
        folder.until(lambda: Document.select().where(Document.run == "DONE").exists())


def test_what_was_deleted_while_it_was_read_leaves_nothing(stack: Stack, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "data", stack)
    folder.make()
    with working(folder):
        (deleted,) = folder.add({"long.txt": long_text(2000)})
        folder.until(lambda: Chunk.select().exists())
        folder.ask("delete", [deleted])
        (stopped,) = folder.add({"long.txt": long_text(2000)})
        folder.until(lambda: Chunk.select().where(Chunk.document_id == stopped).exists())
        folder.ask("stop", [stopped])
        folder.until(lambda: not DocumentVersion.select().exists() and not Chunk.select().exists())
    outcome = folder.outcome()
    assert outcome.documents == (("long.txt", "CANCEL", 0, 0),)
    assert outcome.dataset == (1, 0, 0)
    assert outcome.entries == ()
