"""Items from any thread to one loop: none lost, doubled or reordered; either side may end it."""

import asyncio
import threading
from collections import Counter

import pytest

from rag.core.conveyor import Conveyor
from rag.core.errors import WrongThread


def started(work: object, *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
    thread.start()
    return thread


async def joined(thread: threading.Thread) -> None:
    await asyncio.to_thread(thread.join, 5)
    assert not thread.is_alive()


async def test_many_threads_lose_double_and_reorder_nothing() -> None:
    conveyor = Conveyor[tuple[int, int]](8)

    def push(thread: int) -> None:
        for number in range(500):
            assert conveyor.put((thread, number))

    async with conveyor:
        threads = [started(push, number) for number in range(16)]

        def finish() -> None:
            for thread in threads:
                thread.join()
            conveyor.end()

        last = started(finish)
        items = [item async for item in conveyor]
        await joined(last)
    assert Counter(thread for thread, _ in items) == dict.fromkeys(range(16), 500)
    for thread in range(16):
        assert [number for by, number in items if by == thread] == list(range(500))


async def test_a_library_that_pushes_from_its_own_thread() -> None:
    """As the class says: callbacks in, async iteration out, to the loop that was captured at start."""

    class Library:
        def generate(self, prompt: str, on_token: object, on_done: object) -> None:
            def work() -> None:
                for word in prompt.split():
                    on_token(word)  # type: ignore[operator]
                on_done()  # type: ignore[operator]

            started(work)

    async with Conveyor[str]() as tokens:
        Library().generate("one two three", on_token=tokens.put, on_done=tokens.end)
        assert [token async for token in tokens] == ["one", "two", "three"]


async def test_what_came_in_one_tick_is_one_batch() -> None:
    conveyor = Conveyor[int](64)
    for number in range(10):
        conveyor.put(number)
    assert await conveyor.batch() == list(range(10))
    reading = asyncio.ensure_future(conveyor.batch())
    await asyncio.sleep(0)
    thread = started(lambda: [conveyor.put(number) for number in range(3)])
    thread.join()  # The loop had no turn in between, so all three were there at its next one.
    assert await reading == [0, 1, 2]
    conveyor.put(7)
    conveyor.end()
    assert await conveyor.batch() == [7]
    assert await conveyor.batch() == []


async def test_there_is_at_most_one_batch_a_tick() -> None:
    conveyor = Conveyor[int](64)
    ticks, ticking = 0, True

    def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticking:
            asyncio.get_running_loop().call_soon(tick)

    tick()
    for number in range(20):
        conveyor.put(number)
        before = ticks
        assert await conveyor.batch() == [number]
        assert number == 0 or ticks > before
    ticking = False


async def test_a_full_buffer_holds_threads_back_until_it_is_read() -> None:
    conveyor = Conveyor[int](4)
    sent = 0

    def push() -> None:
        nonlocal sent
        for number in range(100):
            conveyor.put(number)
            sent += 1
        conveyor.end()

    thread = started(push)
    await asyncio.sleep(0.1)
    assert sent == 4
    assert await anext(conveyor) == 0
    assert [item async for item in conveyor] == list(range(1, 100))
    await joined(thread)


async def test_leaving_frees_a_waiting_thread() -> None:
    conveyor = Conveyor[int](1)
    answers: list[bool] = []
    thread = started(lambda: answers.extend(conveyor.put(number) for number in range(3)))
    async with conveyor:
        assert await anext(conveyor) == 0
    await joined(thread)
    assert answers[0] is True
    assert answers[-1] is False


async def test_the_end_frees_a_waiting_thread_and_reaches_the_reader_once() -> None:
    conveyor = Conveyor[int](1)
    conveyor.put(1)
    thread = started(conveyor.put, 2)
    await asyncio.sleep(0.02)
    error = ValueError("mine")
    conveyor.end(error)
    conveyor.end(KeyError("a second end counts for nothing"))
    await joined(thread)
    assert await anext(conveyor) == 1
    with pytest.raises(ValueError, match="mine") as caught:
        await anext(conveyor)
    assert caught.value is error
    with pytest.raises(StopAsyncIteration):
        await anext(conveyor)
    assert conveyor.put(3) is False


async def test_a_cancelled_reader_loses_nothing() -> None:
    conveyor = Conveyor[int](8)
    for turn in range(50):
        waiting = asyncio.ensure_future(conveyor.__anext__())
        await asyncio.sleep(0)
        thread = started(conveyor.put, turn)
        waiting.cancel()
        thread.join()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await conveyor.batch() == [turn]


async def test_waiting_for_oneself_is_refused() -> None:
    conveyor = Conveyor[int](1)
    conveyor.put(1)
    with pytest.raises(WrongThread, match="another thread"):
        conveyor.put(2)


def test_a_loop_that_has_ended_frees_the_thread() -> None:
    conveyors: list[Conveyor[int]] = []

    async def make() -> None:
        conveyors.append(Conveyor[int](1))

    asyncio.run(make())
    answers: list[bool] = []
    thread = started(lambda: answers.extend(conveyors[0].put(number) for number in range(2)))
    thread.join(5)
    assert not thread.is_alive()
    assert answers[-1] is False


def test_a_loop_that_ends_while_a_thread_waits_frees_it() -> None:
    threads: list[threading.Thread] = []

    async def leave_it_full() -> None:
        conveyor = Conveyor[int](1)
        threads.append(started(lambda: [conveyor.put(number) for number in range(3)]))
        await asyncio.sleep(0.05)

    asyncio.run(leave_it_full())
    threads[0].join(5)
    assert not threads[0].is_alive()
