"""From threads to the loop that owns what is called: connections live and die with their loop.

The way back from `rag.core.blocking`. Where a process has no loop of its own, one is kept in a background thread, for
all calls: a loop for each call would end with its pooled connections.
"""

import asyncio
import atexit
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

from rag.core.errors import WrongThread

T = TypeVar("T")
_LOOP_CHECK_S = 0.5
"""How often a waiting thread looks whether the loop still runs."""
_CLOSE_S = 5.0


class OwnerLoop:
    """Runs coroutines and async generators on one loop for threads that wait for them.

    Args:
        loop: The loop; where none is given, the one that runs where this is made, else the process's background loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop or _running_loop()
        self._process = os.getpid()

    def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await `make()` on the loop, with this thread's context variables, and wait for it here. Its exception is
        raised itself, a cancellation as `asyncio.CancelledError`. Leaving (Ctrl-C) cancels it.

        Raises:
            WrongThread: this thread runs a loop, or the owner's loop does not run in this process.
        """
        job = _Job(self._usable(), make)
        job.begin()
        try:
            return job.result()
        finally:
            job.cancel()

    def stream(self, make: Callable[[], AsyncIterator[T]], *, buffer: int = 64) -> Generator[T, None, None]:
        """Iterate `make()` on the loop. It waits while `buffer` items are unread; closing the generator closes it
        there and waits for that up to 5 s.

        Raises:
            WrongThread: as `call`, at once and not at the first item; and at each item, if it is taken where the stream
                could not have been made. That ends the stream.
        """
        return _streamed(_Tap(self._usable(), make, buffer), self._check_place)

    def _usable(self) -> asyncio.AbstractEventLoop:
        self._check_place()
        loop = self._loop or background_loop()
        if not loop.is_running():
            raise WrongThread("The event loop that owns this does not run. Call while it does; close it last.")
        return loop

    def _check_place(self) -> None:
        """Return if this thread may wait for the loop.

        Raises:
            WrongThread: it runs a loop itself, or the process is a child of the one this was made in.
        """
        if _running_loop() is not None:
            raise WrongThread(
                "This call waits, and this thread runs an event loop, which would stand still meanwhile. Await the "
                "asynchronous method here, or do the synchronous work in a thread (rag.core.blocking.run_in)."
            )
        if os.getpid() != self._process:
            raise WrongThread(
                "This was made before the process forked, and its loop stayed behind. Make models and wrapper anew in "
                "the child, or start children with 'spawn'."
            )


class _Job(Generic[T]):
    """One coroutine on the loop, and the thread that waits for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self.changed = threading.Condition()
        self.done = False
        self.loop = loop
        self._make = make
        self._task: asyncio.Task[T] | None = None

    def begin(self) -> None:
        self._on_loop(self._begin)

    def cancel(self) -> None:
        """Have it cancelled, unless it is done; does not wait."""
        if not self.done and self.loop.is_running():
            self._on_loop(self._cancel)

    def result(self) -> T:
        """Wait for its end."""
        with self.changed:
            while not self.done:
                self.wait()
        assert self._task is not None
        if self._task.cancelled():
            raise asyncio.CancelledError
        try:
            return self._task.result()
        finally:
            self._task = None  # An exception's traceback holds this frame.

    def wait(self) -> None:
        """Wait for a change; `changed` is held.

        Raises:
            WrongThread: the loop has ended.
        """
        if not self.changed.wait(_LOOP_CHECK_S) and not self.done and not self.loop.is_running():
            raise WrongThread("The event loop that owns this has ended while it was waited for.")

    def wait_closed(self, limit_s: float) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.done or not self.loop.is_running(), limit_s)

    def _on_loop(self, callback: Callable[[], None]) -> None:
        try:
            self.loop.call_soon_threadsafe(callback)
        except RuntimeError as error:
            raise WrongThread("The event loop that owns this has ended.") from error

    def _begin(self) -> None:
        self._task = self.loop.create_task(self._run())
        self._task.add_done_callback(self._finish)

    async def _run(self) -> T:
        return await self._make()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _finish(self, task: "asyncio.Task[T]") -> None:
        if not task.cancelled():
            task.exception()  # Looked at, so that nobody reports it when the thread has gone.
        with self.changed:
            self.done = True
            self.changed.notify_all()


class _Tap(Generic[T]):
    """The items of one async iterator, filled on the loop, drunk in a thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, make: Callable[[], AsyncIterator[T]], buffer: int) -> None:
        self.job: _Job[None] = _Job(loop, self._pump)
        self._make = make
        self._buffer = buffer
        self._items: deque[T] = deque()
        self._room: asyncio.Future[None] | None = None

    def take(self) -> list[T]:
        """The next item alone; empty at the end."""
        with self.job.changed:
            while not self._items and not self.job.done:
                self.job.wait()
            if not self._items:
                return []
            item = self._items.popleft()
            room = None
            if len(self._items) <= self._buffer // 2:
                room, self._room = self._room, None
        if room is not None:
            self.job._on_loop(lambda: None if room.done() else room.set_result(None))
        return [item]

    async def _pump(self) -> None:
        source = self._make()
        try:
            async for item in source:
                await self._offer(item)
        finally:
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()

    async def _offer(self, item: T) -> None:
        while True:
            with self.job.changed:
                if len(self._items) < self._buffer:
                    self._items.append(item)
                    self.job.changed.notify_all()
                    return
                room = self._room = self.job.loop.create_future()
            await room


def _streamed(tap: _Tap[T], check_place: Callable[[], None]) -> Generator[T, None, None]:
    """The items of `tap`; a generator may go elsewhere between two of them, so each asks whether it may wait here."""
    check_place()
    process = os.getpid()
    tap.job.begin()
    try:
        while items := tap.take():
            yield items[0]
            check_place()
        tap.job.result()
    finally:
        if not tap.job.done and os.getpid() == process:  # In a child of it there is nothing that could be ended.
            tap.job.cancel()
            if _running_loop() is None:  # Else the collector closes a forgotten generator on a loop's own thread.
                tap.job.wait_closed(_CLOSE_S)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class _Background:
    """The loop of a process that has none."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.thread: threading.Thread | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    def start(self) -> asyncio.AbstractEventLoop:
        started = threading.Event()

        async def main() -> None:
            self.loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
            started.set()
            await self._stop.wait()

        def run() -> None:
            with asyncio.Runner() as runner:  # Which cancels what is left and closes the loop.
                runner.run(main())

        self.thread = threading.Thread(target=run, name="owner-loop", daemon=True)
        self.thread.start()
        started.wait()
        assert self.loop is not None
        return self.loop

    def stop(self) -> None:
        thread, loop, self.thread, self.loop = self.thread, self.loop, None, None
        if thread is not None and loop is not None and thread.is_alive():
            loop.call_soon_threadsafe(self._stop.set)
            thread.join(_CLOSE_S)


_background = _Background()


def background_loop() -> asyncio.AbstractEventLoop:
    """The loop in this process's background thread, started by the first call."""
    with _background.lock:
        if _background.loop is None or _background.thread is None or not _background.thread.is_alive():
            return _background.start()
        return _background.loop


def stop_background_loop() -> None:
    """Cancel what still runs there and end it; a later call starts another. Done by itself when the process ends."""
    with _background.lock:
        _background.stop()


def _forget_after_fork() -> None:
    """Threads do not survive a fork: the child starts a loop of its own."""
    global _background
    _background = _Background()


atexit.register(stop_background_loop)
os.register_at_fork(after_in_child=_forget_after_fork)
