from collections.abc import Iterator
from pathlib import Path

import peewee
import pytest

from api.db.mysql import _TABLE_OPTIONS, MysqlDialect
from api.db.tables import ALL_TABLES, SchemaMigration
from tests.servers.mariadb import connect, fresh_database
from tests.unit.api.db.portable_sql import not_portable
from tests.unit.api.db.rows import Rows
from tests.unit.api.db.services.world import World


@pytest.fixture(scope="session")
def one_database(mysql_url: str) -> Iterator[str]:
    """A database with the schema in it, for all tests of the run: making one takes half a second."""
    address = fresh_database(mysql_url)
    database = Rows(address).database()
    database.open()
    database.close()
    yield address
    execute(mysql_url, f"DROP DATABASE {address.rsplit('/', 1)[1]}")


@pytest.fixture
def wiped_rows(one_database: str) -> Rows:
    wiped = [f"DELETE FROM `{table._meta.table_name}`" for table in ALL_TABLES if table is not SchemaMigration]
    execute(one_database, *wiped, "DELETE FROM `schema_migration` WHERE `applied_at` = 1")
    return Rows(one_database)


@pytest.fixture
def rows(wiped_rows: Rows) -> Rows:
    return wiped_rows


@pytest.fixture
def world(tmp_path: Path, rows: Rows) -> Iterator[World]:
    made = World(tmp_path, rows.database())
    yield made
    made.db.close()


@pytest.fixture
def empty_database(mysql_url: str) -> Iterator[str]:
    """The address of a database without tables."""
    address = fresh_database(mysql_url)
    yield address
    execute(mysql_url, f"DROP DATABASE {address.rsplit('/', 1)[1]}")


def execute(address: str, *statements: str) -> list[tuple[object, ...]]:
    """Run statements on a connection of its own; the rows of the last."""
    connection = connect(address)
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())
    finally:
        connection.close()


@pytest.fixture(autouse=True)
def portable_sql(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that is sent to the server is understood by one kind of server alone."""
    sent: set[str] = set()
    real = MysqlDialect.make

    def make(dialect: MysqlDialect) -> peewee.Database:
        database = real(dialect)
        database.query_hooks.append(lambda event: sent.add(event.sql.removesuffix(_TABLE_OPTIONS)))
        return database

    monkeypatch.setattr(MysqlDialect, "make", make)
    yield
    found = {statement: what for statement in sent if (what := not_portable(statement))}
    assert found == {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests look at rows where they stand, on the loop; in a file that took no time."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.holds_loop("looks at rows itself, over a socket"))
