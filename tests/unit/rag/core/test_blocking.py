"""The bridge between the loop and blocking work: order, back-pressure, errors, cancellation, context."""

import asyncio
import contextvars
import threading
import time
from collections.abc import Iterator

import pytest

from rag.core import blocking
from rag.core.blocking import Lane

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE")


async def test_run_works_off_the_loop_and_copies_the_context() -> None:
    VARIABLE.set("seen")
    thread, value = await blocking.run(lambda: (threading.current_thread(), VARIABLE.get()))
    assert thread is not threading.main_thread()
    assert value == "seen"


async def test_an_exception_crosses_unchanged() -> None:
    error = ValueError("mine")

    def fail() -> None:
        raise error

    with pytest.raises(ValueError, match="mine") as caught:
        await blocking.run_in(Lane.MODEL, fail)
    assert caught.value is error


async def test_iterate_keeps_order_and_loses_nothing() -> None:
    items = [item async for item in blocking.iterate(lambda: iter(range(5000)), buffer=7)]
    assert items == list(range(5000))


async def test_a_slow_reader_holds_the_iterator_back() -> None:
    made = 0

    def numbers() -> Iterator[int]:
        nonlocal made
        for number in range(1000):
            made += 1
            yield number

    stream = blocking.iterate(numbers, buffer=4)
    assert await anext(stream) == 0
    await asyncio.sleep(0.2)
    assert made <= 7
    await stream.aclose()


async def test_leaving_early_closes_the_iterator() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    stream = blocking.iterate(endless, buffer=4)
    assert await anext(stream) == 1
    await stream.aclose()
    assert await asyncio.to_thread(closed.wait, 3)


async def test_items_before_an_exception_arrive_first() -> None:
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise RuntimeError("then it broke")

    stream = blocking.iterate(broken)
    assert [await anext(stream), await anext(stream)] == [1, 2]
    with pytest.raises(RuntimeError, match="then it broke"):
        await anext(stream)


async def test_an_exception_on_creation_is_raised() -> None:
    def make() -> Iterator[int]:
        raise RuntimeError("no iterator")

    with pytest.raises(RuntimeError, match="no iterator"):
        await anext(blocking.iterate(make))


async def test_lanes_do_not_wait_for_each_other() -> None:
    release = threading.Event()
    busy = [asyncio.ensure_future(blocking.run_in(Lane.MODEL, release.wait, 10)) for _ in range(8)]
    await asyncio.sleep(0)
    started = time.monotonic()
    assert await blocking.run(lambda: 7) == 7
    assert time.monotonic() - started < 5
    release.set()
    await asyncio.gather(*busy)
