"""A pool of parser processes that are reused, limited and replaced.

A child gets one file at a time. It is killed when a file takes too long or its caller leaves, and replaced after
`recycle_files` files or when it has grown. Nothing of this process reaches it but the path and name of the file.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

import rag
from rag.core.blocking import Lane, run_in
from rag.core.errors import IngestError, ParserDied, ParserLimit
from rag.core.types import ParsedDocument
from rag.parse.base import ParseLimits
from rag.parse.failures import NO_MEMORY, TOO_SLOW
from rag.parse.wire import HEADER, document_of, error_of, frame

Progress = Callable[[int, int], None]

_START_S = 60.0
_END_S = 5.0
_KEPT_ERROR_BYTES = 8192
_WORN_SHARE = 0.5
_MEMORY_WORDS = (b"memory allocation of", b"MemoryError", b"bad_alloc", b"out of memory", b"Cannot allocate memory")


class ParsePool:
    """Implements `rag.ingest.base.DocumentParser`. Use between `open` and `close`, on one event loop.

    Args:
        children: Processes at the most; further calls wait for their turn.
        limits: Bounds for each file.
        recycle_files: Files after which a child is replaced.
        tmp_dir: Where the children's folders are made; the system's place if not given. Killed with its children, the
            pool leaves them there.
    """

    def __init__(self, *, children: int, limits: ParseLimits, recycle_files: int, tmp_dir: Path | None = None) -> None:
        self._count = children
        self._limits = limits
        self._recycle_files = recycle_files
        self._tmp_dir = tmp_dir
        self._turns = asyncio.Semaphore(children)
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()
        self._endings: set[asyncio.Task[None]] = set()
        self._closed = False

    async def open(self) -> None:
        """Start one child, so that the first file need not wait for it."""
        self._idle.append(await _Child.start(self._limits, self._tmp_dir))

    async def close(self) -> None:
        """Kill all children, also those at work, and wait until they are gone."""
        self._closed = True
        for child in (*self._idle, *self._busy):
            self._retire(child)
        self._idle.clear()
        await asyncio.gather(*self._endings)

    async def parse(
        self, path: Path, *, filename: str, alone: bool = False, on_progress: Progress | None = None
    ) -> ParsedDocument:
        """Read the file at `path` in a child and return its document.

        Args:
            path: The file, readable by this user.
            filename: Its name; the extension gives the type.
            alone: Use a fresh child for this file only.
            on_progress: Called with pages read and pages in all.
        Raises:
            ParserDied: the child was killed or crashed (retryable).
            ParserLimit: it needed more memory, time or output than allowed.
            Unsupported, EmptyDocument, IngestError: see `Parser.parse`.
        """
        async with self._turns:
            child = await self._take(alone)
            self._busy.add(child)
            try:
                document = await child.parse(path.absolute(), filename)
            finally:
                self._busy.discard(child)
                self._give_back(child, alone)
        if on_progress is not None and document.pages:
            on_progress(document.pages, document.pages)
        return document

    async def _take(self, alone: bool) -> "_Child":
        if self._closed:
            raise ParserDied("The parser pool is closed.")
        while self._idle and not alone:
            child = self._idle.pop()
            if child.alive:
                return child
            self._retire(child)
        if alone and len(self._idle) >= self._count:
            self._retire(self._idle.pop())
        return await _Child.start(self._limits, self._tmp_dir)

    def _give_back(self, child: "_Child", alone: bool) -> None:
        worn = child.worn or child.grown > self._limits.memory_bytes * _WORN_SHARE
        if alone or worn or child.files >= self._recycle_files or self._closed or len(self._idle) >= self._count:
            self._retire(child)
        else:
            self._idle.append(child)

    def _retire(self, child: "_Child") -> None:
        child.kill()
        ending = asyncio.ensure_future(child.end())
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)


class _Child:
    """One process and its pipes. `worn` once it must not be used again: set while it works, cleared by an answer."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path, limits: ParseLimits) -> None:
        self._process = process
        self._folder = folder
        self._limits = limits
        self._errors = b""
        self._drain = asyncio.ensure_future(self._keep_errors())
        self.files = 0
        self.grown = 0
        self.worn = True

    @classmethod
    async def start(cls, limits: ParseLimits, tmp_dir: Path | None) -> "_Child":
        """Start a process and wait until it is ready.

        Raises:
            ParserDied: it does not start.
        """
        folder = Path(await run_in(Lane.FILES, tempfile.mkdtemp, prefix="parley-parse-", dir=tmp_dir))
        numbers = (limits.memory_bytes, limits.timeout_s, limits.output_chars)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "rag.parse.child", *map(str, numbers)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=folder,
                env=_environment(folder),
                start_new_session=True,
                close_fds=True,
            )
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise ParserDied(f"A parser process could not be started ({error.strerror}).") from error
        child = cls(process, folder, limits)
        try:
            async with asyncio.timeout(_START_S):
                await child._message()
        except BaseException as error:
            child.kill()
            await asyncio.shield(child.end())
            if isinstance(error, TimeoutError):
                raise ParserDied("A parser process did not start in time.") from error
            raise
        child.worn = False
        return child

    @property
    def alive(self) -> bool:
        """Whether it still runs: one that died idle must not count against the next file."""
        return self._process.returncode is None and not self._drain.done()

    async def parse(self, path: Path, filename: str) -> ParsedDocument:
        """Hand it a file and wait for the document. Errors as in `ParsePool.parse`."""
        self.worn = True
        self.files += 1
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                answer = await self._ask({"path": str(path), "filename": filename})
        except TimeoutError as error:
            raise ParserLimit(TOO_SLOW) from error
        self.grown = int(answer.get("grown", 0))
        self.worn = bool(answer.get("worn", False))
        if "error" in answer:
            raise error_of(answer["error"])
        try:
            return await run_in(Lane.PARSE, document_of, answer["document"])
        except (KeyError, TypeError, ValueError) as error:
            self.worn = True
            raise ParserDied("The parser process sent an answer that cannot be understood.") from error

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(frame(request))
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError) as error:
            raise await self._death() from error
        await self._message()
        return await self._message()

    async def _message(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            size = HEADER.unpack(await self._process.stdout.readexactly(HEADER.size))[0]
            if size > self._limits.output_chars * 8 + (1 << 20):
                raise ParserLimit("The file holds more text than allowed; split it into smaller files.")
            body = await self._process.stdout.readexactly(size)
        except asyncio.IncompleteReadError as error:
            raise await self._death() from error
        message = await run_in(Lane.PARSE, orjson.loads, body) if size > 1 << 16 else orjson.loads(body)
        if not isinstance(message, dict):
            raise ParserDied("The parser process sent an answer that cannot be understood.")
        return message

    async def _death(self) -> IngestError:
        """What its end means: it closed its pipes, so it is gone or about to be."""
        self.kill()
        code = await self._process.wait()
        await self._drain
        if any(words in self._errors for words in _MEMORY_WORDS):
            return ParserLimit(NO_MEMORY)
        ended = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with code {code}"
        return ParserDied(
            f"The parser process {ended} while reading the file; the file may be damaged.",
            reason=self._errors[-500:].decode("utf-8", "replace"),
        )

    async def _keep_errors(self) -> None:
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(65536):
            self._errors = (self._errors + chunk)[-_KEPT_ERROR_BYTES:]

    def kill(self) -> None:
        """Kill it and whatever it started. Does not wait."""
        self.worn = True
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def end(self) -> None:
        """Wait until it is gone and remove its folder."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await self._process.wait()
                await self._drain
        self._drain.cancel()
        await run_in(Lane.FILES, shutil.rmtree, self._folder, ignore_errors=True)


def _environment(folder: Path) -> dict[str, str]:
    """All a child knows of the outside: no keys, no settings, no home."""
    return {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "PATH": os.defpath,
        "PYTHONPATH": str(Path(rag.__file__).parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
        # Each further arena of the allocator reserves 64 MB of the address space that is limited.
        "MALLOC_ARENA_MAX": "2",
        "TOKIO_WORKER_THREADS": "1",
        "RAYON_NUM_THREADS": "1",
    }


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
