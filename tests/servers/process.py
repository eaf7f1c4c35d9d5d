"""One server process: started under a keeper, stopped by its id, paused, killed and started again for tests."""

import grp
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

from tests.servers.fetch import Missing

_PLAIN_USER = "nobody"
_STOP_S = 30.0
_PORTS = range(15_000, 32_000)
"""Below what Linux gives by itself, see `ip_local_port_range`."""


def free_port() -> int:
    """A loopback port that nobody listens on now, for a server that takes its time to start, or starts again: not one
    of those that the system gives to whoever asks for any, or to connections."""
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def plain_user() -> tuple[int, int] | None:
    """User and group for a server; None where this process is not root already. Servers refuse to run as root."""
    if os.geteuid() != 0:
        return None
    found = pwd.getpwnam(_PLAIN_USER)
    return found.pw_uid, grp.getgrgid(found.pw_gid).gr_gid


def own(folder: Path) -> None:
    """Give a folder and all in it to the servers' user."""
    user = plain_user()
    if user is not None:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, *user, follow_symlinks=False)


class ServerProcess:
    """A server with its data in a temporary folder, on one port for its whole life.

    Args:
        name: Starts the folder's name.
        prepare: Fills the folder and returns the command and its environment.
        answers: Whether the server takes requests; called until it says so.
        start_s: Seconds it may take to start.
    """

    def __init__(
        self,
        name: str,
        *,
        prepare: Callable[[Path], tuple[list[str], dict[str, str]]],
        answers: Callable[[], bool],
        start_s: float = 180.0,
    ) -> None:
        self._answers = answers
        self._start_s = start_s
        self.folder = Path(tempfile.mkdtemp(prefix=f"parley-{name}-"))
        try:
            self._command, self._environment = prepare(self.folder)
            own(self.folder)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self._keeper: subprocess.Popen[str] | None = None
        self.pid = 0

    def start(self, *, wait: bool = True) -> None:
        """Start it, with the data it had.

        Raises:
            Missing: it does not come up.
        """
        assert self._keeper is None, "it runs already"
        user, group = plain_user() or (None, None)
        order = {
            "command": self._command,
            "environment": self._environment,
            "user": user,
            "group": group,
            "log": str(self.folder / "output.log"),
            "folder": str(self.folder),
        }
        script = Path(__file__).with_name("keeper.py")
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script), json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = int(_pipe(self._keeper.stdout).readline())
        if wait:
            self.wait_until_it_answers()

    def wait_until_it_answers(self) -> None:
        """Return once it takes requests.

        Raises:
            Missing: it ended, or takes too long; with the end of its output.
        """
        give_up = time.monotonic() + self._start_s
        while not self._answers():
            ended = self._keeper is None or self._keeper.poll() is not None
            if ended or time.monotonic() > give_up:
                told = (self.folder / "output.log").read_text("utf-8", "replace")[-2000:]
                raise Missing(f"{self._command[0]} {'ended' if ended else 'does not answer'}: {told}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it in order; the data stays."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL; the data stays as it was."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nobody answers. The last thread stops when it is its turn to run."""
        os.killpg(self.pid, signal.SIGSTOP)
        give_up = time.monotonic() + _STOP_S
        while not all(state == "T" for state in self._states()):
            assert time.monotonic() < give_up
            time.sleep(0.01)

    def _states(self) -> list[str]:
        """The state of every thread of the server."""
        group = [one for one in psutil.process_iter() if _group_of(one.pid) == self.pid]
        tasks = [task for one in group for task in Path(f"/proc/{one.pid}/task").glob("*/stat")]
        return [task.read_text().rpartition(")")[2].split()[0] for task in tasks]

    def resume(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Kill it and remove its folder. Closing twice is not an error."""
        if self._keeper is not None:
            _pipe(self._keeper.stdin).close()
            self._keeper.wait(_STOP_S)
            _pipe(self._keeper.stdout).close()
            self._keeper = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        keeper = self._keeper
        assert keeper is not None, "it does not run"
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGCONT)
            os.killpg(self.pid, number)
        keeper.wait(_STOP_S)
        for pipe in (keeper.stdin, keeper.stdout):
            with suppress(BrokenPipeError):
                _pipe(pipe).close()
        self._keeper = None


def _group_of(pid: int) -> int:
    with suppress(ProcessLookupError):
        return os.getpgid(pid)
    return 0


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
