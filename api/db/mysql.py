"""All that is particular to MySQL and MariaDB as the rows' server: transactions, locks, spelling, schema changes.

The services rely on what SQLite gives them: one writer, who sees the latest rows. So writes are serializable, and one
that loses against another is run again by `Database.write`; who locks the rows it relies on may do with less.
"""

import hashlib
import random
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import unquote, urlsplit

import peewee
import pymysql
from pymysql.constants import CLIENT

from api.db.mysql_connection import Pool, PooledDatabase
from api.db.mysql_errors import ALREADY_DONE, is_lock_failure, is_lost, number_of, translated
from api.db.raw_sql import execute
from rag.core.blocking import Lane
from rag.core.errors import OutcomeUnknown, RagError, StoreError, StoreUnavailable
from rag.core.settings import RowsSettings

_PORT = 3306
_LEAST_MYSQL, _LEAST_MARIADB = (8, 0, 1), (10, 6)
_SQL_MODE = "STRICT_ALL_TABLES,ONLY_FULL_GROUP_BY,NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO"
_TABLE_OPTIONS = " ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin ROW_FORMAT=DYNAMIC"
_STEP_TABLE = (
    "CREATE TABLE IF NOT EXISTS `schema_step` (`number` INTEGER NOT NULL PRIMARY KEY, `done` INTEGER NOT NULL)"
)
_SCHEMA_TURN_S = 600
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.3
_ROW_CHANGES = ("INSERT", "UPDATE", "DELETE", "REPLACE")


class _EndedInCommit(peewee.OperationalError):
    """The connection ended while a transaction was committed."""


class MysqlDialect:
    """One database on a server. Every thread that writes has a connection of its own."""

    name = "MySQL"
    version_query = "SELECT VERSION()"
    write_lane = Lane.SERVER_WRITES
    skips_locked = True
    errors: tuple[type[Exception], ...] = (peewee.PeeweeException, pymysql.MySQLError)

    def __init__(self, settings: RowsSettings) -> None:
        parts = urlsplit(settings.url)
        self._database_name = unquote(parts.path.strip("/"))
        self._server = f"{parts.hostname}:{parts.port or _PORT}"
        self._settings = settings
        self._options = {
            "host": parts.hostname,
            "port": parts.port or _PORT,
            "user": unquote(parts.username or ""),
            "database": self._database_name,
            # As bytes: the driver would encode a text in Latin-1.
            "password": settings.password.get_secret_value().encode() if settings.password else b"",
            "charset": "utf8mb4",
            "collation": "utf8mb4_bin",
            "autocommit": True,
            # Updates count the rows they found, as SQLite does, not those that were not yet so.
            "client_flag": CLIENT.FOUND_ROWS,
        }
        self._pool: Pool | None = None

    def make(self) -> peewee.Database:
        """The peewee database, not connected."""
        settings = self._settings
        lock_wait_s = max(1, round(settings.busy_timeout_s))
        self._pool = Pool(
            self._options | self._safety(),
            size=settings.pool,
            connect_timeout_s=settings.connect_timeout_s,
            begin=(
                f"SET SESSION sql_mode = '{_SQL_MODE}', SESSION innodb_lock_wait_timeout = {lock_wait_s}, "
                f"SESSION lock_wait_timeout = {lock_wait_s}",
                "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            ),
        )
        return PooledDatabase(self._database_name, self._pool)

    @contextmanager
    def looking(self) -> Iterator[peewee.Database]:
        """A database for a look before it is opened.

        Raises:
            StoreError: the server is too old.
        """
        database = self.make()
        try:
            self.open()
            with database.connection_context():
                yield database
        finally:
            self.close()

    def open(self) -> None:
        """Look whether the server is one we know.

        Raises:
            StoreError: it is too old.
        """
        connection = self._made().take()
        try:
            check_version(str(connection.server_version))
        finally:
            self._made().give(connection)

    def probe(self, database: peewee.Database) -> None:
        """Have the server answer, even when all connections are in use."""
        try:
            self._made().probe()
        except self.errors as error:
            if not self.is_lost(error):
                raise
            self._made().probe()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.let_go(for_good=True)

    @contextmanager
    def reading(self, database: peewee.Database) -> Iterator[None]:
        """One snapshot for all statements inside, which lock nothing; a write inside is an error."""
        execute(database, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        with self._undone_on_error(database):
            yield
        execute(database, "COMMIT")

    @contextmanager
    def writing(self, database: peewee.Database, *, locks_rows: bool = False) -> Iterator[None]:
        """A transaction as if no other were under way.

        With `locks_rows`, what is inside locks the rows it relies on by itself, and sees others' commits.
        """
        level = "READ COMMITTED" if locks_rows else "SERIALIZABLE"
        execute(database, f"SET TRANSACTION ISOLATION LEVEL {level}")
        execute(database, "START TRANSACTION")
        with self._undone_on_error(database):
            yield
        try:
            execute(database, "COMMIT")
        except self.errors as error:
            if is_lost(error):
                raise _EndedInCommit(*error.args) from error
            raise

    @contextmanager
    def _undone_on_error(self, database: Any) -> Iterator[None]:
        database.push_transaction(self)
        try:
            yield
        except BaseException:
            database.pop_transaction()
            # A connection that ended, or cannot tell, is not used again: its server undoes what it had begun.
            connection = database.connection()
            try:
                connection.rollback()
            except pymysql.MySQLError:
                connection._force_close()
            raise
        database.pop_transaction()

    def retry_pause(self, error: Exception, attempt: int) -> float | None:
        """How long to wait before a write that failed is run again; None if it is not."""
        if isinstance(error, _EndedInCommit) or not (is_lock_failure(error) or self.is_lost(error)):
            return None
        return random.uniform(0, min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S))

    def is_lost(self, error: Exception) -> bool:
        """Whether only this connection ended, and another may do."""
        return is_lost(error) and not self._made().away

    @property
    def away(self) -> bool:
        """Whether the server did not answer when it was last asked."""
        return self._pool is not None and self._pool.away

    def translate(self, error: Exception) -> RagError:
        """The error of ours for a database error that no service handled."""
        if isinstance(error, _EndedInCommit):
            return OutcomeUnknown(
                f"The connection to the rows' server {self._server} ended while a change was stored; "
                "look whether it was, then try again."
            )
        return translated(error, self._server)

    def table_exists(self, database: peewee.Database, table: str) -> bool:
        return bool(database.table_exists(table))

    def migrate(
        self, database: peewee.Database, number: int, steps: Sequence[str], *, is_missing: Callable[[], bool]
    ) -> None:
        """Apply a migration, from where one that was ended before stopped.

        The server commits each schema change by itself, so what is done is noted after each statement. Only of the
        first one after a note may it be unknown whether it was done.
        """
        with self._turn(database):
            if not is_missing():
                return
            execute(database, self.ddl(_STEP_TABLE))
            row = execute(database, f"SELECT `done` FROM `schema_step` WHERE `number` = {number}").fetchone()
            if row is None:
                self._note(database, number, 0)
            begun = int(row[0]) if row else 0
            for place, step in enumerate(steps[begun:], begun + 1):
                self._step(database, number, place, step, may_be_done=row is not None and place == begun + 1)

    def _step(self, database: peewee.Database, number: int, place: int, step: str, *, may_be_done: bool) -> None:
        if step.upper().startswith(_ROW_CHANGES):
            with self.writing(database):
                execute(database, step)
                self._note(database, number, place)
            return
        try:
            execute(database, self.ddl(step))
        except self.errors as error:
            if not may_be_done or number_of(error) not in ALREADY_DONE:
                raise
        self._note(database, number, place)

    def _note(self, database: peewee.Database, number: int, done: int) -> None:
        execute(database, f"REPLACE INTO `schema_step` (`number`, `done`) VALUES ({number}, {done})")

    @contextmanager
    def _turn(self, database: peewee.Database) -> Iterator[None]:
        """One process at a time; the lock goes with the connection."""
        name = f"parley.{hashlib.sha256(self._database_name.encode()).hexdigest()[:24]}"
        give_up = time.monotonic() + _SCHEMA_TURN_S
        while execute(database, f"SELECT GET_LOCK('{name}', 5)").fetchone()[0] != 1:
            if time.monotonic() > give_up:
                raise StoreUnavailable("Another process has been changing the schema for ten minutes. Try again.")
        release = f"SELECT RELEASE_LOCK('{name}')"
        try:
            yield
        except BaseException:
            # It may be the connection that ended, and the lock with it: the first error is the one to tell.
            with suppress(*self.errors):
                execute(database, release)
            raise
        execute(database, release)

    def ddl(self, statement: str) -> str:
        """A portable schema statement (see `migrations`) in this dialect."""
        spelled = statement.replace("{AUTO_KEY}", "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY")
        return spelled + _TABLE_OPTIONS if spelled.upper().startswith("CREATE TABLE") else spelled

    def _safety(self) -> dict[str, object]:
        """How connections are encrypted: if the server can, and with a known authority always."""
        ca = self._settings.tls_ca
        try:
            context = ssl.create_default_context(cafile=ca or None)
        except (OSError, ssl.SSLError) as error:
            raise StoreError(f"rows.tls_ca {ca!r} cannot be read as certificates: {error}.") from error
        if ca:
            return {"context": context, "ssl_ca": ca, "ssl_verify_cert": True, "ssl_verify_identity": True}
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return {"context": context}

    def _made(self) -> Pool:
        if self._pool is None:
            raise RuntimeError("the rows are not open")
        return self._pool


def check_version(told: str) -> None:
    """Raise StoreError if `told`, a server's version, is of one too old for the SQL we send."""
    parts = told.removeprefix("5.5.5-").split("-")[0].split(".")
    version = tuple(int(part) for part in parts if part.isdigit())
    mariadb = "mariadb" in told.lower()
    if version < (_LEAST_MARIADB if mariadb else _LEAST_MYSQL):
        raise StoreError(f"The rows' server is {told}; MySQL 8.0 or MariaDB 10.6 is the oldest that will do.")
