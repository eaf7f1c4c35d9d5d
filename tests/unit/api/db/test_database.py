import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import peewee
import pytest

from api.db.database import Database
from api.db.migrations import draft, migrations, statements, upgrade
from api.db.sqlite import SqliteDialect
from api.db.tables import Dataset, Tenant
from rag.core.errors import InvalidInput, NotFound, StoreError, StoreUnavailable

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


@pytest.mark.holds_loop("opens the rows itself")
async def test_what_was_written_is_read_by_another_opening(db: Database, tmp_path: Path) -> None:
    await db.write(insert("a"))
    db.close()
    again = Database(tmp_path / "rows.sqlite", busy_timeout_s=1)
    again.open()
    assert await again.run(names) == ["a"]
    again.close()


async def test_a_write_that_raises_is_undone(db: Database) -> None:
    def write() -> None:
        insert("a")()
        raise NotFound("thing", "x")

    with pytest.raises(NotFound):
        await db.write(write)
    assert await db.run(names) == []


async def test_a_read_that_writes_is_an_error_and_changes_nothing(db: Database) -> None:
    with pytest.raises(StoreError):
        await db.run(insert("a"))
    await db.write(insert("b"))
    assert await db.run(names) == ["b"]


async def test_a_read_sees_one_moment(db: Database) -> None:
    began, written = threading.Event(), threading.Event()

    def read() -> tuple[list[str], list[str]]:
        before = names()
        began.set()
        assert written.wait(5)
        return before, names()

    reading = asyncio.create_task(db.run(read))
    while not began.is_set():
        await asyncio.sleep(0.01)
    await db.write(insert("a"))
    written.set()
    assert await reading == ([], [])


async def test_many_writers_at_once_all_get_through(db: Database) -> None:
    await asyncio.gather(*(db.write(insert(f"{number:03}")) for number in range(100)))
    assert len(await db.run(names)) == 100


async def test_a_lock_held_elsewhere_too_long_is_unavailable_then_free_again(db: Database, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "rows.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked") as caught:
            await db.write(insert("a"))
        assert caught.value.retryable
        assert await db.run(names) == []
        other.execute("ROLLBACK")
    await db.write(insert("a"))


async def test_a_broken_uniqueness_is_a_store_error(db: Database) -> None:
    await db.write(insert("a"))
    with pytest.raises(StoreError, match="UNIQUE"):
        await db.write(insert("a"))


@pytest.mark.parametrize("value", ["\ud800", 2**70])
async def test_values_that_fit_no_row_are_invalid_input(db: Database, value: object) -> None:
    with pytest.raises(InvalidInput):
        await db.run(lambda: Tenant.get_or_none(Tenant.id == value, Tenant.create_time == value))


async def test_json_that_cannot_be_kept_is_invalid_input(db: Database) -> None:
    with pytest.raises(InvalidInput):
        await db.write(lambda: Dataset.update(parser_config={"a": "\ud800"}).execute())


async def test_lower_knows_more_than_ascii(db: Database) -> None:
    await db.write(insert("STRASSE Ä"))
    found = await db.run(lambda: Tenant.select().where(peewee.fn.LOWER(Tenant.name).contains("ä")).count())
    assert found == 1


def test_using_rows_before_they_are_open_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        Database(tmp_path / "rows.sqlite", busy_timeout_s=1).run_blocking(names)


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


def test_rows_of_a_newer_version_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    newest = max(migrations())
    first = Database(path, busy_timeout_s=1)
    first.open()
    first.close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("INSERT INTO schema_migration VALUES (?, 1)", (newest + 1,))
        other.commit()
    with pytest.raises(InvalidInput, match="newer version") as caught:
        Database(path, busy_timeout_s=1).open()
    assert "\n" not in caught.value.message


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
            table: sorted(row[1:] for row in connection.execute(f"PRAGMA table_info({table})"))
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


_WRITER = """
import asyncio, sys
from pathlib import Path
from api.db.database import Database
from api.db.tables import Tenant

async def main():
    db = Database(Path(sys.argv[1]), busy_timeout_s=10)
    db.open()
    start = await db.run(lambda: Tenant.select().count())
    def pair(n):
        for side in "ab":
            Tenant.insert(id=f"{n:06}{side}", name="x" * 500, create_time=1, update_time=1).execute()
    for n in range(start // 2, 1_000_000):
        await db.write(lambda: pair(n))
        sys.stdout.write(f"{n:06}\\n")
        sys.stdout.flush()

asyncio.run(main())
"""


def test_no_acknowledged_write_is_lost_by_a_kill(tmp_path: Path) -> None:
    """A real process is killed while it writes, again and again; pairs of one transaction stay whole."""
    path = tmp_path / "rows.sqlite"
    acknowledged: list[str] = []
    for lines in (1, 40, 150):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as child:
            assert child.stdout is not None
            for _ in range(lines):
                acknowledged.append(child.stdout.readline().strip())
            child.send_signal(signal.SIGKILL)
            acknowledged += [line.strip() for line in child.stdout if line.endswith("\n")]
        database = Database(path, busy_timeout_s=5)
        database.open()
        kept = set(database.run_blocking(names))
        database.close()
        missing = [n for n in acknowledged if not {f"{n}a", f"{n}b"} <= kept]
        assert missing == []
        assert {name[:-1] for name in kept if name.endswith("a")} == {n[:-1] for n in kept if n.endswith("b")}
    assert len(acknowledged) >= 191
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
