"""Items from any thread to one event loop: bounded, in order, ended from either side."""

import asyncio
import threading
from collections import deque
from types import TracebackType
from typing import Generic, Self, TypeVar

from rag.core.errors import WrongThread

T = TypeVar("T")
_LOOP_CHECK_S = 1.0
"""How often a thread that waits for room looks whether the reader's loop still lives."""


class Conveyor(Generic[T]):
    """Carries items to the loop that was running when it was made. Threads `put` and `end`; that loop reads, by
    `async for` or by `batch`, and leaves with `aclose` or at the end of `async with`.

    This is also the bridge for libraries that push what they have from threads of their own: give them `put` and
    `end` as callbacks.

        async with Conveyor[str]() as tokens:
            library.generate(prompt, on_token=tokens.put, on_done=tokens.end)
            async for token in tokens:
                ...

    Args:
        buffer: How many unread items there may be; a thread that puts one more waits. At least 1.
    """

    def __init__(self, buffer: int = 64) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._buffer = buffer
        self._items: deque[T] = deque()
        self._room = threading.Condition()
        self._waiter: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._left = False
        self._unpaused = 0

    # ---- any thread

    @property
    def left(self) -> bool:
        """Whether the reader has gone, or its loop."""
        return self._left or self._loop.is_closed()

    def is_full(self) -> bool:
        return len(self._items) >= self._buffer

    def put(self, item: T) -> bool:
        """Hand one item over; wait while the buffer is full. False once nobody reads any more: stop then.

        Raises:
            WrongThread: the buffer is full and this is the reader's own thread, which cannot wait for itself.
        """
        with self._room:
            if not self._wait_for_room():
                return False
            self._items.append(item)
            waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self._wake(waiter)
        return True

    def wait_for_room(self) -> bool:
        """Wait until an item can be put; False once nobody reads any more.

        Raises:
            WrongThread: as `put`.
        """
        with self._room:
            return self._wait_for_room()

    def end(self, error: BaseException | None = None) -> None:
        """Say that no more comes; the reader gets `error` after the items before it. Only the first call counts."""
        with self._room:
            if self._ended:
                return
            self._ended = True
            self._error = None if self._left else error
            waiter, self._waiter = self._waiter, None
            self._room.notify_all()
        if waiter is not None:
            self._wake(waiter)

    def leave(self) -> None:
        """Drop what is unread; from now on `put` says False."""
        with self._room:
            self._left = True
            self._error = None
            self._items.clear()
            self._room.notify_all()

    # ---- the loop

    async def batch(self) -> list[T]:
        """All items that are there, after waiting for the first; empty at the end. At most one batch a loop tick, so
        that what arrives together leaves together.

        Raises:
            BaseException: what the producer ended with, the object itself.
        """
        if self._unpaused:
            await self._pause()
        if not await self._ready():
            return []
        with self._room:
            found = list(self._items)
            self._items.clear()
            self._room.notify_all()
        self._unpaused = len(found)
        return found

    async def __anext__(self) -> T:
        if self._unpaused >= self._buffer:
            await self._pause()
        if not await self._ready():
            raise StopAsyncIteration
        self._unpaused += 1
        with self._room:
            item = self._items.popleft()
            # Half empty: waking the producer for each single item would cost a thread switch for each.
            if len(self._items) <= self._buffer // 2:
                self._room.notify_all()
        return item

    def __aiter__(self) -> Self:
        return self

    async def aclose(self) -> None:
        """Leave; does not wait for the producer."""
        self.leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    # ---- inside

    def _wait_for_room(self) -> bool:
        while len(self._items) >= self._buffer and not (self._ended or self.left):
            if threading.get_ident() == self._loop_thread:
                raise WrongThread(
                    "The buffer is full, and the thread that reads it cannot wait for itself. "
                    "Put from another thread, or make the buffer larger."
                )
            self._room.wait(_LOOP_CHECK_S)
        return not (self._ended or self.left)

    async def _ready(self) -> bool:
        """Wait for an item; False at the end."""
        while True:
            with self._room:
                if self._items:
                    return True
                if self._ended or self._left:
                    error, self._error = self._error, None
                    break
                waiter = self._waiter = self._loop.create_future()
            self._unpaused = 0
            await waiter
        if error is None:
            return False
        try:
            raise error
        finally:
            del error  # Its traceback holds this frame.

    async def _pause(self) -> None:
        """Let others have their turn: a fast producer must not keep the loop."""
        self._unpaused = 0
        await asyncio.sleep(0)

    def _wake(self, waiter: "asyncio.Future[None]") -> None:
        try:
            self._loop.call_soon_threadsafe(_resolve, waiter)
        except RuntimeError:  # The loop is closed: nobody will read.
            self.leave()


def _resolve(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
