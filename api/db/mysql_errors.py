"""What the errors of a MySQL or MariaDB server mean, and what to do about them."""

from collections.abc import Iterable

from pymysql.constants import CR, ER

from rag.core.errors import InvalidInput, LimitExceeded, RagError, StoreError, StoreUnavailable

_DEADLOCK, _LOCK_WAIT = ER.LOCK_DEADLOCK, ER.LOCK_WAIT_TIMEOUT
# Numbers that the driver has no names for.
_KILLED, _IDLE_TOO_LONG, _SERVER_LOST_EXTENDED, _TLS_FAILED = 1927, 4031, 2055, 2026
_NO_PASSWORD, _READ_ONLY_TRANSACTION, _CANNOT_CONVERT, _DUPLICATE_WITH_KEY = 1698, 1792, 3988, 1586
_LOST = frozenset(
    (
        CR.CR_SERVER_GONE_ERROR,
        CR.CR_SERVER_LOST,
        _SERVER_LOST_EXTENDED,
        ER.SERVER_SHUTDOWN,
        ER.ABORTING_CONNECTION,
        _KILLED,
        _IDLE_TOO_LONG,
    )
)
ALREADY_DONE = frozenset(
    (ER.TABLE_EXISTS_ERROR, ER.DUP_FIELDNAME, ER.DUP_KEYNAME, ER.CANT_DROP_FIELD_OR_KEY, ER.BAD_TABLE_ERROR)
)
"""What a schema statement says that was carried out before."""

CROWDED = frozenset((ER.CON_COUNT_ERROR, ER.TOO_MANY_USER_CONNECTIONS, ER.USER_LIMIT_REACHED))
"""What a server says that lives, but takes no more connections; and the pool, of itself."""


def number_of(error: BaseException) -> int:
    """The server's or the driver's number of an error, peewee's wrapping or not; 0 without one."""
    return next((part for part in error.args if isinstance(part, int)), 0)


def is_lost(error: BaseException) -> bool:
    """Whether the connection ended; what it had not committed is undone."""
    number = number_of(error)
    return number in _LOST or (number == 0 and "InterfaceError" in type(error).__name__)


def is_lock_failure(error: BaseException) -> bool:
    """Whether the transaction lost against others, and may win when it is run again."""
    return number_of(error) in (_DEADLOCK, _LOCK_WAIT)


Meaning = tuple[type[RagError], str]
"""The class of ours, and its message: `{server}` is where the server is, `{said}` what it said."""

_NOT_TRUSTED: Meaning = (
    StoreError,
    "No safe connection to the rows' server {server} ({said}). Check rows.tls_ca and the host name.",
)
_UNREACHABLE: Meaning = (
    StoreUnavailable,
    "The rows' server {server} cannot be reached ({said}). Is it running, and rows.url right?",
)
_ENDED: Meaning = (StoreUnavailable, "The rows' server {server} ended the connection ({said}). Try again.")
_UNKNOWN: Meaning = (StoreError, "The rows could not be read or written: {said}")
_MEANINGS: tuple[tuple[Iterable[int], Meaning], ...] = (
    ((CR.CR_CONNECTION_ERROR, CR.CR_CONN_HOST_ERROR, CR.CR_UNKNOWN_HOST), _UNREACHABLE),
    ((_TLS_FAILED,), _NOT_TRUSTED),
    (
        (_DEADLOCK, _LOCK_WAIT),
        (StoreUnavailable, "Other writers held rows on {server} for too long ({said}). Try again."),
    ),
    # 28 is the operating system's "no space left", told in three ways.
    (
        (ER.DISK_FULL, ER.RECORD_FILE_FULL, ER.ERROR_ON_WRITE, ER.CANT_CREATE_FILE, 1030, 3675),
        (
            StoreUnavailable,
            "The rows' server {server} cannot write ({said}). Free some space there and try again.",
        ),
    ),
    (
        CROWDED,
        (
            StoreUnavailable,
            "The rows' server {server} takes no more connections ({said}). Raise its max_connections or lower "
            "rows.pool.",
        ),
    ),
    (
        (ER.ACCESS_DENIED_ERROR, _NO_PASSWORD, 1251, 1275),
        (
            StoreError,
            "The rows' server {server} refuses the login ({said}). Check rows.password and the user's name.",
        ),
    ),
    (
        (ER.BAD_DB_ERROR, ER.DBACCESS_DENIED_ERROR),
        (
            StoreError,
            "The rows' server {server} has no such database, or this user may not use it ({said}). Create it there "
            "with CREATE DATABASE, and GRANT ALL on it.",
        ),
    ),
    (
        (ER.TABLEACCESS_DENIED_ERROR, ER.COLUMNACCESS_DENIED_ERROR, ER.SPECIFIC_ACCESS_DENIED_ERROR),
        (
            StoreError,
            "The user of rows.url lacks a right on {server} ({said}). GRANT ALL on the database to it.",
        ),
    ),
    (
        (ER.OPTION_PREVENTS_STATEMENT, 1836, 3100),
        (
            StoreError,
            "The rows' server {server} is read only ({said}). Name the one that takes writes in rows.url.",
        ),
    ),
    (
        (_READ_ONLY_TRANSACTION,),
        (StoreError, "Rows were written where they may only be read: a read tried to write ({said})."),
    ),
    (
        (ER.NET_PACKET_TOO_LARGE, ER.TOO_LONG_STRING),
        (LimitExceeded, "That is more than {server} takes at once ({said}). Raise its max_allowed_packet."),
    ),
    ((ER.DATA_TOO_LONG,), (LimitExceeded, "A text is too long to be kept ({said}).")),
    (
        (ER.WARN_DATA_OUT_OF_RANGE, ER.TRUNCATED_WRONG_VALUE_FOR_FIELD, _CANNOT_CONVERT),
        (InvalidInput, "A text or a number cannot be kept or looked up ({said})."),
    ),
    (
        (ER.DUP_ENTRY, _DUPLICATE_WITH_KEY),
        (StoreError, "The rows could not be written: a UNIQUE key has this value already ({said})."),
    ),
)
_MEANING_OF = {number: meaning for numbers, meaning in _MEANINGS for number in numbers}


def translated(error: BaseException, server: str) -> RagError:
    """The error of ours for one of the driver; `server` is its address."""
    said = _words(error)
    cls, text = _ENDED if is_lost(error) else _MEANING_OF.get(number_of(error), _UNKNOWN)
    if (cls, text) == _UNREACHABLE and ("SSL" in said or "certificate" in said):
        cls, text = _NOT_TRUSTED
    return cls(text.format(server=server, said=said))


def _words(error: BaseException) -> str:
    """What the server said, in one line."""
    texts = [part for part in error.args if isinstance(part, str) and part]
    number = number_of(error)
    text = " ".join((texts[-1] if texts else str(error) or type(error).__name__).split())
    return f"{number}: {text}" if number else text
