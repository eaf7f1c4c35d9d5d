"""Watches the event loops of tests for work that holds them: design invariant 3.

Two things are noticed, both without patching anything:

- A step of a task (what runs between two awaits) that takes more than `LIMIT_S` seconds of CPU time. CPU time, because
  wall-clock time on a busy machine says nothing about the code. The loops of tests make their tasks with
  `watched_task`, which measures each step.
- A blocking call on a thread whose loop runs: the interpreter announces them to audit hooks. Each call is laid at the
  door of the innermost frame of the project.

What is exempt, and why, stands in `EXEMPT_FILES`, `EXEMPT_CALLERS`, `_LOADING`, `_on_audit` and `_Steps._judge`.
"""

import asyncio
import gc
import sys
import time
from collections.abc import Coroutine, Generator
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 0.05
BLOCKING = frozenset(
    {
        "open",
        "os.listdir",
        "os.mkdir",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.scandir",
        "os.truncate",
        "shutil.copyfile",
        "shutil.move",
        "shutil.rmtree",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "sqlite3.connect",
        "tempfile.mkdtemp",
        "tempfile.mkstemp",
        "time.sleep",
        "urllib.Request",
    }
)
"""Audit events of calls that wait for a disk, a name server or a clock (the last from Python 3.13 on; lint forbids
`time.sleep` in async functions)."""
EXEMPT_FILES = {
    "api/serve.py": "binds and notes its address before anybody is answered, and cleans up when nobody is any more",
    "api/db/data_folder.py": "reached from api/serve.py without a thread, at start and stop only",
    "api/worker.py": "the worker may block",
    "api/cli_commands.py": "a command has its loop for itself",
    "api/client.py": "a command has its loop for itself",
    "api/doctor.py": "a command has its loop for itself",
    "rag/ingest/": "runs in the worker, which may block",
    "rag/parse/": "runs in the worker, which may block",
    "rag/testing/": "test code that is shipped",
}
EXEMPT_CALLERS = {
    "load_prompts": "read once, when the services are wired, before anybody is answered",
    "read_models_file": "the same",
    "create_app": "the same: the metrics' library reads what the process is",
}
_LOADING = ("<frozen importlib", "linecache.py", "warnings.py")
"""Imports are done before the server says ready; the other two read source lines for the traceback of a defect."""
_PROJECT = (f"{ROOT}/api/", f"{ROOT}/rag/")
_EXEMPT = tuple(f"{ROOT}/{name}" for name in EXEMPT_FILES)

findings: list[str] = []
"""What was noticed since this was last emptied."""


def install() -> None:
    """Begin to listen to the interpreter. Audit hooks stay for the life of the process."""
    sys.addaudithook(_on_audit)
    gc.callbacks.append(_on_collection)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop whose tasks are watched."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(watched_task)
    return loop


def watched_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **arguments: Any
) -> "asyncio.Task[Any]":
    """A task factory: a task of `work` whose steps are measured."""
    steps = _Steps(work) if isinstance(work, Coroutine) else work
    return asyncio.Task(steps, loop=loop, **arguments)


class _Steps(Coroutine[Any, Any, Any]):
    """A coroutine, each of its steps measured."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self._work = work
        self.__name__ = getattr(work, "__name__", type(work).__name__)
        self.__qualname__ = getattr(work, "__qualname__", self.__name__)

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._work.__await__())

    def send(self, value: Any) -> Any:
        mark = _Mark()
        try:
            return self._work.send(value)
        finally:
            self._judge(mark)

    def throw(self, *error: Any) -> Any:
        mark = _Mark()
        try:
            return self._work.throw(*error)
        finally:
            self._judge(mark)

    def close(self) -> None:
        self._work.close()

    def _judge(self, mark: "_Mark") -> None:
        """Note a step that was too long. Exempt are steps that import modules, for the server imports them before it
        is ready, and the coroutines of tests, which prepare their data on the same loop."""
        taken_s = mark.taken_s()
        if taken_s <= LIMIT_S or mark.imported():
            return
        code = getattr(self._work, "cr_code", None)
        if code is None or not _is_test(code.co_filename):
            findings.append(f"{self.__qualname__} held the loop for {taken_s * 1000:.0f} ms, until {self._place()}")

    def _place(self) -> str:
        """Where the coroutine waits now: what held the loop lies before."""
        work: Any = self._work
        place = "its end"
        while (frame := getattr(work, "cr_frame", None) or getattr(work, "ag_frame", None)) is not None:
            place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            work = getattr(work, "cr_await", None) or getattr(work, "ag_await", None)
        return place


class _Mark:
    """The beginning of a step."""

    def __init__(self) -> None:
        self._modules = len(sys.modules)
        self._collecting = _collection.total_s
        self._cpu = time.thread_time()

    def taken_s(self) -> float:
        """CPU time since, without the collector's: it walks what all tests of the process have left."""
        return time.thread_time() - self._cpu - (_collection.total_s - self._collecting)

    def imported(self) -> bool:
        return len(sys.modules) > self._modules


class _Collection:
    total_s = 0.0
    began = 0.0


_collection = _Collection()


def _on_collection(phase: str, _: dict[str, int]) -> None:
    if phase == "start":
        _collection.began = time.thread_time()
    else:
        _collection.total_s += time.thread_time() - _collection.began


def _on_audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in BLOCKING or asyncio._get_running_loop() is None:
        return
    if arguments and (isinstance(arguments[0], int) or str(arguments[0]).startswith("/proc/")):
        return  # A descriptor is wrapped and nothing opened; or the kernel answers from memory.
    culprit = _culprit(sys._getframe(1))
    if culprit is not None:
        findings.append(f"{event}{arguments[:1]!r} blocks the loop at {culprit}")


def _culprit(frame: FrameType | None) -> str | None:
    """The innermost line of the project; None if there is none, if a test or an import stands before it, or if the
    call is exempt."""
    found: str | None = None
    while frame is not None:
        name = frame.f_code.co_filename
        if frame.f_code.co_name in EXEMPT_CALLERS:
            return None
        if found is None:
            if name.startswith(_LOADING) or name.endswith(_LOADING) or _is_test(name):
                return None
            if name.startswith(_PROJECT):
                if name.startswith(_EXEMPT):
                    return None
                found = f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return found


def _is_test(name: str) -> bool:
    return name.startswith((f"{ROOT}/tests/", f"{ROOT}/rag/testing/")) or "pytest_asyncio" in name
