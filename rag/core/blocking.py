"""The one bridge from the event loop to blocking work, and back.

`run` sends a synchronous function to a bounded thread pool and awaits its result; `iterate` does the
same for a synchronous iterator, with back-pressure. Each kind of work has a lane of its own, so that
slow model calls can never keep a row look-up waiting. Context variables are copied into the thread.
"""

import asyncio
import contextvars
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Lane(Enum):
    """A pool of threads; the value is (name, number of threads)."""

    ROWS = ("rows", 8)
    ROW_WRITES = ("row-writes", 1)
    SERVER_WRITES = ("server-writes", 4)
    INDEX = ("index", 4)
    FILES = ("files", 4)
    MODEL = ("model", 4)
    PARSE = ("parse", 8)
    TEXT = ("text", 2)


_pools: dict[Lane, ThreadPoolExecutor] = {}
_pools_lock = threading.Lock()


def _pool(lane: Lane) -> ThreadPoolExecutor:
    with _pools_lock:
        if lane not in _pools:
            name, size = lane.value
            _pools[lane] = ThreadPoolExecutor(size, thread_name_prefix=f"blocking-{name}")
        return _pools[lane]


async def run(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Await `function(*args, **kwargs)` on the ROWS lane; its exception crosses unchanged."""
    return await run_in(Lane.ROWS, function, *args, **kwargs)


async def run_in(lane: Lane, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Await `function(*args, **kwargs)` on `lane`.

    A cancelled caller stops waiting at once; work that has begun runs to its end in its thread, work
    still in the queue is dropped.
    """
    context = contextvars.copy_context()
    call = partial(context.run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_pool(lane), call)


_END = object()


class _Conveyor(Generic[T]):
    """Carries the items of one iterator from its thread to the loop that was running when it was made."""

    def __init__(self, make: Callable[[], Iterator[T]], buffer: int) -> None:
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._items: queue.Queue[T | object] = queue.Queue(buffer)
        self._ready = asyncio.Event()
        self._stopped = threading.Event()

    def produce(self) -> None:
        """Runs in the thread."""
        iterator = self._make()
        try:
            for item in iterator:
                if not self._put(item):
                    return
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
            self._put(_END)

    def _put(self, item: object) -> bool:
        while not self._stopped.is_set():
            try:
                self._items.put(item, timeout=0.1)
            except queue.Full:
                continue
            self._loop.call_soon_threadsafe(self._ready.set)
            return True
        return False

    async def take(self, producer: "asyncio.Future[None]") -> T | object:
        """The next item, or the end mark."""
        while self._items.empty() and not producer.done():
            self._ready.clear()
            if self._items.empty():
                waiter = asyncio.ensure_future(self._ready.wait())
                try:
                    either: set[asyncio.Future[Any]] = {waiter, producer}
                    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiter.cancel()
        return _END if self._items.empty() else self._items.get_nowait()

    def stop(self) -> None:
        self._stopped.set()


async def iterate(
    make: Callable[[], Iterator[T]], *, lane: Lane = Lane.MODEL, buffer: int = 64
) -> AsyncGenerator[T, None]:
    """Yield the items of `make()`, which is created, advanced and closed on one thread of `lane`.

    The thread waits while `buffer` items are unread. Leaving the loop early closes the iterator at its
    next item. An exception of the iterator is raised here, after the items before it.
    """
    conveyor = _Conveyor(make, buffer)
    producer = asyncio.ensure_future(run_in(lane, conveyor.produce))
    try:
        while (item := await conveyor.take(producer)) is not _END:
            yield item  # type: ignore[misc]  # the conveyor also carries its end mark
        await producer
    finally:
        conveyor.stop()
        if not producer.done():
            producer.cancel()


def shutdown() -> None:
    """Drop the pools without waiting; called once, after the last use, by the wiring."""
    with _pools_lock:
        for pool in _pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        _pools.clear()
