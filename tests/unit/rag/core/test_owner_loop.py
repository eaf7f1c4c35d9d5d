"""Streams from a loop that are iterated elsewhere than they were made."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rag.core.errors import WrongThread
from rag.core.owner_loop import OwnerLoop, stop_background_loop


class Source:
    """Three numbers, and whether they were left."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def __call__(self) -> AsyncIterator[int]:
        try:
            for number in range(3):
                yield number
                await asyncio.sleep(0)
        finally:
            self.closed.set()


@contextmanager
def alarm(limit_s: float) -> Iterator[None]:
    """A TimeoutError in the main thread, which a loop that stands still cannot raise."""

    def ring(*_: Any) -> None:
        raise TimeoutError("the loop stands still")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


async def test_a_stream_made_in_a_thread_is_refused_on_the_loop_that_feeds_it() -> None:
    owner, source = OwnerLoop(), Source()
    stream = await asyncio.to_thread(owner.stream, source)
    with alarm(3), pytest.raises(WrongThread, match="event loop"):
        next(stream)


async def test_a_stream_begun_in_a_thread_is_refused_on_the_loop_and_closed() -> None:
    owner, source = OwnerLoop(), Source()

    def begin() -> Generator[int, None, None]:
        stream = owner.stream(source, buffer=1)
        assert next(stream) == 0
        return stream

    stream = await asyncio.to_thread(begin)
    with alarm(3), pytest.raises(WrongThread, match="event loop"):
        list(stream)
    await asyncio.wait_for(source.closed.wait(), 1)


async def test_a_thread_with_another_loop_is_refused() -> None:
    owner, source = OwnerLoop(), Source()
    stream = await asyncio.to_thread(owner.stream, source)

    async def inner() -> int:
        return next(stream)

    with pytest.raises(WrongThread):
        await asyncio.to_thread(asyncio.run, inner())


async def test_another_thread_may_go_on() -> None:
    owner, source = OwnerLoop(), Source()
    stream = await asyncio.to_thread(owner.stream, source)
    assert await asyncio.to_thread(next, stream) == 0
    assert await asyncio.to_thread(list, stream) == [1, 2]


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_stream_is_refused_after_a_fork(begun: bool) -> None:
    stop_background_loop()
    stream = OwnerLoop().stream(Source(), buffer=1)
    assert not begun or next(stream) == 0
    child = os.fork()
    if child == 0:
        code = 1
        try:
            began = time.monotonic()
            with alarm(4):
                try:
                    next(stream)
                except WrongThread as error:
                    if "forked" in error.message and time.monotonic() - began < 2:
                        code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(stream) == ([1, 2] if begun else [0, 1, 2])
    stop_background_loop()
