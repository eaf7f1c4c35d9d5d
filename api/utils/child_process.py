"""A child process that is watched: restarted with a growing pause, woken and kept alive by its standard input."""

import asyncio
import contextlib
import subprocess
from collections.abc import Callable, Sequence

import structlog

from rag.core import blocking
from rag.core.blocking import Lane

_LOOK_S = 0.2
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_HEALTHY_S = 60.0
log = structlog.get_logger(__name__)


class WatchedChild:
    """Runs one command until told to stop.

    The child reads the end of its standard input when this process ends, however it ends; that is its order to stop.

    Args:
        command: Program and arguments.
        attach: Called with the writer of the child's standard input, and with None when it is gone.
    """

    def __init__(
        self, command: Sequence[str], *, name: str, attach: Callable[[asyncio.StreamWriter | None], None]
    ) -> None:
        self._command = list(command)
        self._name = name
        self._attach = attach
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The running child's process id."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def start(self) -> None:
        """Start it and watch it."""
        self._watch = asyncio.get_running_loop().create_task(self._keep_running())

    async def stop(self, timeout_s: float) -> None:
        """Order it to stop; kill it after `timeout_s` seconds."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        process = self._process
        if process is None:
            return
        loop = asyncio.get_running_loop()
        give_up = loop.time() + timeout_s
        while process.poll() is None and loop.time() < give_up:
            await asyncio.sleep(0.02)
        self.kill()
        await blocking.run_in(Lane.FILES, process.wait)

    def kill(self) -> None:
        """End it at once; absent is not an error."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    async def _keep_running(self) -> None:
        pause_s = _FIRST_PAUSE_S
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            code = await self._run_once()
            lived_s = loop.time() - began
            pause_s = _FIRST_PAUSE_S if lived_s > _HEALTHY_S else min(pause_s * 2, _LONGEST_PAUSE_S)
            log.warning(f"{self._name}_ended", code=code, lived_s=round(lived_s, 1), restart_in_s=pause_s)
            await asyncio.sleep(pause_s)

    async def _run_once(self) -> int:
        # A group of its own: Ctrl+C in a terminal reaches the server alone, which then stops it in order. The session
        # stays the same: Linux shares time between sessions first, so niceness would mean nothing across them.
        process = await blocking.run_in(
            Lane.FILES, lambda: subprocess.Popen(self._command, stdin=subprocess.PIPE, process_group=0)
        )
        self._process = process
        loop = asyncio.get_running_loop()
        assert process.stdin is not None
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, process.stdin)
        writer = asyncio.StreamWriter(transport, protocol, None, loop)
        self._attach(writer)
        try:
            while (code := process.poll()) is None:
                await asyncio.sleep(_LOOK_S)
            return code
        finally:
            self._attach(None)
            writer.close()
