"""What is particular to rows in a SQLite file; what all rows have in common is in `test_rows.py`."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import peewee
import pytest

from api.db.database import Database
from api.db.migrations import draft, migrations, statements, upgrade
from api.db.sqlite import SqliteDialect
from api.db.tables import Tenant
from rag.core.errors import StoreError, StoreUnavailable

ROOT = Path(__file__).parents[4]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "rows.sqlite", busy_timeout_s=0.3)
    database.open()
    yield database
    database.close()


def insert(name: str) -> Callable[[], None]:
    def write() -> None:
        Tenant.insert(id=name, name=name, create_time=1, update_time=1).execute()

    return write


def names() -> list[str]:
    return [row.id for row in Tenant.select().order_by(Tenant.id)]


async def test_a_lock_held_elsewhere_too_long_is_unavailable_then_free_again(db: Database, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "rows.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked") as caught:
            await db.write(insert("a"))
        assert caught.value.retryable
        assert await db.run(names) == []
        other.execute("ROLLBACK")
    await db.write(insert("a"))


async def test_rows_are_private_and_in_wal_mode(db: Database, tmp_path: Path) -> None:
    assert (tmp_path / "rows.sqlite").stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(tmp_path / "rows.sqlite")) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize(("content", "says"), [(b"not a database" * 100, "damaged"), (None, "cannot be opened")])
def test_a_file_that_is_no_database_is_one_clear_error(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "rows.sqlite"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=says):
        Database(path, busy_timeout_s=1).open()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("database is locked", StoreUnavailable),
        ("database or disk is full", StoreUnavailable),
        ("disk I/O error", StoreUnavailable),
        ("unable to open database file", StoreUnavailable),
        ("attempt to write a readonly database", StoreError),
        ("database disk image is malformed", StoreError),
        ("near x: syntax error", StoreError),
    ],
)
def test_engine_errors_become_one_clear_line(tmp_path: Path, text: str, error: type[StoreError]) -> None:
    translated = SqliteDialect(tmp_path / "rows.sqlite", busy_timeout_s=1).translate(peewee.OperationalError(text))
    assert type(translated) is error
    assert "\n" not in str(translated)


async def test_a_full_disk_is_unavailable_and_loses_nothing(db: Database, tmp_path: Path) -> None:
    await db.write(insert("kept"))

    def fill() -> None:
        Tenant._meta.database.execute_sql("PRAGMA max_page_count = 1")
        for number in range(1000):
            insert(f"{number:03}" + "x" * 20)()

    with pytest.raises(StoreUnavailable, match="is full"):
        await db.write(fill)
    assert await db.run(names) == ["kept"]
    await db.write(insert("later"))


def test_migrations_make_the_tables(tmp_path: Path) -> None:
    """The history and `tables.py` agree: a changed table needs a migration."""
    made, drawn = tmp_path / "made.sqlite", tmp_path / "drawn.sqlite"
    database = Database(made, busy_timeout_s=1)
    database.open()
    database.close()
    dialect = SqliteDialect(drawn, busy_timeout_s=1)
    with closing(sqlite3.connect(drawn)) as connection:
        for statement in statements("\n".join(draft.schema())):
            connection.execute(dialect.ddl(statement))
    assert _shape(made) == _shape(drawn)


def _shape(path: Path) -> dict[str, object]:
    with closing(sqlite3.connect(path)) as connection:
        tables = [r[0] for r in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        shape: dict[str, object] = {
            # Without defaults: what a later migration added to a table with rows needed one, peewee always sends all.
            table: sorted((*row[1:4], row[5]) for row in connection.execute(f"PRAGMA table_info({table})"))
            for table in tables
            if not table.startswith("sqlite_")
        }
        indexes = connection.execute("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'index'")
        shape["indexes"] = sorted(row for row in indexes if row[2])
    return shape


def test_a_migration_is_applied_once_and_whole(tmp_path: Path) -> None:
    a, b = "CREATE TABLE `a` (`x` INTEGER);", "CREATE TABLE `b` (`x` INTEGER);"
    folder = tmp_path / "history"
    folder.mkdir()
    (folder / "0001_first.sql").write_text(
        "CREATE TABLE `schema_migration` (`number` INTEGER PRIMARY KEY, `applied_at` BIGINT);\n" + a
    )
    dialect = SqliteDialect(tmp_path / "rows.sqlite", busy_timeout_s=1)
    database = dialect.make()
    with database.connection_context():
        assert upgrade(database, dialect, folder=folder) == 1
        (folder / "0002_second.sql").write_text(f"-- why\n{b}\n{a}")
        with pytest.raises(peewee.OperationalError):
            upgrade(database, dialect, folder=folder)
        assert not database.table_exists("b")
        (folder / "0002_second.sql").write_text(b)
        assert upgrade(database, dialect, folder=folder) == 2
        assert upgrade(database, dialect, folder=folder) == 2
        assert database.table_exists("b")


def test_a_gap_in_the_numbers_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "0001_a.sql").write_text("")
    (tmp_path / "0003_c.sql").write_text("")
    with pytest.raises(RuntimeError, match="without gaps"):
        migrations(tmp_path)
