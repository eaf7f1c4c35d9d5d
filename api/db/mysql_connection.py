"""Connections to a MySQL or MariaDB server: how values are spelled, how a dead server is told from a busy one, and
the pool that keeps them."""

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import peewee
from pymysql.connections import Connection
from pymysql.constants import CR, ER, FIELD_TYPE, SERVER_STATUS
from pymysql.converters import conversions
from pymysql.cursors import Cursor
from pymysql.err import MySQLError, OperationalError

from api.db.mysql_errors import CROWDED

_LOOK_S = 1.0
"""After this long without an answer, a fresh connection shows whether the server lives."""
_KEEPALIVE = (("TCP_KEEPIDLE", 2), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 3000))
_STATEMENT_BYTES = 1 << 20
"""A list of rows goes in statements of about this size, or smaller ones where the server asks for it."""
_GUARD = "\x01"
_GUARDED = (" ", _GUARD)
_TEXTS = (
    FIELD_TYPE.VARCHAR,
    FIELD_TYPE.VAR_STRING,
    FIELD_TYPE.STRING,
    FIELD_TYPE.TINY_BLOB,
    FIELD_TYPE.BLOB,
    FIELD_TYPE.MEDIUM_BLOB,
    FIELD_TYPE.LONG_BLOB,
)
_UNREACHABLE = frozenset((CR.CR_CONNECTION_ERROR, CR.CR_CONN_HOST_ERROR, CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST))
_NUMBERS = 1 << 63


def _unguarded(text: str) -> str:
    return text.removesuffix(_GUARD)


_CONVERSIONS = conversions | dict.fromkeys(_TEXTS, _unguarded)


class _Connection(Connection):  # type: ignore[misc]  # the package has no types
    def __init__(self, *, context: ssl.SSLContext, **options: Any) -> None:
        self._context = context
        super().__init__(**options)

    def _create_ssl_ctx(self, sslp: Any) -> ssl.SSLContext:
        """One for all: making it reads every authority of the system."""
        return self._context


class ServerConnection(_Connection):
    """A connection that waits for each answer as long as its server lives, and spells values as SQLite reads them.

    Collations pad: to the server `'a' = 'a '`, in look-ups and in unique keys, and the ones that do not pad are
    MariaDB's or MySQL's alone. So no text that ends in a blank is ever sent: a guard is put behind it, and taken off
    what comes back.

    Args:
        lives: Whether the server answers others; asked when it has been silent here for a while.
        begin: Statements that a new connection begins with.
    """

    def __init__(self, *, lives: Callable[[], bool], begin: Sequence[str], **options: Any) -> None:
        self._lives = lives
        self._poll: select.poll | None = None
        self.packet_bytes = 0
        super().__init__(**options, conv=_CONVERSIONS, cursorclass=_Cursor)
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                self._sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        with self.cursor() as cursor:
            for statement in begin:
                cursor.execute(statement)
            cursor.execute("SELECT @@max_allowed_packet")
            self.packet_bytes = int(cursor.fetchone()[0])
        self._poll = select.poll()
        self._poll.register(self._sock, select.POLLIN)

    def escape(self, obj: Any, mapping: Any = None) -> str:
        if isinstance(obj, str):
            if obj.endswith(_GUARDED):
                obj += _GUARD
        elif type(obj) is int and not -_NUMBERS <= obj < _NUMBERS:
            raise OverflowError(f"{obj} has more than 64 bits")
        escaped: str = super().escape(obj, mapping)
        return escaped

    def _execute_command(self, command: int, sql: Any) -> None:
        if isinstance(sql, str):
            sql = sql.encode(self.encoding)
        if self.packet_bytes and len(sql) >= self.packet_bytes:
            # The server would cut the connection, which looks like its end.
            raise OperationalError(
                ER.NET_PACKET_TOO_LARGE, f"a statement of {len(sql):,} bytes, the server takes {self.packet_bytes:,}"
            )
        super()._execute_command(command, sql)
        if self._poll is not None:
            self._await_answer(self._poll)

    def _await_answer(self, poll: select.poll) -> None:
        """Long statements and waits for locks may take their time; a server that is stopped may not."""
        while not poll.poll(_LOOK_S * 1000):
            if not self._lives():
                self._force_close()
                raise OperationalError(CR.CR_SERVER_LOST, "the server stopped answering")

    @property
    def reusable(self) -> bool:
        return bool(self.open) and not self.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS


class _Cursor(Cursor):  # type: ignore[misc]  # as above
    def __init__(self, connection: ServerConnection) -> None:
        super().__init__(connection)
        if connection.packet_bytes:
            self.max_stmt_length = min(_STATEMENT_BYTES, connection.packet_bytes // 2)


class Pool:
    """At most `size` connections, kept open between calls.

    Of many callers that find the server away, one waits for it at a time; the others are told at once.
    """

    def __init__(self, options: dict[str, Any], *, size: int, connect_timeout_s: float, begin: Sequence[str]) -> None:
        limits = dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), connect_timeout_s)
        self._options = options | limits
        self._begin = begin
        self._wait_s = connect_timeout_s
        self._places = threading.BoundedSemaphore(size)
        self._size = size
        self._idle: list[ServerConnection] = []
        self._idle_lock = threading.Lock()
        self._closed = False
        self._away: OperationalError | None = None
        self._trying = threading.Lock()
        self._asking = threading.Lock()
        self._asked_at = 0.0

    @property
    def away(self) -> bool:
        """Whether the server did not answer when it was last asked."""
        return self._away is not None

    def take(self) -> ServerConnection:
        """A connection that waited, or a new one."""
        if not self._places.acquire(timeout=self._wait_s):
            raise OperationalError(ER.CON_COUNT_ERROR, f"all {self._size} connections of this process are in use")
        return self._take_in_place()

    def probe(self) -> None:
        """Have the server answer. Where all places are taken, or it takes no more connections, that it lives is enough:
        who is busy is not away."""
        try:
            if not self._places.acquire(blocking=False):
                self._knock()
                return
            connection = self._take_in_place()
            try:
                connection.query("SELECT 1")
            finally:
                self.give(connection)
        except OperationalError as error:
            if error.args[0] not in CROWDED:
                raise

    def give(self, connection: ServerConnection) -> None:
        """Take `connection` back. One that broke takes those that wait with it: they met the same server."""
        try:
            with self._idle_lock:
                if connection.reusable and not self._closed:
                    self._idle.append(connection)
                    return
            if not connection.open:
                self.let_go()
            _end(connection)
        finally:
            self._places.release()

    def let_go(self, *, for_good: bool = False) -> None:
        """Close the connections that wait; `for_good`: and each one when it comes back."""
        with self._idle_lock:
            idle, self._idle = self._idle, []
            self._closed = self._closed or for_good
        for connection in idle:
            _end(connection)

    def _take_in_place(self) -> ServerConnection:
        try:
            with self._idle_lock:
                if self._idle:
                    return self._idle.pop()
            return self._connect()
        except BaseException:
            self._places.release()
            raise

    def _connect(self) -> ServerConnection:
        away = self._away
        if away is None:
            return self._try()
        if not self._trying.acquire(blocking=False):
            raise OperationalError(*away.args)
        try:
            return self._try()
        finally:
            self._trying.release()

    def _try(self) -> ServerConnection:
        try:
            connection = ServerConnection(lives=self._lives, begin=self._begin, **self._options)
        except OperationalError as error:
            raise self._noted(error) from error
        self._away = None
        return connection

    def _lives(self) -> bool:
        """Whether the server answers a new connection; those who ask together share one."""
        now = time.monotonic()
        with self._asking:
            if self._asked_at < now and not self.away:
                with suppress(OperationalError):
                    self._knock()
                self._asked_at = time.monotonic()
            return not self.away

    def _knock(self) -> None:
        """Connect, beside the pool, and hang up."""
        try:
            _Connection(**self._options).close()
        except OperationalError as error:
            raise self._noted(error) from error
        self._away = None

    def _noted(self, error: OperationalError) -> OperationalError:
        """What to say of a connection that could not be made: to all others, too, if the server is away."""
        away = error.args[0] in _UNREACHABLE
        told = OperationalError(CR.CR_CONN_HOST_ERROR if away else error.args[0], *error.args[1:])
        self._away = told if away else None
        return told


def _end(connection: ServerConnection) -> None:
    try:
        connection.close()
    except MySQLError:
        connection._force_close()


class PooledDatabase(peewee.MySQLDatabase):
    """peewee's database over a pool. Threads connect side by side: peewee's own lock would have each wait for the
    time-outs of all before it."""

    _state: Any

    def __init__(self, name: str, pool: Pool) -> None:
        super().__init__(name, autoconnect=False)
        self._pool = pool

    def connect(self, reuse_if_open: bool = False) -> bool:
        if not self.is_closed():
            raise peewee.OperationalError("This thread has a connection.")
        self._state.reset()
        self._state.set_connection(self._pool.take())
        return True

    def close(self) -> bool:
        if self.is_closed():
            return False
        connection = self._state.conn
        self._state.reset()
        self._pool.give(connection)
        return True
