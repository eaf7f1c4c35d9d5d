import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rag.queue.base import JobQueue
from rag.queue.embedded import ServerQueue, WorkerQueue
from rag.testing.memory_queue import MemoryQueue
from rag.testing.queue_suite import QueueSuite, same


@asynccontextmanager
async def piped() -> AsyncIterator[tuple[ServerQueue, WorkerQueue]]:
    """A server's and a worker's end of a real pipe, in one process."""
    read, write = os.pipe()
    loop = asyncio.get_running_loop()
    with os.fdopen(write, "wb", 0) as file:
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, file)
        server, worker = ServerQueue(), WorkerQueue(read)
        server.attach(asyncio.StreamWriter(transport, protocol, None, loop))
        worker.open()
        try:
            yield server, worker
        finally:
            worker.close()
            transport.close()
            await asyncio.sleep(0)
            os.close(read)


class TestMemory(QueueSuite):
    def queues(self):  # type: ignore[no-untyped-def]  # as in the suite
        return same(MemoryQueue())


class TestPolling(QueueSuite):
    def queues(self):  # type: ignore[no-untyped-def]  # as in the suite
        return same(WorkerQueue())


class TestServerAlone(QueueSuite):
    def queues(self):  # type: ignore[no-untyped-def]  # as in the suite
        return same(ServerQueue())


class TestPipe(QueueSuite):
    @asynccontextmanager
    async def queues(self) -> AsyncIterator[tuple[JobQueue, JobQueue]]:  # type: ignore[override]  # same shape
        async with piped() as ends:
            yield ends


async def test_the_end_of_the_server_is_seen() -> None:
    read, write = os.pipe()
    worker = WorkerQueue(read)
    worker.open()
    os.close(write)
    await asyncio.wait_for(worker.ended.wait(), 2)
    os.close(read)


async def test_a_worker_that_died_disturbs_nobody() -> None:
    server = ServerQueue()
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "", stdin=asyncio.subprocess.PIPE)
    assert child.stdin is not None
    server.attach(child.stdin)
    await child.wait()
    for number in range(100):
        await server.notify(f"t{number}")
        await asyncio.sleep(0)
    server.attach(None)
    await server.notify("t")


async def test_a_wait_that_is_cancelled_as_it_is_woken_ends() -> None:
    queue = WorkerQueue()
    waiting = asyncio.create_task(queue.wait(10))
    await asyncio.sleep(0.01)
    await queue.notify("t")
    await asyncio.sleep(0)
    waiting.cancel()
    ended, _ = await asyncio.wait({waiting}, timeout=2)
    assert ended
