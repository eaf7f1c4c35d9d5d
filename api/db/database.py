"""The rows' connection: every read and write of the process goes through `Database.run` and `Database.write`.

Connections live as long as one call, in a thread of a bounded pool; none is held across an await. What differs
between engines is in the dialect (`sqlite.py`), nowhere else.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import peewee

from api.db.migrations import upgrade
from api.db.sqlite import SqliteDialect
from api.db.tables import database_proxy
from rag.core import blocking
from rag.core.blocking import Lane
from rag.core.errors import InvalidInput, RagError

T = TypeVar("T")

_LOCK_PAUSE_S = 0.05


class Dialect(Protocol):
    """One SQL engine."""

    name: str
    write_lane: Lane
    errors: tuple[type[Exception], ...]

    def make(self) -> peewee.Database: ...
    def open(self) -> None: ...
    def close(self) -> None: ...
    def reading(self, database: peewee.Database) -> AbstractContextManager[None]: ...
    def writing(self, database: peewee.Database) -> AbstractContextManager[None]: ...
    def ddl(self, statement: str) -> str: ...
    def table_exists(self, database: peewee.Database, table: str) -> bool: ...
    def is_lock_timeout(self, error: Exception) -> bool: ...
    def translate(self, error: Exception) -> RagError: ...


class Database:
    """The rows of one data folder. One is open per process at a time: it binds the tables."""

    def __init__(self, path: Path, *, busy_timeout_s: float) -> None:
        self._dialect: Dialect = SqliteDialect(path, busy_timeout_s=busy_timeout_s)
        self._busy_timeout_s = busy_timeout_s
        self._database: peewee.Database | None = None

    def open(self) -> None:
        """Open the rows and bring their schema up to date.

        Blocking; called once by the wiring before requests come in.

        Raises:
            InvalidInput: a newer version of the program wrote these rows.
            StoreUnavailable: the file cannot be opened or written.
        """
        database = self._dialect.make()
        with self._translated():
            self._dialect.open()
        database_proxy.initialize(database)
        try:
            with self._translated(), database.connection_context():
                upgrade(database, self._dialect)
        except BaseException:
            self._dialect.close()
            raise
        self._database = database

    def close(self) -> None:
        """Close what `open` opened; closing twice is not an error."""
        self._database = None
        self._dialect.close()

    async def run(self, fn: Callable[[], T]) -> T:
        """Return `fn()`, which only reads rows and sees them all at one moment.

        Raises:
            StoreUnavailable: the rows cannot be reached in time (retryable).
            StoreError: anything else that the engine reports, a write inside `fn` included.
            InvalidInput: a value that no row can hold: half a surrogate pair, a number of more than 64 bits.
        """
        return await blocking.run_in(Lane.ROWS, self.run_blocking, fn)

    async def write(self, fn: Callable[[], T]) -> T:
        """Return `fn()`, run in a transaction that holds the writer lock from its start.

        What `fn` wrote is on the disk when this returns, or undone when it raises. `fn` may be called again
        when the lock was not free, so it must keep no state of its own between calls.

        Raises:
            StoreUnavailable: the lock was not free in time, or the disk is full (retryable).
            StoreError: anything else that the engine reports and `fn` does not handle.
        """
        return await blocking.run_in(self._dialect.write_lane, self.write_blocking, fn)

    def run_blocking(self, fn: Callable[[], T]) -> T:
        """`run` for a thread that may block."""
        database = self._bound()
        with self._translated(), database.connection_context(), self._dialect.reading(database):
            return fn()

    def write_blocking(self, fn: Callable[[], T]) -> T:
        """`write` for a thread that may block."""
        database = self._bound()
        with self._translated(), database.connection_context():
            give_up = time.monotonic() + self._busy_timeout_s
            while True:
                try:
                    with self._dialect.writing(database):
                        return fn()
                except peewee.OperationalError as error:
                    if time.monotonic() > give_up or not self._dialect.is_lock_timeout(error):
                        raise
                    time.sleep(_LOCK_PAUSE_S)

    def _bound(self) -> peewee.Database:
        if self._database is None:
            raise RuntimeError("the rows are not open")
        return self._database

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._dialect.errors as error:
            raise self._dialect.translate(error) from error
        except (UnicodeEncodeError, OverflowError) as error:
            raise InvalidInput(f"A text or a number cannot be kept or looked up: {error}.") from error
