"""The one bridge from the event loop to blocking work, and back.

`run` sends a synchronous function to a bounded thread pool and awaits its result; `iterate` and
`iterate_calls` do the same for a synchronous iterator or a callback, with back-pressure. Each kind of
work has a lane of its own, so that slow model calls can never keep a row look-up waiting. Context
variables are copied into the thread.
"""

import asyncio
import contextvars
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from functools import partial
from typing import ParamSpec, TypeVar

from rag.core.conveyor import Conveyor
from rag.core.stream_threads import StreamThreads, advance

P = ParamSpec("P")
T = TypeVar("T")


class Lane(Enum):
    """A kind of blocking work; the value is (name, threads of its pool, iterators that may be advanced at a time)."""

    ROWS = ("rows", 8, 8)
    ROW_WRITES = ("row-writes", 1, 1)
    SERVER_WRITES = ("server-writes", 4, 4)
    INDEX = ("index", 4, 4)
    FILES = ("files", 4, 32)
    MODEL = ("model", 4, 4)
    """Models in this process: they compute."""
    REMOTE = ("remote-model", 8, 256)
    """Models elsewhere whose library is synchronous: they wait, some of them for ever."""
    PARSE = ("parse", 8, 8)
    TEXT = ("text", 2, 2)


_LONG_TEXT_CHARS = 40_000
_pools: dict[Lane, ThreadPoolExecutor] = {}
_streams: dict[Lane, StreamThreads] = {}
_pools_lock = threading.Lock()


def _pool(lane: Lane) -> ThreadPoolExecutor:
    with _pools_lock:
        if lane not in _pools:
            name, size, _ = lane.value
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
    call = partial(context.run, _called, partial(function, *args, **kwargs))
    return await asyncio.get_running_loop().run_in_executor(_pool(lane), call)


async def apart_if_long(chars: int, work: Callable[[], T]) -> T:
    """`work()`, in a thread where its texts have so many characters that it would hold up the loop; below that a
    thread costs more than it saves."""
    return await run_in(Lane.TEXT, work) if chars > _LONG_TEXT_CHARS else work()


def _called(function: Callable[[], T]) -> T:
    try:
        return function()
    except StopIteration as error:  # A future cannot carry it: its waiter would wait for ever.
        raise RuntimeError("the function raised StopIteration") from error


def stream_threads(lane: Lane) -> StreamThreads:
    """The threads of this lane's iterators."""
    with _pools_lock:
        if lane not in _streams:
            name, _, at_once = lane.value
            _streams[lane] = StreamThreads(name, at_once=at_once)
        return _streams[lane]


async def iterate(
    make: Callable[[], Iterator[T]], *, lane: Lane = Lane.MODEL, buffer: int = 64
) -> AsyncGenerator[T, None]:
    """Yield the items of `make()`, which is created, advanced and closed on one thread of its own.

    The thread waits while `buffer` items are unread. Leaving the loop early closes the iterator at its next item,
    without waiting for that. An exception of the iterator is raised here, itself, after the items before it.

    Raises:
        LimitExceeded: the lane has as many iterators as it may have, or all that may run are stuck.
    """
    conveyor = Conveyor[T](buffer)
    stream_threads(lane).start(conveyor, partial(advance, make))
    async with conveyor:
        async for item in conveyor:
            yield item


async def iterate_batches(
    make: Callable[[], Iterator[T]], *, lane: Lane = Lane.MODEL, buffer: int = 64
) -> AsyncGenerator[list[T], None]:
    """As `iterate`, in batches of what is there: at most one batch a tick of the loop, never an empty one.

    Raises:
        LimitExceeded: as `iterate`.
    """
    conveyor = Conveyor[T](buffer)
    stream_threads(lane).start(conveyor, partial(advance, make))
    async with conveyor:
        while batch := await conveyor.batch():
            yield batch


async def iterate_calls(
    work: Callable[[Callable[[T], bool]], object], *, lane: Lane = Lane.MODEL, buffer: int = 64
) -> AsyncGenerator[T, None]:
    """Yield what `work(put)` puts, from whichever threads it does, until it returns.

    For functions that tell what they have by a callback. `put` waits while `buffer` items are unread, and says False
    once the reader has left.

    Raises:
        LimitExceeded: as `iterate`.
    """

    def produce(put: Callable[[T], bool]) -> None:
        work(put)

    conveyor = Conveyor[T](buffer)
    stream_threads(lane).start(conveyor, produce)
    async with conveyor:
        async for item in conveyor:
            yield item


def shutdown() -> None:
    """Drop the pools and end the iterators, without waiting; called once, after the last use, by the wiring."""
    with _pools_lock:
        for threads in _streams.values():
            threads.stop()
        _streams.clear()
        for pool in _pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        _pools.clear()
