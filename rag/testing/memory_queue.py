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
            await asyncio.wait_for(self._rung.wait(), timeout_s)
        except TimeoutError:
            return
        finally:
            self._rung.clear()

    async def check(self) -> str:
        return "memory"
