"""The wake-up between a server and the worker it started: one pipe.

The server writes a newline to the worker's standard input for each new task. The same pipe is the worker's life
line: when the server is gone, however it went, the worker reads the end of the file and stops.
"""

import asyncio
import os

_NUDGE = b"\n"
_READ_BYTES = 4096


class _Bell:
    """Rings once for any number of notifications since the last wait."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def wait(self, timeout_s: float) -> None:
        try:
            # Not `wait_for`: on Python 3.11 it swallows a cancellation that meets the notification.
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        except TimeoutError:
            return
        finally:
            self._rung.clear()


class ServerQueue:
    """JobQueue of the web process: writes to the worker it has started, if one runs."""

    def __init__(self) -> None:
        self._bell = _Bell()
        self._to_worker: asyncio.StreamWriter | None = None

    def attach(self, to_worker: asyncio.StreamWriter | None) -> None:
        """Use the standard input of a new worker; None when it is gone. A new worker looks at the rows by itself."""
        self._to_worker = to_worker

    async def notify(self, task_id: str) -> None:
        self._bell.ring()
        pipe = self._to_worker
        # A transport that lost its reader is closing; writing to it would only log. A full pipe holds nudges enough.
        if pipe is not None and not pipe.is_closing() and pipe.transport.get_write_buffer_size() == 0:
            pipe.write(_NUDGE)

    async def wait(self, timeout_s: float) -> None:
        await self._bell.wait(timeout_s)

    async def check(self) -> str:
        return "embedded" if self._to_worker is not None else "embedded (no worker attached)"


class WorkerQueue:
    """JobQueue of a worker: woken through `file` (its standard input) when a server started it, else by time alone.

    `ended` is set when the server's end of the pipe closes.
    """

    def __init__(self, file: int | None = None) -> None:
        self.ended = asyncio.Event()
        self._file = file
        self._bell = _Bell()

    def open(self) -> None:
        """Begin to listen. Call it on the event loop."""
        if self._file is not None:
            os.set_blocking(self._file, False)
            asyncio.get_running_loop().add_reader(self._file, self._read)

    def close(self) -> None:
        if self._file is not None:
            asyncio.get_running_loop().remove_reader(self._file)

    async def notify(self, task_id: str) -> None:
        self._bell.ring()

    async def wait(self, timeout_s: float) -> None:
        await self._bell.wait(timeout_s)

    async def check(self) -> str:
        return "embedded" if self._file is not None else "polling"

    def _read(self) -> None:
        assert self._file is not None
        try:
            data = os.read(self._file, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            self.ended.set()
        self._bell.ring()
