import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from rag.core.clock import SystemClock
from rag.core.errors import ModelBadOutput, StoreError, StoreUnavailable
from rag.core.types import ChunkText
from rag.ingest.base import Ended, Job, Report, TaskLost
from rag.ingest.grouping import EmbedGroup, WriteGroup
from rag.llm.base import Embedded
from rag.store.base import Entry, EntryKey, Place
from rag.store.memory import MemoryStore
from rag.testing.hash_embedder import HashEmbedder
from rag.testing.memory_ingest import MemoryTasks

PLACE = Place(name="t_x_g1", dim=8)


def job(number: int) -> Job:
    return Job(
        task_id=f"t{number}",
        owner="w",
        document_id=f"d{number}",
        dataset_id="ds",
        tenant_id="x",
        version_id=f"v{number}",
        name=f"{number}.txt",
        kind="doc",
        size=10,
        blob_key="k",
        method="naive",
        place=PLACE,
        embedding_model="hash@Testing",
    )


def part(of: Job, count: int, start: int = 0) -> tuple[list[ChunkText], list[Entry]]:
    chunks = [
        ChunkText(
            chunk_id=f"{i:016x}",
            document_id=of.document_id,
            version_id=of.version_id,
            dataset_id="ds",
            document_name=of.name,
            ordinal=i,
            content=f"text {i}",
        )
        for i in range(start, start + count)
    ]
    vector = np.zeros(8, dtype=np.float32)
    entries = [
        Entry(
            key=EntryKey(document_id=of.document_id, version_id=of.version_id, chunk_id=c.chunk_id),
            dataset_id="ds",
            tokens="text",
            vector=vector,
        )
        for c in chunks
    ]
    return chunks, entries


def end_of(of: Job, count: int) -> Ended:
    return Ended(report=Report(job=of, stage="done", fraction=0.99, messages=()), chunk_count=count, token_count=0)


class SlowEmbedder(HashEmbedder):
    """Counts how many texts each call had and how many calls ran side by side."""

    def __init__(self) -> None:
        super().__init__(dim=8)
        self.sizes: list[int] = []
        self.side_by_side = 0
        self.most = 0

    def count(self, texts: Sequence[str]) -> int:
        return HashEmbedder.encode(self, texts).tokens

    async def encode(self, texts: Sequence[str]) -> Embedded:  # type: ignore[override]  # an asynchronous model
        self.sizes.append(len(texts))
        self.side_by_side += 1
        self.most = max(self.most, self.side_by_side)
        await asyncio.sleep(0.02)
        self.side_by_side -= 1
        return super().encode(texts)


class TestEmbedGroup:
    async def test_texts_of_many_documents_share_calls_and_keep_their_rows(self) -> None:
        embedder = SlowEmbedder()
        group = EmbedGroup(embedder, lanes=2, at_once=16)
        futures = [group.submit([f"word{i}"]) for i in range(60)]
        shares = await asyncio.gather(*futures)
        for number, share in enumerate(shares):
            assert np.array_equal(share.vectors, HashEmbedder(dim=8).encode([f"word{number}"]).vectors)
        assert len(embedder.sizes) <= 5
        assert embedder.most == 2

    async def test_a_synchronous_model_runs_off_the_loop(self) -> None:
        embedded = await EmbedGroup(HashEmbedder(dim=8), lanes=1).submit(["a", "b"])
        assert embedded.vectors.shape == (2, 8)

    async def test_the_tokens_of_a_shared_call_are_shared_out(self) -> None:
        group = EmbedGroup(SlowEmbedder(), lanes=1)
        texts = [["one two three", "four"], ["five six"], [""], ["seven eight nine ten eleven"]]
        shares = await asyncio.gather(*(group.submit(some) for some in texts))
        assert sum(share.tokens for share in shares) == SlowEmbedder().count(sum(texts, []))
        assert shares[2].tokens == 0
        assert shares[3].tokens > shares[1].tokens > 0

    async def test_texts_that_were_given_up_are_not_embedded(self) -> None:
        embedder = SlowEmbedder()
        group = EmbedGroup(embedder, lanes=1)
        first = group.submit(["a"])
        await asyncio.sleep(0.005)
        second, third = group.submit(["b"]), group.submit(["c"])
        second.cancel()
        await asyncio.gather(first, third)
        assert embedder.sizes == [1, 1]

    async def test_a_model_of_another_shape_is_refused(self) -> None:
        embedder = HashEmbedder(dim=8)
        group = EmbedGroup(embedder, lanes=1)
        embedder.dim = 9
        with pytest.raises(ModelBadOutput):
            await group.submit(["a"])


class TestWriteGroup:
    def group(self, tasks: MemoryTasks, store: MemoryStore, **options: float) -> WriteGroup:
        return WriteGroup(tasks, store, SystemClock(), **options)  # type: ignore[arg-type]  # numbers as given

    async def test_many_documents_share_a_write(self) -> None:
        tasks, store = MemoryTasks(), MemoryStore()
        writes = self.group(tasks, store, max_wait_s=5.0)
        jobs = [job(i) for i in range(40)]
        tasks.running = {j.task_id: j for j in jobs}
        with writes.upstream():
            futures = [writes.submit(j, *part(j, 1), end=lambda j=j: end_of(j, 1)) for j in jobs]
            await asyncio.sleep(0.05)
            assert not any(f.done() for f in futures), "a write waits while documents are on their way"
        await asyncio.gather(*futures)
        assert tasks.writes == 1
        assert len(tasks.done) == 40
        assert writes.grown() == {PLACE: 40}
        assert writes.grown() == {}

    async def test_a_full_group_and_an_old_one_do_not_wait(self) -> None:
        tasks = MemoryTasks()
        one = job(1)
        tasks.running = {"t1": one}
        full = self.group(tasks, MemoryStore(), max_chunks=10, max_wait_s=30.0)
        old = self.group(tasks, MemoryStore(), max_wait_s=0.05)
        with full.upstream(), old.upstream():
            await asyncio.wait_for(full.submit(one, *part(one, 10)), 5)
            await asyncio.wait_for(old.submit(one, *part(one, 1)), 5)

    async def test_lost_tasks_end_their_own_futures_only(self) -> None:
        tasks, store = MemoryTasks(), MemoryStore()
        writes = self.group(tasks, store)
        kept, lost = job(1), job(2)
        tasks.running = {"t1": kept}
        with writes.upstream():
            one = writes.submit(kept, *part(kept, 1), end=lambda: end_of(kept, 1))
            two = writes.submit(lost, *part(lost, 1), end=lambda: end_of(lost, 1))
        await one
        with pytest.raises(TaskLost):
            await two
        assert set(tasks.done) == {"t1"}
        assert set(tasks.rows) == {"v1"}

    async def test_a_refused_document_does_not_take_others_with_it(self) -> None:
        class Picky(MemoryStore):
            async def upsert(self, place: Place, entries: Sequence[Entry], *, visible: bool = True) -> None:
                if any(e.key.document_id == "d2" for e in entries):
                    raise StoreError("No.")
                await super().upsert(place, entries)

        tasks = MemoryTasks()
        good, bad = job(1), job(2)
        tasks.running = {"t1": good, "t2": bad}
        writes = self.group(tasks, Picky())
        with writes.upstream():
            one = writes.submit(good, *part(good, 1), end=lambda: end_of(good, 1))
            two = writes.submit(bad, *part(bad, 1), end=lambda: end_of(bad, 1))
        await one
        with pytest.raises(StoreError):
            await two
        assert set(tasks.done) == {"t1"}

    async def test_only_the_write_with_which_a_version_goes_live_is_waited_for(self) -> None:
        writes_seen: list[tuple[int, bool]] = []

        class Watched(MemoryStore):
            async def upsert(self, place: Place, entries: Sequence[Entry], *, visible: bool = True) -> None:
                writes_seen.append((len(entries), visible))
                await super().upsert(place, entries, visible=visible)

        tasks = MemoryTasks()
        one = job(1)
        tasks.running = {"t1": one}
        writes = self.group(tasks, Watched(), max_chunks=2)
        first = writes.submit(one, *part(one, 2))
        second = writes.submit(one, *part(one, 2, 2), after=(first,))
        await second
        await writes.submit(one, *part(one, 0, 4), after=(first, second), end=lambda: end_of(one, 4))
        assert writes_seen == [(2, False), (2, False), (0, True)]

    async def test_a_part_is_not_written_after_one_that_failed(self) -> None:
        class Broken(MemoryStore):
            async def upsert(self, place: Place, entries: Sequence[Entry], *, visible: bool = True) -> None:
                raise StoreUnavailable("The disk is full.")

        tasks = MemoryTasks()
        one = job(1)
        tasks.running = {"t1": one}
        writes = self.group(tasks, Broken(), max_chunks=2)
        first = writes.submit(one, *part(one, 2))
        last = writes.submit(one, *part(one, 1, 2), after=(first,), end=lambda: end_of(one, 3))
        for future in (first, last):
            with pytest.raises(StoreUnavailable):
                await future
        assert tasks.writes == 1
        assert not tasks.done

    async def test_what_was_given_up_is_not_written(self) -> None:
        tasks, store = MemoryTasks(), MemoryStore()
        one = job(1)
        tasks.running = {"t1": one}
        writes = self.group(tasks, store)
        with writes.upstream():
            writes.submit(one, *part(one, 1)).cancel()
        await asyncio.sleep(0.02)
        assert not tasks.rows
