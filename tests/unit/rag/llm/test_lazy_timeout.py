import asyncio
import gc
import weakref

import pytest

from rag.llm.lazy_timeout import LazyTimeout


def soon(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_a_wait_that_ends_in_time_passes() -> None:
    timeout = LazyTimeout()
    for _ in range(5):
        with timeout.at(soon(0.2)):
            await asyncio.sleep(0.05)
    timeout.close()


async def test_a_late_wait_is_a_timeout_and_leaves_no_cancellation() -> None:
    timeout = LazyTimeout()
    with pytest.raises(TimeoutError), timeout.at(soon(0.02)):
        await asyncio.sleep(5)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    with timeout.at(soon(5)):
        await asyncio.sleep(0)
    timeout.close()


async def test_a_deadline_that_moves_on_is_kept_to_the_point() -> None:
    timeout = LazyTimeout()
    with timeout.at(soon(0.05)):
        await asyncio.sleep(0)
    began = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError), timeout.at(began + 0.2):
        await asyncio.sleep(5)
    assert 0.19 < asyncio.get_running_loop().time() - began < 1


async def test_a_deadline_that_comes_nearer_is_kept_to_the_point() -> None:
    timeout = LazyTimeout()
    with timeout.at(soon(60)):
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError), timeout.at(soon(0.02)):
        await asyncio.wait_for(asyncio.Event().wait(), 5)


async def test_a_deadline_has_no_effect_between_waits() -> None:
    timeout = LazyTimeout()
    with timeout.at(soon(0.01)):
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    with timeout.at(soon(5)):
        await asyncio.sleep(0.01)
    timeout.close()


async def test_a_deadline_in_the_past_ends_the_wait_at_once() -> None:
    timeout = LazyTimeout()
    with pytest.raises(TimeoutError), timeout.at(soon(-1)):
        await asyncio.sleep(5)


async def test_a_cancellation_from_outside_stays_one() -> None:
    async def wait() -> None:
        with LazyTimeout().at(soon(60)):
            await asyncio.sleep(60)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_that_meets_the_deadline_wins() -> None:
    async def wait() -> None:
        with LazyTimeout().at(soon(0)):
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(5)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(wait())


async def test_an_error_inside_is_not_hidden() -> None:
    timeout = LazyTimeout()
    with pytest.raises(ValueError, match="broken"), timeout.at(soon(60)):
        raise ValueError("broken")
    timeout.close()


async def test_a_timer_that_is_left_holds_no_task() -> None:
    async def wait() -> None:
        with LazyTimeout().at(soon(60)):
            await asyncio.sleep(0)

    task = asyncio.create_task(wait())
    await task
    ref = weakref.ref(task)
    del task
    await asyncio.sleep(0)
    gc.collect()
    assert ref() is None
