"""What the MySQL dialect does without a server: its words, its versions, its spelling."""

from pathlib import Path

import peewee
import pymysql
import pytest

from api.db.migrations import migrations, statements
from api.db.mysql import MysqlDialect, check_version
from rag.core.errors import InvalidInput, LimitExceeded, RagError, StoreError, StoreUnavailable
from rag.core.settings import RowsSettings

SECRET = "pass-phrase"


def dialect(**more: object) -> MysqlDialect:
    return MysqlDialect(RowsSettings(url=f"mysql://ann:{SECRET}@db.example:3307/parley", **more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "text", "error", "says"),
    [
        (1045, "Access denied for user 'ann'@'h' (using password: YES)", StoreError, "rows.password"),
        (1049, "Unknown database 'parley'", StoreError, "CREATE DATABASE"),
        (1044, "Access denied for user 'ann'@'%' to database 'parley'", StoreError, "GRANT ALL"),
        (1142, "CREATE command denied to user", StoreError, "GRANT ALL"),
        (2003, "Can't connect to MySQL server on 'h' ([Errno 111] Connection refused)", StoreUnavailable, "rows.url"),
        (2003, "Can't connect to MySQL server on 'h' ([SSL] certificate verify failed)", StoreError, "rows.tls_ca"),
        (2006, "MySQL server has gone away", StoreUnavailable, "ended the connection"),
        (2013, "Lost connection to MySQL server during query", StoreUnavailable, "ended the connection"),
        (1927, "Connection was killed", StoreUnavailable, "ended the connection"),
        (1040, "Too many connections", StoreUnavailable, "rows.pool"),
        (1205, "Lock wait timeout exceeded", StoreUnavailable, "Other writers"),
        (1213, "Deadlock found", StoreUnavailable, "Other writers"),
        (1021, "Disk full (/tmp); waiting for someone to free some space", StoreUnavailable, "Free some space"),
        (1114, "The table 'chunk' is full", StoreUnavailable, "Free some space"),
        (1153, "Got a packet bigger than 'max_allowed_packet' bytes", LimitExceeded, "max_allowed_packet"),
        (1290, "running with the --read-only option", StoreError, "takes writes"),
        (1792, "Cannot execute statement in a READ ONLY transaction", StoreError, "read tried to write"),
        (1406, "Data too long for column 'name' at row 1", LimitExceeded, "too long"),
        (1264, "Out of range value for column", InvalidInput, "cannot be kept"),
        (1062, "Duplicate entry 'a' for key 'PRIMARY'", StoreError, "UNIQUE"),
        (1064, "You have an error in your SQL syntax", StoreError, "could not be read or written"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_server_s_errors_become_one_clear_line(
    number: int, text: str, error: type[RagError], says: str, wrapped: bool
) -> None:
    raw = pymysql.OperationalError(number, text)
    told = dialect().translate(peewee.OperationalError(raw, *raw.args) if wrapped else raw)
    assert type(told) is error
    assert says in told.message
    assert str(number) in told.message
    assert "\n" not in told.message
    assert SECRET not in told.message


def test_a_connection_that_is_gone_is_told_as_lost() -> None:
    assert isinstance(dialect().translate(pymysql.InterfaceError(0, "")), StoreUnavailable)


@pytest.mark.parametrize(
    "version", ["8.0.36", "8.4.1", "9.1.0", "5.5.5-10.6.18-MariaDB-log", "10.11.19-MariaDB-0+deb12u1", "11.8.2-MariaDB"]
)
def test_servers_that_will_do(version: str) -> None:
    check_version(version)


@pytest.mark.parametrize("version", ["5.7.44", "8.0.0-dmr", "5.5.5-10.5.29-MariaDB", "10.3.1-MariaDB"])
def test_servers_that_are_too_old(version: str) -> None:
    with pytest.raises(StoreError, match=r"MySQL 8\.0 or MariaDB 10\.6"):
        check_version(version)


def test_an_authority_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("missing.pem", "ca.pem"):
        with pytest.raises(StoreError, match="tls_ca"):
            dialect(tls_ca=str(tmp_path / name)).make()


def test_tables_are_spelled_for_the_server() -> None:
    spelled = dialect().ddl("CREATE TABLE `outbox` (`id` {AUTO_KEY}, `place` VARCHAR(96) NOT NULL)")
    assert spelled == (
        "CREATE TABLE `outbox` (`id` BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, `place` VARCHAR(96) NOT NULL) "
        "ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin ROW_FORMAT=DYNAMIC"
    )
    assert dialect().ddl("DROP INDEX `a` ON `b`") == "DROP INDEX `a` ON `b`"


def test_a_dialect_shows_no_password() -> None:
    assert SECRET not in repr(dialect())


def test_every_statement_of_the_history_can_be_gone_on_from() -> None:
    """A server keeps what a statement did even when its process dies at once: repeated, it must fail by its own."""
    for path in migrations().values():
        for one in statements(path.read_text("utf-8")):
            words = " ".join(one.upper().split()[:6])
            assert words.startswith(
                ("CREATE TABLE ", "CREATE INDEX ", "CREATE UNIQUE INDEX ", "DROP TABLE ", "DROP INDEX ", "UPDATE ")
                + ("INSERT INTO ", "DELETE FROM ", "REPLACE INTO ", "ALTER TABLE ")
            ), one
            if words.startswith("ALTER TABLE"):
                assert "ADD COLUMN" in words or "DROP COLUMN" in words, one
                assert one.upper().count(" COLUMN ") == 1, one
