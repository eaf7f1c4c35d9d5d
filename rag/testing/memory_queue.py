"""A queue in memory that remembers what it was told."""

import asyncio


class MemoryQueue:
    """JobQueue for one process."""

    def __init__(self) -> None:
        self.notified: list[str] = []
        self._rung = asyncio.Event()

    async def notify(self, task_id: str) -> None:
        self.notified.append(task_id)
        self._rung.set()

    async def wait(self, timeout_s: float) -> None:
        try:
            # Not `wait_for`: on Python 3.11 it swallows a cancellation that meets the notification.
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        except TimeoutError:
            return
        finally:
            self._rung.clear()

    async def check(self) -> str:
        return "memory"
