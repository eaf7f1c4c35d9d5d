"""The contract of `rag.queue.base.JobQueue`. Subclass it and give `queues()`."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from rag.queue.base import JobQueue


@asynccontextmanager
async def same(queue: JobQueue) -> AsyncIterator[tuple[JobQueue, JobQueue]]:
    """Both ends of a queue that lives in one object."""
    yield queue, queue


class QueueSuite:
    """Tests that every queue passes."""

    def queues(self) -> AbstractAsyncContextManager[tuple[JobQueue, JobQueue]]:
        """The end that notifies and the end that waits."""
        raise NotImplementedError

    async def test_a_notification_ends_the_wait(self) -> None:
        async with self.queues() as (here, there):
            waiting = asyncio.create_task(there.wait(10))
            await asyncio.sleep(0.02)
            began = time.monotonic()
            await here.notify("t1")
            await waiting
            assert time.monotonic() - began < 2

    async def test_a_notification_before_the_wait_is_not_lost(self) -> None:
        async with self.queues() as (here, there):
            await here.notify("t1")
            began = time.monotonic()
            await there.wait(10)
            assert time.monotonic() - began < 2

    async def test_without_one_the_wait_ends_by_time(self) -> None:
        async with self.queues() as (_, there):
            began = time.monotonic()
            await there.wait(0.05)
            assert 0.03 < time.monotonic() - began < 2

    async def test_many_notifications_wake_once(self) -> None:
        async with self.queues() as (here, there):
            for number in range(1000):
                await here.notify(f"t{number}")
            await there.wait(10)
            await asyncio.sleep(0.05)
            await there.wait(0.5)
            began = time.monotonic()
            await there.wait(0.05)
            assert time.monotonic() - began > 0.03

    async def test_check_names_the_backend(self) -> None:
        async with self.queues() as (here, there):
            assert await here.check()
            assert await there.check()
