"""All that is particular to SQLite: how it is opened, locked, spelled and how its errors read.

Another backend is a second file with the same methods (`Dialect`), chosen where `Database` is made.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import peewee

from api.db.raw_sql import execute
from rag.core.blocking import Lane
from rag.core.errors import RagError, StoreError, StoreUnavailable

_FULL = 2  # `synchronous`: each commit is on the disk before it returns.
_CACHE_KIB = 4000
_LOG_PAGES = 4000  # 16 MB. With the usual 4 MB a large document took a fifth longer: index pages went over twice.
_KEPT_CONNECTIONS = 8  # As many as threads read rows.
_LOCK_PAUSE_S = 0.05


class _KeptConnections(peewee.SqliteDatabase):
    """Closed connections wait for the next opener, in whichever thread: a fresh one costs 0.5 ms, for its settings
    and for reading the schema again, and a request opens six."""

    def __init__(self, path: Path, *, busy_timeout_s: float) -> None:
        super().__init__(
            str(path),
            pragmas={
                "synchronous": _FULL,
                "foreign_keys": 0,
                "cache_size": -_CACHE_KIB,
                "temp_store": 2,
                "wal_autocheckpoint": _LOG_PAGES,
            },
            timeout=busy_timeout_s,
            autoconnect=False,
            check_same_thread=False,
        )
        self._idle: list[sqlite3.Connection] = []
        self._idle_lock = threading.Lock()
        self._keeping = True

    def _connect(self) -> sqlite3.Connection:
        with self._idle_lock:
            if self._idle:
                return self._idle.pop()
        connection: sqlite3.Connection = super()._connect()  # type: ignore[misc]  # the stubs leave it out
        return connection

    def _close(self, connection: sqlite3.Connection) -> None:
        with self._idle_lock:
            if self._keeping and not connection.in_transaction and len(self._idle) < _KEPT_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()

    def let_go(self) -> None:
        """Close the waiting connections, and from now on each one when it is done."""
        with self._idle_lock:
            idle, self._idle, self._keeping = self._idle, [], False
        for connection in idle:
            connection.close()


class SqliteDialect:
    """One file in WAL mode: readers never wait, writers wait for each other."""

    name = "SQLite"
    version_query = "SELECT sqlite_version()"
    write_lane = Lane.ROW_WRITES
    """One thread: SQLite has one writer, and a queue in the process is fairer than its busy handler."""

    skips_locked = False
    away = False
    errors: tuple[type[Exception], ...] = (peewee.PeeweeException, sqlite3.Error)

    def __init__(self, path: Path, *, busy_timeout_s: float) -> None:
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._anchor: sqlite3.Connection | None = None
        self._database: _KeptConnections | None = None

    @contextmanager
    def looking(self) -> Iterator[peewee.Database]:
        """A database that cannot be written, for a look before it is opened; an empty one if there is no file."""
        address = f"file:{quote(str(self._path))}?mode=ro" if self._path.exists() else ":memory:"
        database = peewee.SqliteDatabase(address, uri=True, timeout=self._busy_timeout_s, autoconnect=False)
        with database.connection_context():
            yield database

    def make(self) -> peewee.Database:
        """The peewee database, not connected."""
        database = self._database = _KeptConnections(self._path, busy_timeout_s=self._busy_timeout_s)
        # SQLite's own LOWER knows ASCII only; migrations fold names with it.
        database.register_function(_lower, "LOWER", 1)
        return database

    def open(self) -> None:
        """Turn WAL on (it stays in the file) and keep one idle connection.

        The last connection to close would fold the log into the file; that happens once, at the end.
        """
        anchor = sqlite3.connect(self._path, timeout=self._busy_timeout_s, check_same_thread=False)
        try:
            mode = anchor.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if str(mode).lower() != "wal":
                raise StoreError(
                    f"The rows file {str(self._path)!r} cannot be opened in WAL mode; is its folder on a network disk?"
                )
            self._path.chmod(0o600)
        except BaseException:
            anchor.close()
            raise
        self._anchor = anchor

    def probe(self, database: peewee.Database) -> None:
        """Read from the file."""
        with database.connection_context():
            execute(database, "SELECT 1").fetchone()

    def close(self) -> None:
        if self._database is not None:
            self._database.let_go()
            self._database = None
        if self._anchor is not None:
            self._anchor.close()
            self._anchor = None

    @contextmanager
    def reading(self, database: peewee.Database) -> Iterator[None]:
        """One snapshot for all statements inside; a write inside is an error."""
        execute(database, "PRAGMA query_only = 1")
        with database.atomic("DEFERRED"):
            yield

    @contextmanager
    def writing(self, database: peewee.Database, *, locks_rows: bool = False) -> Iterator[None]:
        """A transaction that holds the writer lock from its first statement, whatever `locks_rows`.

        After some errors, a full disk among them, SQLite has already rolled back by itself; the rollback that
        follows then fails and would hide the reason.
        """
        execute(database, "PRAGMA query_only = 0")
        cause: BaseException | None = None
        try:
            with database.atomic("IMMEDIATE"):
                try:
                    yield
                except BaseException as error:
                    cause = error
                    raise
        except peewee.OperationalError as error:
            if "no transaction is active" not in str(error):
                raise
            raise (cause or _first(error)) from None

    def ddl(self, statement: str) -> str:
        """A portable schema statement (see `migrations`) in this dialect."""
        spelled = statement.replace("{AUTO_KEY}", "INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT")
        return spelled.partition(" ON ")[0] if spelled.startswith("DROP INDEX ") else spelled

    def table_exists(self, database: peewee.Database, table: str) -> bool:
        return bool(database.table_exists(table))

    def migrate(
        self, database: peewee.Database, number: int, steps: Sequence[str], *, is_missing: Callable[[], bool]
    ) -> None:
        """Apply a migration in one transaction, unless another process was faster."""
        with self.writing(database):
            if is_missing():
                for step in steps:
                    execute(database, self.ddl(step))

    def retry_pause(self, error: Exception, attempt: int) -> float | None:
        """How long to wait before a write that failed is run again; None if it is not."""
        return _LOCK_PAUSE_S if _is_locked(error) else None

    def is_lost(self, error: Exception) -> bool:
        """Whether only this connection ended: a file has no such errors."""
        return False

    def translate(self, error: Exception) -> RagError:
        """The error of ours for a database error that no service handled."""
        text = str(error)
        if _is_locked(error):
            return StoreUnavailable(f"The rows file was locked for more than {self._busy_timeout_s:g} s. Try again.")
        if "is full" in text or "disk I/O error" in text:
            return StoreUnavailable(f"The rows file cannot be written ({text}). Free some space and try again.")
        if "unable to open" in text:
            return StoreUnavailable(f"The rows file {str(self._path)!r} cannot be opened ({text}).")
        if "readonly database" in text:
            return StoreError(
                f"Rows were written where they may only be read: {str(self._path)!r} is not writable, "
                "or a read tried to write."
            )
        if "malformed" in text or "not a database" in text:
            return StoreError(f"The rows file {str(self._path)!r} is damaged ({text}). Restore it from a backup.")
        return StoreError(f"The rows could not be read or written: {text}")


def _lower(text: str | None) -> str | None:
    return None if text is None else str(text).casefold()


def _is_locked(error: Exception) -> bool:
    return "database is locked" in str(error) or "database table is locked" in str(error)


def _first(error: BaseException) -> BaseException:
    """The error during whose handling all others came up."""
    while error.__context__ is not None:
        error = error.__context__
    return error
