"""The data folder: its layout, format version, locks and small private files.

    DATA/format        the format version, a number
    DATA/rows.sqlite   the rows        DATA/files/  uploaded files      DATA/index/  the search index
    DATA/tmp/          uploads under way            DATA/secret         the signing secret (0600)
    DATA/key           the first API key (0600)     DATA/server.json    pid and address of the server (0600)
    DATA/serve.lock    held by the server           DATA/worker.lock    held by its worker

Blocking; used by the wiring of the server, the worker and the commands.
"""

import errno
import fcntl
import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

from api.db.private_files import create_private, write_private
from rag.core.clock import Clock, now_ms
from rag.core.errors import Conflict, InvalidInput, StoreUnavailable
from rag.core.ids import new_secret

FORMAT = 1
"""What this version writes. A larger number in a folder is refused, a smaller one upgraded."""
Upgrade = Callable[[Path], None]
UPGRADES: Mapping[int, Upgrade] = {}
"""By the format they start from: what brings a folder to the next one. Each may be repeated after a crash."""

_FULL_DISK = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO))
_TMP_AGE_S = 86_400.0
_LOCK_TRIES = 5
_LOCK_PAUSE_S = 0.02


class FileLock:
    """An exclusive lock on a file, free again when its process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None

    def acquire(self) -> bool:
        """Whether the lock is now ours; the file then holds our process id."""
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        except BaseException:
            os.close(handle)
            raise
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        self._handle = handle
        return True

    def holder(self) -> int | None:
        """The process that wrote its id last: the one that holds the lock, if any does."""
        try:
            return int(self._path.read_text("ascii"))
        except (OSError, ValueError):
            return None

    def is_held(self) -> bool:
        """Whether any process holds the lock now, this one included."""
        try:
            handle = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def release(self) -> None:
        """Give it back; twice is not an error. The file stays: removing it would let two processes hold locks."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerInfo:
    """A running server, as it wrote itself down."""

    pid: int
    url: str


class DataFolder:
    """One data folder. Call `prepare` before anything else is used."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.rows_path = self.path / "rows.sqlite"
        self.files_path = self.path / "files"
        self.index_path = self.path / "index"
        self.tmp_path = self.path / "tmp"
        self.key_path = self.path / "key"
        self.secret_path = self.path / "secret"
        self._format_path = self.path / "format"
        self._server_path = self.path / "server.json"

    def prepare(self, *, newest: int = FORMAT, upgrades: Mapping[int, Upgrade] = UPGRADES) -> int:
        """Create the folder, or bring an older one up to date; returns the format it came with.

        Safe to call from several processes at once.

        Raises:
            InvalidInput: a newer version wrote it, it holds rows but no format, or it cannot be written.
            StoreUnavailable: the disk is full or failing.
        """
        with self._clear_errors():
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(self.path / "format.lock", "a", encoding="ascii") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                found = self._read_format(newest)
                for step in range(found, newest):
                    upgrades[step](self.path)
                    write_private(self._format_path, str(step + 1))
            for folder in (self.files_path, self.index_path, self.tmp_path):
                folder.mkdir(exist_ok=True, mode=0o700)
            self._check_writable()
        return found

    def name_of_home(self) -> str:
        """A short name of this folder on this machine, the same each time."""
        return hashlib.sha256(f"{socket.gethostname()}:{self.path}".encode()).hexdigest()[:32]

    def lock_serve(self) -> FileLock:
        """Hold `serve.lock`: one server per folder.

        Raises:
            Conflict: another process holds it; the message and fact `pid` name it.
        """
        lock = FileLock(self.path / "serve.lock")
        with self._clear_errors():
            held = lock.acquire()
            for _ in range(_LOCK_TRIES):
                if held:
                    break
                # `is_held` of another process takes the lock for a moment.
                time.sleep(_LOCK_PAUSE_S)
                held = lock.acquire()
        if not held:
            pid = lock.holder()
            raise Conflict(
                f"Another server (process {pid or 'unknown'}) uses the data folder {str(self.path)!r}. "
                "Stop it, or choose another folder with --data-dir.",
                pid=pid,
            )
        return lock

    def worker_lock(self) -> FileLock:
        """`worker.lock`, not yet held: the embedded worker that gets it knows that no other one lives."""
        return FileLock(self.path / "worker.lock")

    def secret(self) -> str:
        """The signing secret, made at the first call; all processes read the same one."""
        with self._clear_errors():
            return create_private(self.secret_path, new_secret)

    def first_key(self) -> str | None:
        """The first API key, None before it was made or when its file was removed."""
        try:
            return self.key_path.read_text("utf-8").strip() or None
        except FileNotFoundError:
            return None

    def write_first_key(self, key: str) -> None:
        with self._clear_errors():
            write_private(self.key_path, key)

    def write_server(self, info: ServerInfo) -> None:
        """Tell the commands where the server of this folder listens; called while `serve.lock` is held."""
        with self._clear_errors():
            write_private(self._server_path, orjson.dumps({"pid": info.pid, "url": info.url}).decode())

    def running_server(self) -> ServerInfo | None:
        """The server that runs on this folder now; what a killed one left behind does not count."""
        try:
            raw = orjson.loads(self._server_path.read_bytes())
            info = ServerInfo(pid=int(raw["pid"]), url=str(raw["url"]))
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return None
        lock = FileLock(self.path / "serve.lock")
        return info if lock.is_held() and lock.holder() == info.pid else None

    def remove_server(self) -> None:
        """Take the note of `write_server` away; absent is not an error."""
        self._server_path.unlink(missing_ok=True)

    def sweep_tmp(self, clock: Clock) -> int:
        """Remove what broken-off uploads of more than a day ago left; returns how many files."""
        before = now_ms(clock) / 1000 - _TMP_AGE_S
        removed = 0
        for path in (*self.tmp_path.rglob("*"), *(self.files_path / "staging").rglob("*")):
            try:
                if path.is_file() and path.stat().st_mtime < before:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:
                continue
        return removed

    def format_version(self) -> int | None:
        """The format of the folder as it lies there, None if it has none yet.

        Raises:
            InvalidInput: what is written there is no number.
        """
        try:
            text = self._format_path.read_text("ascii").strip()
        except FileNotFoundError:
            return None
        if not text.isdecimal():
            raise InvalidInput(f"The file {str(self._format_path)!r} does not hold a format number. Restore it.")
        return int(text)

    def _read_format(self, newest: int) -> int:
        found = self.format_version()
        if found is None:
            if self.rows_path.exists():
                raise InvalidInput(
                    f"The data folder {str(self.path)!r} holds rows, but its file 'format' is missing. Restore it."
                )
            write_private(self._format_path, str(newest))
            return newest
        if found > newest:
            raise InvalidInput(
                f"The data folder {str(self.path)!r} has format {found}, written by a newer version; this one knows "
                f"{newest}. Use that version, or another folder."
            )
        return found

    def _check_writable(self) -> None:
        probe = self.tmp_path / f"probe.{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno in _FULL_DISK:
                raise StoreUnavailable(f"The data folder {str(self.path)!r} cannot be written: {reason}.") from error
            raise InvalidInput(
                f"The data folder {str(self.path)!r} cannot be used: {reason}. Choose another with --data-dir, or "
                "change its owner or mode."
            ) from error
