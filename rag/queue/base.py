"""The wake-up beside the task rows. The truth is the row; a lost wake-up only costs a poll interval."""

from typing import Protocol


class JobQueue(Protocol):
    async def notify(self, task_id: str) -> None:
        """Tell a worker that `task_id` waits. Never fails the caller: the row is already written."""
        ...

    async def wait(self, timeout_s: float) -> None:
        """Return at the next notification or after `timeout_s` seconds."""
        ...

    async def check(self) -> str:
        """The backend's name, if it answers."""
        ...
