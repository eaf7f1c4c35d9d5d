"""Synchronous iterators on threads: order, back-pressure, errors, leaving, and iterators that never come back."""

import asyncio
import contextvars
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.core import blocking
from rag.core.blocking import Lane
from rag.core.errors import LimitExceeded
from rag.core.stream_threads import StreamThreads

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> StreamThreads:
    """Threads of lane INDEX for this test: two places, five threads, little patience."""
    threads = StreamThreads("index", at_once=2, limit=5, patience_s=0.3)
    monkeypatch.setitem(blocking._streams, Lane.INDEX, threads)
    return threads


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def all_of(stream: AsyncIterator[int]) -> list[int]:
    return [item async for item in stream]


@given(
    count=st.integers(0, 60),
    buffer=st.integers(1, 8),
    fails=st.booleans(),
    leave_after=st.none() | st.integers(0, 60),
    batches=st.booleans(),
    pauses=st.lists(st.integers(0, 59), max_size=4),
)
def test_any_reader_gets_what_any_iterator_gave(
    count: int, buffer: int, fails: bool, leave_after: int | None, batches: bool, pauses: list[int]
) -> None:
    error, closed = ValueError("mine"), threading.Event()

    def numbers() -> Iterator[int]:
        try:
            for number in range(count):
                if number in pauses:
                    time.sleep(0.001)
                yield number
            if fails:
                raise error
        finally:
            closed.set()

    async def read() -> tuple[list[int], BaseException | None]:
        items: list[int] = []
        make = blocking.iterate_batches if batches else blocking.iterate
        stream = make(numbers, buffer=buffer)
        try:
            async for item in stream:
                items.extend(item if isinstance(item, list) else [item])
                if leave_after is not None and len(items) >= leave_after:
                    return items, None
        except ValueError as raised:
            return items, raised
        finally:
            await stream.aclose()
            assert await asyncio.to_thread(closed.wait, 5)
        return items, None

    items, raised = asyncio.run(read())
    assert items == list(range(len(items)))
    if leave_after is None or len(items) < leave_after:
        assert items == list(range(count))
        assert raised is (error if fails else None)


async def test_sixty_four_streams_at_once_do_not_wait_for_each_other() -> None:
    """All have begun before any may end: with a thread less than streams this would never finish."""
    together = threading.Barrier(64)

    def slow(stream: int) -> Iterator[int]:
        together.wait(10)
        for number in range(50):
            yield stream * 1000 + number

    streams = [blocking.iterate(lambda n=n: slow(n), lane=Lane.REMOTE, buffer=3) for n in range(64)]
    results = await asyncio.gather(*(all_of(stream) for stream in streams))
    assert results == [[n * 1000 + number for number in range(50)] for n in range(64)]


async def test_readers_that_do_not_read_keep_nobody_waiting(small: StreamThreads) -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 1

    sleepers = [blocking.iterate(endless, lane=Lane.INDEX, buffer=2) for _ in range(4)]
    for sleeper in sleepers:
        assert await anext(sleeper) == 1
    assert await all_of(blocking.iterate(lambda: iter(range(9)), lane=Lane.INDEX)) == list(range(9))
    for sleeper in sleepers:
        await sleeper.aclose()
    await until(lambda: small.running == 0)


async def test_only_so_many_are_advanced_at_a_time(small: StreamThreads) -> None:
    at_work, most = 0, 0
    lock = threading.Lock()

    def busy() -> Iterator[int]:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.02)
        with lock:
            at_work -= 1
        yield 1

    await asyncio.gather(*(all_of(blocking.iterate(busy, lane=Lane.INDEX)) for _ in range(5)))
    assert most == 2


async def test_iterators_that_never_come_back_are_told_of(small: StreamThreads) -> None:
    """Those who wait get an error in words, not silence; other work goes on; when they come back all is well."""
    release = threading.Event()

    def stuck() -> Iterator[int]:
        release.wait(10)
        yield 1

    hanging = [asyncio.ensure_future(all_of(blocking.iterate(stuck, lane=Lane.INDEX))) for _ in range(2)]
    await until(lambda: small.running == 2)
    with pytest.raises(LimitExceeded, match="have said nothing for 0.3 s"):
        await all_of(blocking.iterate(lambda: iter([1]), lane=Lane.INDEX))
    assert await blocking.run_in(Lane.INDEX, lambda: 7) == 7
    assert await all_of(blocking.iterate(lambda: iter([1]), lane=Lane.FILES)) == [1]
    release.set()
    assert await asyncio.gather(*hanging) == [[1], [1]]
    assert await all_of(blocking.iterate(lambda: iter([1]), lane=Lane.INDEX)) == [1]


async def test_waiting_is_no_error_while_others_move(small: StreamThreads) -> None:
    def slow() -> Iterator[int]:
        for number in range(8):
            time.sleep(0.1)
            yield number

    first = [asyncio.ensure_future(all_of(blocking.iterate(slow, lane=Lane.INDEX))) for _ in range(2)]
    await until(lambda: small.running == 2)
    assert await all_of(blocking.iterate(lambda: iter([1]), lane=Lane.INDEX)) == [1]
    assert await asyncio.gather(*first) == [list(range(8))] * 2


async def test_one_more_than_there_may_be_is_refused_at_once(small: StreamThreads) -> None:
    release = threading.Event()

    def stuck() -> Iterator[int]:
        release.wait(10)
        yield 1

    streams = [blocking.iterate(stuck, lane=Lane.INDEX) for _ in range(5)]
    waiting = [asyncio.ensure_future(anext(stream)) for stream in streams]
    await until(lambda: small.running == 5)
    with pytest.raises(LimitExceeded, match="5 index streams are under way"):
        await anext(blocking.iterate(stuck, lane=Lane.INDEX))
    for task in waiting[:3]:
        task.cancel()
    await asyncio.gather(*waiting[:3], return_exceptions=True)
    assert small.abandoned == 3
    release.set()
    await asyncio.gather(*waiting[3:], return_exceptions=True)
    for stream in streams:
        await stream.aclose()
    await until(lambda: small.running == 0)


async def test_leaving_closes_within_the_next_item_and_frees_the_thread(small: StreamThreads) -> None:
    step, closed, made = threading.Semaphore(1), threading.Event(), 0

    def numbers() -> Iterator[int]:
        nonlocal made
        try:
            while step.acquire(timeout=5):
                made += 1
                yield made
        finally:
            closed.set()

    reading = asyncio.ensure_future(all_of(blocking.iterate(numbers, lane=Lane.INDEX)))
    await until(lambda: made == 1)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    step.release()
    assert await asyncio.to_thread(closed.wait, 5)
    assert made == 2
    await until(lambda: small.running == 0)


async def test_a_reader_that_leaves_while_it_waits_for_a_place_frees_its_thread(small: StreamThreads) -> None:
    release = threading.Event()

    def stuck() -> Iterator[int]:
        release.wait(10)
        yield 1

    hanging = [asyncio.ensure_future(all_of(blocking.iterate(stuck, lane=Lane.INDEX))) for _ in range(3)]
    await until(lambda: small.running == 3)
    hanging[2].cancel()
    await until(lambda: small.running == 2)
    release.set()
    await asyncio.gather(*hanging, return_exceptions=True)


async def test_a_fast_iterator_does_not_keep_the_loop() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    async for _ in blocking.iterate(lambda: iter(range(5000)), buffer=10):
        pass
    task.cancel()
    assert turns > 100


async def test_callbacks_from_several_threads_arrive_until_the_function_ends() -> None:
    def work(put: Callable[[int], bool]) -> None:
        threads = [threading.Thread(target=lambda: [put(n) for n in range(200)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        put(1000)

    items = await all_of(blocking.iterate_calls(work, buffer=5))
    assert sorted(items[:-1]) == sorted(list(range(200)) * 4)
    assert items[-1] == 1000


async def test_a_callback_is_told_that_its_reader_has_left() -> None:
    stopped = threading.Event()

    def work(put: Callable[[int], bool]) -> None:
        while put(1):
            pass
        stopped.set()

    stream = blocking.iterate_calls(work, buffer=2)
    assert await anext(stream) == 1
    await stream.aclose()
    assert await asyncio.to_thread(stopped.wait, 5)


async def test_the_context_is_copied_into_the_thread() -> None:
    VARIABLE.set("seen")
    assert [item async for item in blocking.iterate(lambda: iter([VARIABLE.get()]))] == ["seen"]


async def test_an_end_that_a_future_cannot_carry_is_an_error_too() -> None:
    def fail() -> None:
        raise StopIteration

    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match="StopIteration"):
            await blocking.run_in(Lane.INDEX, fail)


def test_an_iterator_that_never_comes_back_keeps_no_process_from_ending() -> None:
    code = (
        "import asyncio, threading\n"
        "from rag.core import blocking\n"
        "async def main():\n"
        "    stream = blocking.iterate(lambda: iter(threading.Event().wait, True))\n"
        "    reading = asyncio.ensure_future(anext(stream))\n"
        "    await asyncio.sleep(0.1)\n"
        "    reading.cancel()\n"
        "asyncio.run(main())\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0


async def test_hundreds_that_compute_wait_for_their_turn() -> None:
    """A crowd at the built-in model is slow, and refused nothing."""

    def answer(number: int) -> Iterator[int]:
        yield from (number, number + 1)

    streams = [blocking.iterate(lambda n=n: answer(n), lane=Lane.MODEL) for n in range(400)]
    assert await asyncio.gather(*(all_of(stream) for stream in streams)) == [[n, n + 1] for n in range(400)]
