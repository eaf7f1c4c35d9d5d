"""The one bridge from the event loop to blocking work, and back.

`run` sends a synchronous function to a bounded thread pool and awaits its result; `iterate` does the
same for a synchronous iterator, with back-pressure. Each kind of work has a lane of its own, so that
slow model calls can never keep a row look-up waiting. Context variables are copied into the thread.
"""

import asyncio
import contextvars
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Lane(Enum):
    """A pool of threads; the value is (name, number of threads)."""

    ROWS = ("rows", 8)
    INDEX = ("index", 4)
    FILES = ("files", 4)
    MODEL = ("model", 4)
    PARSE = ("parse", 8)


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


async def iterate(
    make: Callable[[], Iterator[T]], *, lane: Lane = Lane.MODEL, buffer: int = 64
) -> AsyncIterator[T]:
    """Yield the items of `make()`, which is created, advanced and closed on one thread of `lane`.

    The thread waits while `buffer` items are unread. Leaving the loop early closes the iterator at its
    next item. An exception of the iterator is raised here, after the items before it.
    """
    loop = asyncio.get_running_loop()
    items: queue.Queue[T | object] = queue.Queue(buffer)
    ready = asyncio.Event()
    stopped = threading.Event()

    def put(item: object) -> bool:
        while not stopped.is_set():
            try:
                items.put(item, timeout=0.1)
            except queue.Full:
                continue
            loop.call_soon_threadsafe(ready.set)
            return True
        return False

    def produce() -> None:
        iterator = make()
        try:
            for item in iterator:
                if not put(item):
                    return
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
            put(_END)

    producer = asyncio.ensure_future(run_in(lane, produce))
    try:
        while True:
            try:
                item = items.get_nowait()
            except queue.Empty:
                if producer.done() and items.empty():
                    break
                waiter = asyncio.ensure_future(ready.wait())
                await asyncio.wait({waiter, producer}, return_when=asyncio.FIRST_COMPLETED)
                waiter.cancel()
                ready.clear()
                continue
            if item is _END:
                break
            yield item  # type: ignore[misc]  # the queue also carries the private end mark
        await producer
    finally:
        stopped.set()
        if not producer.done():
            producer.cancel()


def shutdown() -> None:
    """Drop the pools without waiting; called once, after the last use, by the wiring."""
    with _pools_lock:
        for pool in _pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        _pools.clear()
