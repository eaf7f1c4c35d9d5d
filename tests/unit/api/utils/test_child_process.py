import asyncio
import sys
from pathlib import Path

from api.utils.child_process import WatchedChild

ECHO = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.stdin.readline()); sys.stdin.read()"
STUBBORN = "import sys, pathlib, time; pathlib.Path(sys.argv[1]).write_text('up'); time.sleep(60)"


async def until_there(path: Path) -> str:
    async with asyncio.timeout(20):
        while not path.exists() or not path.read_text():
            await asyncio.sleep(0.02)
    return path.read_text()


async def test_the_child_is_woken_and_stopped_through_its_input(tmp_path: Path) -> None:
    writers: list[asyncio.StreamWriter | None] = []
    child = WatchedChild([sys.executable, "-c", ECHO, str(tmp_path / "out")], name="child", attach=writers.append)
    child.start()
    async with asyncio.timeout(20):
        while not writers:
            await asyncio.sleep(0.02)
    assert writers[0] is not None
    writers[0].write(b"ring\n")
    assert await until_there(tmp_path / "out") == "ring\n"
    assert child.pid is not None
    await child.stop(20)
    assert child.pid is None
    assert writers[-1] is None


async def test_a_child_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STUBBORN, str(tmp_path / "out")]
    child = WatchedChild(command, name="child", attach=lambda _: None)
    child.start()
    await until_there(tmp_path / "out")
    await child.stop(0.1)
    assert child.pid is None


async def test_a_child_that_dies_is_started_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import sys; open(sys.argv[1], 'a').write('x')"
    child = WatchedChild([sys.executable, "-c", code, str(log)], name="child", attach=lambda _: None)
    child.start()
    async with asyncio.timeout(30):
        while not log.exists() or len(log.read_text()) < 2:
            await asyncio.sleep(0.05)
    await child.stop(5)
