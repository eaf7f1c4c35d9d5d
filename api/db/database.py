"""The rows' connection: every read and write of the process goes through `Database.run` and `Database.write`.

Connections live as long as one call, in a thread of a bounded pool; none is held across an await. What differs
between engines is in the dialect (`sqlite.py`), nowhere else.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Protocol, TypeVar

import peewee

from api.db.migrations import applied, newest, upgrade
from api.db.raw_sql import execute
from api.db.sqlite import SqliteDialect
from api.db.tables import database_proxy
from rag.core import blocking
from rag.core.blocking import Lane
from rag.core.errors import InvalidInput, RagError, StoreUnavailable

T = TypeVar("T")

_DESPITE_REFUSAL: ContextVar[bool] = ContextVar("despite_refusal", default=False)


class Dialect(Protocol):
    """One SQL engine."""

    name: str
    version_query: str
    write_lane: Lane
    skips_locked: bool
    """Whether rows can be claimed with FOR UPDATE SKIP LOCKED; otherwise there is one writer at a time."""
    errors: tuple[type[Exception], ...]

    @property
    def away(self) -> bool: ...
    def make(self) -> peewee.Database: ...
    def looking(self) -> AbstractContextManager[peewee.Database]: ...
    def open(self) -> None: ...
    def probe(self, database: peewee.Database) -> None: ...
    def close(self) -> None: ...
    def reading(self, database: peewee.Database) -> AbstractContextManager[None]: ...
    def writing(self, database: peewee.Database, *, locks_rows: bool = False) -> AbstractContextManager[None]: ...
    def retry_pause(self, error: Exception, attempt: int) -> float | None: ...
    def is_lost(self, error: Exception) -> bool: ...
    def table_exists(self, database: peewee.Database, table: str) -> bool: ...
    def migrate(
        self, database: peewee.Database, number: int, steps: Sequence[str], *, is_missing: Callable[[], bool]
    ) -> None: ...
    def translate(self, error: Exception) -> RagError: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """Rows as they were found: the engine's version, the schema's, and the newest schema that this program knows."""

    version: str
    schema: int
    newest: int


class Database:
    """The rows of one data folder. One is open per process at a time: it binds the tables.

    Args:
        source: The file of SQLite, or another engine's dialect.
    """

    def __init__(self, source: Path | Dialect, *, busy_timeout_s: float) -> None:
        self._dialect: Dialect = (
            SqliteDialect(source, busy_timeout_s=busy_timeout_s) if isinstance(source, Path) else source
        )
        self._busy_timeout_s = busy_timeout_s
        self._database: peewee.Database | None = None
        self._refusal: str | None = None
        self._watched = False

    def refuse(self, reason: str | None) -> None:
        """Answer every call with `reason` at once, until this is called with None.

        For who watches the server and knows that it is away: calls would each wait for it, and for a thread. From the
        first use on, a call that finds it away speaks for all that come until the watcher has looked again.
        """
        self._watched = True
        self._refusal = reason

    @contextmanager
    def despite_refusal(self) -> Iterator[None]:
        """Let the calls of this context through, whatever `refuse` said: what makes the rows ready for all others."""
        token = _DESPITE_REFUSAL.set(True)
        try:
            yield
        finally:
            _DESPITE_REFUSAL.reset(token)

    @property
    def is_open(self) -> bool:
        return self._database is not None

    def probe(self) -> None:
        """Ask the engine for an answer, whatever `refuse` said and however many calls are under way. Blocking.

        Raises:
            StoreUnavailable: it gives none.
        """
        database = self._opened()
        with self._translated():
            self._dialect.probe(database)

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

    def examine(self) -> Examined:
        """Look at rows that are not open, and change nothing. Blocking.

        Raises:
            StoreUnavailable: they cannot be reached.
            StoreError: the engine refuses us, or is too old.
        """
        with self._translated(), self._dialect.looking() as database:
            version = str(execute(database, self._dialect.version_query).fetchone()[0])
            return Examined(version=version, schema=applied(database, self._dialect), newest=newest())

    async def run(self, fn: Callable[[], T]) -> T:
        """Return `fn()`, which only reads rows and sees them all at one moment.

        Raises:
            StoreUnavailable: the rows cannot be reached in time (retryable).
            StoreError: anything else that the engine reports, a write inside `fn` included.
            InvalidInput: a value that no row can hold: half a surrogate pair, a number of more than 64 bits.
        """
        return await blocking.run_in(Lane.ROWS, self.run_blocking, fn)

    @property
    def skips_locked(self) -> bool:
        """Whether `Select.for_update(skip_locked=True)` can be used in a write that `locks_rows`."""
        return self._dialect.skips_locked

    async def write(self, fn: Callable[[], T], *, locks_rows: bool = False) -> T:
        """Return `fn()`, run as if it were the only writer: nothing it reads changes until it has ended.

        What `fn` wrote is on the disk when this returns, or undone when it raises. `fn` may be called again when
        others were in its way, so it must keep no state of its own between calls.

        Args:
            locks_rows: `fn` begins with an update or a lock of the rows that it relies on, so that engines with
                row locks need not lock what else it reads.

        Raises:
            StoreUnavailable: the lock was not free in time, or the disk is full (retryable).
            StoreError: anything else that the engine reports and `fn` does not handle.
        """
        return await blocking.run_in(self._dialect.write_lane, self.write_blocking, fn, locks_rows=locks_rows)

    def run_blocking(self, fn: Callable[[], T]) -> T:
        """`run` for a thread that may block."""
        database = self._bound()
        with self._translated():
            try:
                with database.connection_context(), self._dialect.reading(database):
                    return fn()
            except self._dialect.errors as error:
                if not self._dialect.is_lost(error):
                    raise
            with database.connection_context(), self._dialect.reading(database):
                return fn()

    def write_blocking(self, fn: Callable[[], T], *, locks_rows: bool = False) -> T:
        """`write` for a thread that may block."""
        database = self._bound()
        give_up = time.monotonic() + self._busy_timeout_s
        with self._translated():
            for attempt in count():
                try:
                    with database.connection_context(), self._dialect.writing(database, locks_rows=locks_rows):
                        return fn()
                except self._dialect.errors as error:
                    pause = self._dialect.retry_pause(error, attempt)
                    if pause is None or time.monotonic() > give_up:
                        raise
                time.sleep(pause)
        raise AssertionError("a count has no end")

    def _bound(self) -> peewee.Database:
        if self._refusal is not None and not _DESPITE_REFUSAL.get():
            raise StoreUnavailable(self._refusal)
        return self._opened()

    def _opened(self) -> peewee.Database:
        if self._database is None:
            raise RuntimeError("the rows are not open")
        return self._database

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._dialect.errors as error:
            translated = self._dialect.translate(error)
            if self._watched and self._dialect.away:
                self._refusal = translated.message
            raise translated from error
        except (UnicodeEncodeError, OverflowError) as error:
            raise InvalidInput(f"A text or a number cannot be kept or looked up: {error}.") from error
