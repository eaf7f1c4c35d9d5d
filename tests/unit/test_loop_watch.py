"""The detector itself: a test of it that could not fail would let every other one pass."""

import asyncio
import time
from pathlib import Path
from types import CodeType, FunctionType

import pytest

from rag.core.blocking import Lane, run_in
from tests import loop_watch

pytestmark = pytest.mark.holds_loop("on purpose")
_OURS = str(loop_watch.ROOT / "api" / "apps" / "imaginary.py")


def of_the_project(function: FunctionType) -> FunctionType:
    """`function`, as if it were written in a file of the project."""
    code: CodeType = function.__code__.replace(co_filename=_OURS)
    return FunctionType(code, function.__globals__, function.__name__)


async def spin(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read()


async def test_a_long_step_is_noticed() -> None:
    await asyncio.create_task(of_the_project(spin)(2 * loop_watch.LIMIT_S))
    assert [each for each in loop_watch.findings if "spin held the loop" in each]


async def test_a_short_step_is_not() -> None:
    await asyncio.create_task(of_the_project(spin)(loop_watch.LIMIT_S / 10))
    assert loop_watch.findings == []


async def test_tests_may_take_their_time() -> None:
    await asyncio.create_task(spin(2 * loop_watch.LIMIT_S))
    assert loop_watch.findings == []


async def test_a_file_opened_on_the_loop_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"words")
    loop_watch.findings.clear()
    assert of_the_project(read)(path) == b"words"
    assert [each for each in loop_watch.findings if each.startswith("open")]


async def test_the_same_in_a_thread_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"words")
    assert await run_in(Lane.FILES, of_the_project(read), path) == b"words"
    assert loop_watch.findings == []
