"""Leases, endings and counters of the task rows, on a real SQLite file."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from api.db.database import Database
from api.db.services.task_rows import chunk_config
from api.db.services.task_service import EMBEDDED_OWNER, TaskService
from api.db.tables import Chunk, Dataset, Document, DocumentVersion, IndexPlace, Outbox, Task, Usage
from rag.core.ids import new_id
from rag.core.settings import IngestSettings
from rag.core.types import ChunkText, Position
from rag.ingest.base import SMALL_BYTES, Ended, Job, Report, TaskLost
from tests.unit.api.db.rows import Rows

TIMES = {"create_time": 1, "update_time": 1}


class HeldClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic(self) -> float:
        return self.seconds


class Bench:
    def __init__(self, db: Database) -> None:
        self.db = db
        self.clock = HeldClock()
        self.settings = IngestSettings(attempts=2, lease_s=30)
        self.tasks = TaskService(db, self.clock, self.settings)
        db.write_blocking(self._dataset)

    def _dataset(self) -> None:
        IndexPlace.create(name="t_x_g1", tenant_id="x", embedding_model="minilm@Builtin", dim=4, **TIMES)
        Dataset.create(
            id="ds",
            tenant_id="x",
            created_by="x",
            name="D",
            name_norm="d",
            embedding_model="minilm@Builtin",
            parser_config={},
            place="t_x_g1",
            **TIMES,
        )

    def add(self, name: str, *, size: int = 10, created: int = 1, document: str | None = None, **task: Any) -> str:
        """A queued document; returns the task's id."""

        def write() -> str:
            document_id = document or new_id()
            if document is None:
                Document.create(
                    id=document_id,
                    dataset_id="ds",
                    tenant_id="x",
                    created_by="x",
                    name=name,
                    location=name,
                    type="doc",
                    size=size,
                    sha256="0" * 64,
                    blob_key="00/0",
                    chunk_method="naive",
                    parser_config={"chunk_token_num": 99, "delimiter": "\n"},
                    meta_fields={},
                    run="RUNNING",
                    progress=0.001,
                    progress_msg="Task is queued...",
                    process_begin_at=int(self.clock.seconds * 1000),
                    **TIMES,
                )
            row = Task.create(
                id=new_id(),
                document_id=document_id,
                dataset_id="ds",
                tenant_id="x",
                version_id=new_id(),
                **{"state": "queued", "create_time": created, "update_time": created, **task},
            )
            return str(row.id)

        return self.db.write_blocking(write)

    def row(self, task_id: str) -> Task:
        return self.db.run_blocking(lambda: Task.get_by_id(task_id))

    def document(self, task_id: str) -> Document:
        return self.db.run_blocking(lambda: Document.get_by_id(Task.get_by_id(task_id).document_id))

    def dataset(self) -> Dataset:
        return self.db.run_blocking(lambda: Dataset.get_by_id("ds"))

    def versions(self) -> dict[str, str]:
        return self.db.run_blocking(lambda: {v.id: v.state for v in DocumentVersion.select()})

    def usage(self) -> list[tuple[Any, ...]]:
        names = ("tenant_id", "model", "purpose", "prompt_tokens", "completion_tokens", "duration_ms", "outcome")
        return self.db.run_blocking(
            lambda: [tuple(getattr(row, name) for name in names) for row in Usage.select().order_by(Usage.id)]
        )

    def chunks(self, version_id: str) -> list[Chunk]:
        return self.db.run_blocking(
            lambda: list(Chunk.select().where(Chunk.version_id == version_id).order_by(Chunk.ordinal))
        )

    async def one(self, owner: str = "w1") -> Job:
        (job,) = await self.tasks.claim(owner, small=10, large=10)
        return job


def text(job: Job, content: str, ordinal: int = 0) -> ChunkText:
    return ChunkText(
        chunk_id=f"{hash(content) & 0xFFFFFFFF:016x}",
        document_id=job.document_id,
        version_id=job.version_id,
        dataset_id=job.dataset_id,
        document_name=job.name,
        ordinal=ordinal,
        content=content,
        heading_path=("A", "B"),
        positions=(Position(page=3, left=1, right=2, top=30.5, bottom=4),),
        token_count=7,
        available=job.available,
        create_time=5,
    )


def report(job: Job, **more: Any) -> Report:
    return Report(
        **{"job": job, "stage": "embedding", "fraction": 0.5, "messages": ("10:00:00 a", "10:00:01 b"), **more}
    )


def ended(job: Job, chunks: int = 1, tokens: int = 7) -> Ended:
    return Ended(report=report(job, stage="done", pages_done=2), chunk_count=chunks, token_count=tokens)


@pytest.fixture
def bench(rows: Rows) -> Iterator[Bench]:
    db = rows.database()
    db.open()
    yield Bench(db)
    db.close()


class TestClaim:
    async def test_gives_all_that_ingestion_needs(self, bench: Bench) -> None:
        task_id = bench.add("a.txt")
        job = await bench.one()
        assert (job.task_id, job.owner, job.name, job.kind, job.attempt) == (task_id, "w1", "a.txt", "doc", 1)
        assert (job.place.name, job.place.dim, job.embedding_model) == ("t_x_g1", 4, "minilm@Builtin")
        assert job.config.chunk_token_num == 99
        assert not job.leftovers
        assert bench.versions() == {job.version_id: "writing"}
        row = bench.row(task_id)
        assert (row.state, row.lease_owner, row.attempts) == ("running", "w1", 1)

    async def test_a_task_is_claimed_once(self, bench: Bench) -> None:
        bench.add("a.txt")
        assert len(await bench.tasks.claim("w1", small=5, large=5)) == 1
        assert await bench.tasks.claim("w2", small=5, large=5) == []

    async def test_priority_then_age_and_rooms_by_size(self, bench: Bench) -> None:
        bench.add("late.txt", created=9)
        bench.add("early.txt", created=2)
        bench.add("urgent.txt", created=10, priority=1)
        bench.add("large.pdf", size=SMALL_BYTES + 1, created=1)
        jobs = await bench.tasks.claim("w1", small=2, large=0)
        assert [job.name for job in jobs] == ["urgent.txt", "early.txt"]
        assert [job.name for job in await bench.tasks.claim("w1", small=0, large=3)] == ["large.pdf"]

    async def test_a_task_that_rests_is_left_alone(self, bench: Bench) -> None:
        bench.add("a.txt", not_before=int(bench.clock.seconds * 1000) + 1000)
        assert await bench.tasks.claim("w1", small=1, large=1) == []
        bench.clock.seconds += 1.1
        assert len(await bench.tasks.claim("w1", small=1, large=1)) == 1

    async def test_a_task_without_document_is_cancelled(self, bench: Bench) -> None:
        task_id = bench.add("a.txt")
        bench.db.write_blocking(lambda: Dataset.delete().execute())
        assert await bench.tasks.claim("w1", small=1, large=1) == []
        assert bench.row(task_id).state == "cancelled"


class TestReport:
    async def test_writes_progress_and_extends_the_lease(self, bench: Bench) -> None:
        task_id = bench.add("a.txt")
        job = await bench.one()
        bench.clock.seconds += 20
        lost = await bench.tasks.report([report(job, pages_done=3, pages_total=9, chunks_done=1, chunks_total=4)])
        assert lost == frozenset()
        row, document = bench.row(task_id), bench.document(task_id)
        assert (row.stage, row.pages_done, row.pages_total, row.chunks_done, row.chunks_total) == (
            "embedding",
            3,
            9,
            1,
            4,
        )
        assert row.lease_until == int(bench.clock.seconds * 1000) + 30_000
        assert (document.run, document.progress, document.process_duration) == ("RUNNING", 0.5, 20.0)
        assert document.progress_msg == "10:00:00 a\n10:00:01 b"

    async def test_a_stopped_task_is_named_and_not_written(self, bench: Bench) -> None:
        task_id = bench.add("a.txt")
        job = await bench.one()
        bench.db.write_blocking(lambda: Task.update(state="cancelled").execute())
        bench.db.write_blocking(lambda: Document.update(run="CANCEL", progress=0).execute())
        assert await bench.tasks.report([report(job)]) == {task_id}
        assert bench.document(task_id).run == "CANCEL"


class TestFinish:
    async def test_makes_the_version_live_and_counts_exactly(self, bench: Bench) -> None:
        task_id = bench.add("a.txt")
        job = await bench.one()
        assert await bench.tasks.write_chunks([(job, [text(job, "x"), text(job, "y", 1)])]) == frozenset()
        bench.clock.seconds += 3
        assert await bench.tasks.finish([ended(job, 2, 14)]) == frozenset()
        document, row, dataset = bench.document(task_id), bench.row(task_id), bench.dataset()
        assert (document.run, document.progress, document.live_version) == ("DONE", 1.0, job.version_id)
        assert (document.chunk_count, document.token_count, document.process_duration) == (2, 14, 3.0)
        assert (dataset.chunk_count, dataset.token_count) == (2, 14)
        assert (row.state, row.stage, row.lease_owner, row.pages_done) == ("done", "done", None, 2)
        assert bench.versions() == {}
        first = bench.chunks(job.version_id)[0]
        assert (first.content, first.page, first.top, first.heading_path) == ("x", 3, 30.5, ["A", "B"])

    async def test_again_replaces_the_old_version(self, bench: Bench) -> None:
        bench.add("a.txt")
        old = await bench.one()
        await bench.tasks.write_chunks([(old, [text(old, "x")])])
        await bench.tasks.finish([ended(old, 5, 50)])
        bench.add("a.txt", document=old.document_id)
        new = await bench.one()
        await bench.tasks.finish([ended(new, 3, 30)])
        assert bench.versions() == {old.version_id: "dead"}
        assert (bench.dataset().chunk_count, bench.dataset().token_count) == (3, 30)

    async def test_a_replaced_version_rests_for_searches_that_began_before(self, bench: Bench) -> None:
        bench.add("a.txt")
        old = await bench.one()
        await bench.tasks.finish([ended(old, 5, 50)])
        bench.clock.seconds += 100
        bench.add("a.txt", document=old.document_id)
        await bench.tasks.finish([ended(await bench.one(), 3, 30)])
        died = bench.db.run_blocking(lambda: DocumentVersion.get_by_id(old.version_id).update_time)
        assert died == int(bench.clock.seconds * 1000)

    async def test_writing_twice_is_writing_once(self, bench: Bench) -> None:
        bench.add("a.txt")
        job = await bench.one()
        for _ in range(2):
            await bench.tasks.write_chunks([(job, [text(job, "x"), text(job, "y", 1)])])
        assert len(bench.chunks(job.version_id)) == 2

    async def test_a_lost_task_changes_nothing(self, bench: Bench) -> None:
        task_id = bench.add("a.txt")
        job = await bench.one()
        bench.db.write_blocking(lambda: Task.update(state="cancelled").execute())
        assert await bench.tasks.write_chunks([(job, [text(job, "x")])]) == {task_id}
        assert await bench.tasks.finish([ended(job)]) == {task_id}
        assert bench.chunks(job.version_id) == []
        assert bench.document(task_id).live_version is None
        for call in (bench.tasks.reset_version, bench.tasks.parser_died):
            with pytest.raises(TaskLost):
                await call(job)
        assert await bench.tasks.fail(report(job), "x") == "lost"
        assert await bench.tasks.retry(report(job), "x") == "lost"

    async def test_another_owner_changes_nothing(self, bench: Bench) -> None:
        task_id = bench.add("a.txt")
        job = await bench.one()
        assert await bench.tasks.finish([ended(replace(job, owner="w2"))]) == {task_id}

    async def test_a_switch_during_ingestion_is_followed(self, bench: Bench) -> None:
        bench.add("a.txt")
        job = await bench.one()
        await bench.tasks.write_chunks([(job, [text(job, "x")])])
        bench.db.write_blocking(lambda: Document.update(enabled=False).execute())
        await bench.tasks.finish([ended(job)])
        assert [c.available for c in bench.chunks(job.version_id)] == [False]
        (row,) = bench.db.run_blocking(lambda: list(Outbox.select()))
        assert (row.action, row.payload) == ("renewal", {"document_id": job.document_id})

    async def test_many_at_once(self, bench: Bench) -> None:
        for number in range(30):
            bench.add(f"{number}.txt")
        jobs = await bench.tasks.claim("w", small=30, large=0)
        await bench.tasks.write_chunks([(job, [text(job, "x")]) for job in jobs])
        await bench.tasks.finish([ended(job) for job in jobs])
        assert (bench.dataset().chunk_count, bench.dataset().token_count) == (30, 210)


class TestEmbeddingIsCounted:
    async def test_a_document_leaves_one_usage_row(self, bench: Bench) -> None:
        bench.add("a.txt")
        bench.add("without text.txt")
        one, empty = await bench.tasks.claim("w1", small=10, large=0)
        done = Ended(report=report(one, embed_tokens=70, embed_ms=12.5), chunk_count=1, token_count=7)
        await bench.tasks.finish([done, ended(empty, 0, 0)])
        await bench.tasks.finish([done])
        assert bench.usage() == [("x", "minilm@Builtin", "embed", 70, 0, 12.5, "ok")]

    async def test_so_does_an_attempt_that_failed(self, bench: Bench) -> None:
        bench.add("a.txt")
        await bench.tasks.retry(report(await bench.one(), embed_tokens=5), "The disk is full.")
        bench.clock.seconds += 60
        await bench.tasks.fail(report(await bench.one(), embed_tokens=6), "It is broken.")
        assert [(row[3], row[6]) for row in bench.usage()] == [(5, "failed"), (6, "failed")]


class TestBadEnds:
    async def test_fail_says_why_in_words(self, bench: Bench) -> None:
        task_id = bench.add("a.txt")
        job = await bench.one()
        assert await bench.tasks.fail(report(job), "The file is encrypted.") == "failed"
        document, row = bench.document(task_id), bench.row(task_id)
        assert (document.run, document.progress, row.state, row.last_error) == (
            "FAIL",
            -1.0,
            "failed",
            "The file is encrypted.",
        )
        assert document.progress_msg.splitlines()[-1].endswith("[ERROR]The file is encrypted.")
        assert document.progress_msg.startswith("10:00:00 a\n")
        assert bench.versions() == {job.version_id: "dead"}

    async def test_retry_rests_then_ends(self, bench: Bench) -> None:
        task_id = bench.add("a.txt")
        job = await bench.one()
        assert await bench.tasks.retry(report(job), "The disk is full.") == "retried"
        assert await bench.tasks.claim("w1", small=1, large=1) == []
        bench.clock.seconds += 5
        again = await bench.one()
        assert again.attempt == 2
        assert await bench.tasks.retry(report(again), "The disk is full.") == "failed"
        assert "The disk is full. Given up after 2 attempts." in bench.document(task_id).progress_msg

    async def test_release_takes_the_attempt_back(self, bench: Bench) -> None:
        task_id = bench.add("a.txt")
        job = await bench.one()
        await bench.tasks.write_chunks([(job, [text(job, "x")])])
        await bench.tasks.release([job])
        assert (bench.row(task_id).state, bench.row(task_id).attempts) == ("queued", 0)
        again = await bench.one("w2")
        assert again.leftovers
        await bench.tasks.reset_version(again)
        assert bench.chunks(again.version_id) == []

    async def test_parser_deaths_are_kept(self, bench: Bench) -> None:
        bench.add("a.txt")
        job = await bench.one()
        assert await bench.tasks.parser_died(job) == 1
        await bench.tasks.release([job])
        assert (await bench.one()).parser_deaths == 1

    async def test_an_abandoned_version_is_swept_unless_it_is_in_use(self, bench: Bench) -> None:
        task_id = bench.add("a.txt")
        job = await bench.one()
        await bench.tasks.abandon(job)
        assert bench.versions() == {job.version_id: "writing"}
        bench.db.write_blocking(lambda: Task.delete().where(Task.id == task_id).execute())
        bench.db.write_blocking(lambda: DocumentVersion.delete().execute())
        await bench.tasks.abandon(job)
        assert bench.versions() == {job.version_id: "dead"}


class TestLostWorkers:
    async def test_an_expired_lease_goes_back(self, bench: Bench) -> None:
        task_id = bench.add("a.txt")
        job = await bench.one()
        assert await bench.tasks.reap() == 0
        bench.clock.seconds += 31
        assert await bench.tasks.reap() == 1
        assert bench.row(task_id).state == "queued"
        assert await bench.tasks.finish([ended(job)]) == {task_id}, "the late worker's task is no longer its own"
        assert (await bench.one("w2")).attempt == 2

    async def test_a_file_that_loses_too_many_workers_is_given_up(self, bench: Bench) -> None:
        task_id = bench.add("a.txt")
        for _ in range(bench.settings.attempts * 3):
            await bench.one()
            bench.clock.seconds += 31
            assert await bench.tasks.reap() == 1
        assert bench.row(task_id).state == "failed"
        assert bench.document(task_id).run == "FAIL"
        assert "[ERROR]The worker stopped 6 times" in bench.document(task_id).progress_msg

    async def test_a_dead_embedded_worker_is_taken_over_at_once(self, bench: Bench) -> None:
        mine, other, outside = f"{EMBEDDED_OWNER}2", f"{EMBEDDED_OWNER}1", "worker-1"
        for owner in (other, outside, mine):
            bench.add(f"{owner}.txt")
            await bench.one(owner)
        assert await bench.tasks.take_over(mine) == 1
        (job,) = await bench.tasks.claim(mine, small=9, large=9)
        assert job.name == f"{other}.txt"


@pytest.mark.parametrize(
    ("given", "tokens", "delimiter"),
    [
        ({"chunk_token_num": 256, "delimiter": "\\n"}, 256, "\\n"),
        ({}, 128, "\n!?。；！？"),
        ({"chunk_token_num": "x", "delimiter": 3}, 128, "\n!?。；！？"),
        ({"chunk_token_num": True}, 128, "\n!?。；！？"),
        ({"chunk_token_num": 10**9, "delimiter": ""}, 2048, ""),
        ({"chunk_token_num": -5}, 1, "\n!?。；！？"),
        (None, 128, "\n!?。；！？"),
    ],
)
def test_a_stored_configuration_is_read_with_care(given: Any, tokens: int, delimiter: str) -> None:
    config = chunk_config(given)
    assert (config.chunk_token_num, config.delimiter) == (tokens, delimiter)
