"""30,000 chunk rows of one document version, written as ingestion writes them, while a reader looks up others.

The reader is a process of its own that reads thirty chunks as a search does, again and again.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from api.db.database import Database
from api.db.services.chunk_service import ChunkService
from api.db.services.task_service import TaskService
from api.db.tables import Chunk, Dataset, Document, IndexPlace, Task
from bench.harness import ROOT, Row, median, publish, quantile
from rag.core.clock import SystemClock
from rag.core.ids import chunk_id, new_id
from rag.core.settings import IngestSettings, RowsSettings
from rag.core.types import ChunkText, Position
from rag.ingest.base import Ended, Job, Report
from rag.store.base import EntryKey

CHUNKS, AT_ONCE, RUNS = 30_000, 500, 5
READ_AT_ONCE = 30
READER_MS = 50
_PLACE = "t_bench_g1"
_TIMES = {"create_time": 1, "update_time": 1}
_WORDS = (
    *("the", "of", "revenue", "year", "net", "operating", "income", "cash", "flow", "statement"),
    *("company", "results", "interest", "fiscal", "tax"),
)


def database_at(address: str) -> Database:
    """The rows of a file, or of `mysql://...`."""
    if not address.startswith("mysql://"):
        return Database(Path(address), busy_timeout_s=10)
    from api.db.mysql import MysqlDialect

    return Database(MysqlDialect(RowsSettings(url=address)), busy_timeout_s=10)


def chunks_of(job: Job, count: int) -> list[ChunkText]:
    """Chunks of some 60 words each, all different."""
    made = []
    for number in range(count):
        content = " ".join(_WORDS[(number * 7 + word * word) % len(_WORDS)] for word in range(60)) + f" {number}"
        made.append(
            ChunkText(
                chunk_id=chunk_id(content, job.document_id),
                document_id=job.document_id,
                version_id=job.version_id,
                dataset_id=job.dataset_id,
                document_name=job.name,
                ordinal=number,
                content=content,
                heading_path=("Item 7", "Liquidity"),
                positions=(Position(page=number // 5, left=72, right=540.5, top=100.1, bottom=230.7),),
                token_count=80,
                create_time=1,
            )
        )
    return made


def add_document(db: Database) -> None:
    """A document with a task that waits."""

    def write() -> None:
        if IndexPlace.get_or_none(IndexPlace.name == _PLACE) is None:
            place = {"tenant_id": "bench", "embedding_model": "m"}
            IndexPlace.create(name=_PLACE, dim=4, **place, **_TIMES)
            owner = {"tenant_id": "bench", "created_by": "bench", "name": "d", "name_norm": "d"}
            Dataset.create(id="ds", embedding_model="m", parser_config={}, place=_PLACE, **owner, **_TIMES)
        name = new_id()
        row: dict[str, Any] = {"id": name, "dataset_id": "ds", "tenant_id": "bench", "created_by": "bench"}
        row |= {"name": name, "location": name, "type": "doc", "size": 1, "sha256": name, "blob_key": name}
        Document.create(**row, chunk_method="naive", parser_config={}, meta_fields={}, **_TIMES)
        ids = {"document_id": name, "dataset_id": "ds", "tenant_id": "bench", "version_id": new_id()}
        Task.create(id=new_id(), state="queued", **ids, **_TIMES)

    db.write_blocking(write)


async def ingest(tasks: TaskService, count: int) -> tuple[Job, float]:
    """Write `count` chunks of a waiting document and end its task; the seconds that took."""
    (job,) = await tasks.claim("bench", small=1, large=0)
    chunks = chunks_of(job, count)
    began = time.perf_counter()
    for start in range(0, count, AT_ONCE):
        lost = await tasks.write_chunks([(job, chunks[start : start + AT_ONCE])])
        assert not lost
    ended = Ended(report=Report(job=job, stage="done", fraction=1.0, messages=()), chunk_count=count, token_count=count)
    assert not await tasks.finish([ended])
    return job, time.perf_counter() - began


def read_until_told(address: str, document_id: str, version_id: str) -> None:
    """The reader's process: milliseconds of each look-up, as JSON, once its input ends."""
    db = database_at(address)
    db.open()
    service = ChunkService(db)

    async def look() -> list[float]:
        rows = await db.run(lambda: list(Chunk.select(Chunk.chunk_id).where(Chunk.version_id == version_id)))
        keys = [EntryKey(document_id=document_id, version_id=version_id, chunk_id=row.chunk_id) for row in rows]
        took: list[float] = []
        over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        print("ready", flush=True)
        while not over.done():
            began = time.perf_counter()
            assert len(await service.texts(keys[:READ_AT_ONCE])) == READ_AT_ONCE
            took.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(0.004)
        return took

    print(json.dumps(asyncio.run(look())))
    db.close()


@contextmanager
def reader(address: str, job: Job) -> Iterator[Callable[[], list[float]]]:
    command = [sys.executable, "-m", "bench.rows", address, job.document_id, job.version_id]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"

        def end() -> list[float]:
            told, _ = process.communicate("")
            return [float(one) for one in json.loads(told)]

        try:
            yield end
        finally:
            process.kill()


def measure(address: str) -> tuple[list[float], list[float], list[list[float]]]:
    """Seconds of each write, and the reader's milliseconds: alone, and during each write."""
    db = database_at(address)
    db.open()
    tasks = TaskService(db, SystemClock(), IngestSettings())
    add_document(db)
    other, _ = asyncio.run(ingest(tasks, 200))
    seconds: list[float] = []
    meanwhile: list[list[float]] = []
    with reader(address, other) as end:
        time.sleep(1)
        alone = end()
    for run in range(RUNS + 1):
        add_document(db)
        with reader(address, other) as end:
            _, took = asyncio.run(ingest(tasks, CHUNKS))
            waits = end()
        if run:  # The first run grows the file.
            seconds.append(took)
            meanwhile.append(waits)
    db.close()
    return seconds, alone, meanwhile


def rows_of(engine: str, most_s: float, address: str) -> list[Row]:
    seconds, alone, meanwhile = measure(address)
    took, slowest = median(seconds), [max(waits) for waits in meanwhile]
    reads = [one for waits in meanwhile for one in waits]
    return [
        Row(
            f"{engine}: {CHUNKS:,} chunk rows",
            f"{took:.2f} s",
            f"< {most_s:g} s",
            took < most_s,
            {"seconds": seconds},
        ),
        Row(
            f"{engine}: slowest of some {len(meanwhile[0])} reads meanwhile, median of {RUNS} runs",
            f"{median(slowest):.0f} ms",
            f"< {READER_MS} ms",
            median(slowest) < READER_MS,
            {"max_ms": slowest, "p99_ms": quantile(reads, 0.99), "reads": len(reads)},
        ),
        Row(
            f"{engine}: a read alone and meanwhile, p50",
            f"{median(alone):.1f} and {median(reads):.1f} ms",
            "reported",
            values={"alone_max_ms": max(alone)},
        ),
    ]


def main() -> bool:
    from tests.servers.mariadb import Mariadb, fresh_database

    with tempfile.TemporaryDirectory(prefix="parley-bench-") as folder:
        found = rows_of("SQLite", 1.5, str(Path(folder) / "rows.sqlite"))
    given = os.environ.get("PARLEY_TEST_MYSQL_URL")
    if given:
        return publish("rows", found + rows_of("MariaDB", 4, fresh_database(given)))
    server = Mariadb()
    try:
        server.start()
        found += rows_of("MariaDB", 4, fresh_database(server.url))
    finally:
        server.close()
    return publish("rows", found)


if __name__ == "__main__":
    if sys.argv[1:]:
        read_until_told(*sys.argv[1:])
    else:
        raise SystemExit(0 if main() else 1)
