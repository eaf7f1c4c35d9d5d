"""Changes of sessions: in each session one after another, in the order they came."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from rag.core.types import Principal

T = TypeVar("T")
_Key = tuple[str, str]


class SessionQueue:
    """Runs changes as tasks of their own: a caller that leaves does not end the one it began. Used on the loop only."""

    def __init__(self) -> None:
        self._last: dict[_Key, asyncio.Task[Any]] = {}
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, principal: Principal, session_id: str, change: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return `change()`, begun when all earlier ones of the session have ended, however they did."""
        # With the tenant: who is not the owner must not hold up the owner's.
        key = (principal.tenant_id, session_id)
        task = asyncio.create_task(_after(self._last.get(key), change), name="change-session")
        self._last[key] = task
        self._running.add(task)
        task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    async def settled(self, timeout_s: float | None = None) -> None:
        """Return when all changes that were begun so far have ended, or after `timeout_s` seconds."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=timeout_s)

    def _forget(self, key: _Key, task: "asyncio.Task[Any]") -> None:
        self._running.discard(task)
        if self._last.get(key) is task:
            del self._last[key]
        if not task.cancelled():
            task.exception()  # Whoever began it may have left: the error has been looked at.


async def _after(before: "asyncio.Task[Any] | None", change: Callable[[], Coroutine[Any, Any, T]]) -> T:
    if before is not None:
        await asyncio.wait({before})
    return await change()
