"""The schema's history on a server: forward from every version, whatever ends it half-way, one process at a time."""

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from api.cli_index import show_index
from api.db.migrations import draft, migrations, statements, upgrade
from api.db.mysql import MysqlDialect
from api.db.tables import ALL_TABLES, Chunk, Document, UsageDay
from api.doctor import _places
from rag.core.settings import RowsSettings, load_settings
from tests.integration.rows.conftest import execute
from tests.integration.rows.test_races import at_once
from tests.unit.api.db.rows import Rows

ROOT = Path(__file__).parents[3]
_WAIT_S = 30
_FOLDED = 3  # This migration folds the names that it finds.
_PRICED, _COUNTED = 6, 8  # These name the providers of calls, and count the calls of each day.


def dialect_of(address: str) -> MysqlDialect:
    return MysqlDialect(RowsSettings(url=address))


def history(folder: Path, upto: int) -> Path:
    """A folder with the first migrations only."""
    folder.mkdir(exist_ok=True)
    for number, path in migrations().items():
        if number <= upto:
            (folder / path.name).write_text(path.read_text())
    return folder


def shape(address: str) -> dict[str, object]:
    """Columns and keys of each table, in no order; without defaults, which only later migrations need."""
    name = address.rsplit("/", 1)[1]
    columns = execute(
        address,
        "SELECT table_name, column_name, column_type, is_nullable, collation_name, extra "
        f"FROM information_schema.columns WHERE table_schema = '{name}' AND table_name <> 'schema_step'",
    )
    keys = execute(
        address,
        "SELECT table_name, index_name, non_unique, seq_in_index, column_name FROM information_schema.statistics "
        f"WHERE table_schema = '{name}' AND table_name <> 'schema_step'",
    )
    return {"columns": sorted(map(str, columns)), "keys": sorted(map(str, keys))}


def test_migrations_make_the_tables(empty_database: str, mysql_url: str) -> None:
    """The history and `tables.py` agree on a server, too."""
    database = Rows(empty_database).database()
    database.open()
    database.close()
    made = shape(empty_database)
    tables = [table._meta.table_name for table in ALL_TABLES]
    execute(empty_database, *(f"DROP TABLE `{table}`" for table in tables))
    dialect = dialect_of(empty_database)
    execute(empty_database, *(dialect.ddl(one) for one in statements("\n".join(draft.schema()))))
    assert made == shape(empty_database)


def test_texts_compare_by_their_bytes_and_hold_all_of_unicode(one_database: str) -> None:
    found = execute(
        one_database,
        "SELECT DISTINCT collation_name FROM information_schema.columns "
        f"WHERE table_schema = '{one_database.rsplit('/', 1)[1]}' AND collation_name IS NOT NULL",
    )
    assert found == [("utf8mb4_bin",)]


@pytest.mark.parametrize("engine", ["sqlite", "mysql"])
@pytest.mark.parametrize("version", range(1, max(migrations())))
def test_an_earlier_version_with_rows_is_brought_forward(
    tmp_path: Path, engine: str, version: int, request: pytest.FixtureRequest
) -> None:
    address = str(tmp_path / "rows.sqlite") if engine == "sqlite" else request.getfixturevalue("empty_database")
    rows = Rows(address)
    old = rows.database()
    dialect = old._dialect
    raw = dialect.make()
    dialect.open()
    with raw.connection_context():
        assert upgrade(raw, dialect, folder=history(tmp_path / "history", version)) == version
        with dialect.writing(raw):
            for statement in _ROWS:
                raw.execute_sql(statement)
    dialect.close()
    database = rows.database()
    database.open()
    documents = database.run_blocking(lambda: list(Document.select().order_by(Document.id)))
    assert [(row.id, row.name, row.name_fold) for row in documents] == [
        ("d1", "Ärger Report.PDF", "ärger report.pdf" if version < _FOLDED else ""),
        ("d2", "b.txt", "b.txt" if version < _FOLDED else ""),
    ]
    assert documents[0].parser_config == {"a": 1}
    assert database.run_blocking(lambda: Chunk.get().content) == "text 😀"
    outbox = database.run_blocking(lambda: database._opened().execute_sql("SELECT * FROM outbox").fetchall())
    assert [row[1:3] + row[-2:] for row in outbox] == [("p", "delete", 0, 0)]
    days = database.run_blocking(lambda: list(UsageDay.select()))
    counted = [(day.day, day.provider, day.calls, day.retries, day.failures, day.prompt_tokens) for day in days]
    assert counted == ([(86_400_000, "P" if version < _PRICED else "", 2, 1, 1, 40)] if version < _COUNTED else [])
    assert all((day.durations, day.unpriced, day.cost_usd) == ({}, 2, 0) for day in days)
    database.close()
    again = rows.database()
    again.open()
    again.close()


_DOCUMENT = (
    "INSERT INTO document (id, create_time, update_time, dataset_id, tenant_id, created_by, name, location, suffix, "
    "type, size, sha256, blob_key, chunk_method, parser_config, source_type, run, progress, progress_msg, "
    "process_duration, chunk_count, token_count, meta_fields, enabled) VALUES "
    "('{id}', 1, 1, 'ds', 't', 't', '{name}', '{id}', '', 'doc', 1, 'x', 'x', 'naive', '{{\"a\":1}}', 'local', "
    "'DONE', 1.0, '', 0.5, 1, 1, '{{}}', 1)"
)
_CALL = (
    "INSERT INTO `usage` (tenant_id, model, purpose, prompt_tokens, completion_tokens, estimated, duration_ms, "
    "attempts, outcome, create_time) VALUES ('t', 'm@P', 'answer', 20, 2, 0, 1.5, {attempts}, '{outcome}', {time})"
)
_ROWS = (
    _DOCUMENT.format(id="d1", name="Ärger Report.PDF"),
    _DOCUMENT.format(id="d2", name="b.txt"),
    "INSERT INTO chunk VALUES ('d1', 'v', 'c', 'ds', 0, 'text 😀', '[]', '[]', NULL, 0.5, 1, '[]', '[]', 1, '', "
    "'text', 1)",
    "INSERT INTO outbox (place, action, payload, create_time) VALUES ('p', 'delete', '{}', 5)",
    _CALL.format(outcome="ok", attempts=2, time=86_400_005),
    _CALL.format(outcome="model_refused", attempts=1, time=172_799_999),
)


def test_starters_at_once_take_turns(empty_database: str) -> None:
    at_once(Rows(empty_database), "upgrade", 4)
    assert execute(empty_database, "SELECT MAX(`number`), COUNT(*) FROM schema_migration") == [
        (max(migrations()), max(migrations()))
    ]


_SLOW = """
import sys, time
from api.db import mysql
from tests.unit.api.db.rows import Rows

real = mysql.execute
def slow(database, statement, *values):
    done = real(database, statement, *values)
    print(statement.split(chr(10))[0], flush=True)
    time.sleep(0.03)
    return done

mysql.execute = slow
Rows(sys.argv[1]).database().open()
print("open", flush=True)
"""


@pytest.mark.parametrize("noted", [False, True])
def test_a_kill_between_any_two_statements_is_gone_on_from(empty_database: str, noted: bool) -> None:
    """A process is killed after each statement of the history in turn, before and after that was noted."""
    wanted, kills, told = "REPLACE INTO `schema_step`" if noted else "", 0, ""
    step = 9 if noted else 11
    while told != "open":
        with subprocess.Popen(
            [sys.executable, "-c", _SLOW, empty_database], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as child:
            assert child.stdout is not None
            lines = changes = 0
            for line in child.stdout:
                told = line.strip()
                lines += told.startswith(wanted)
                changes += told.startswith(("CREATE TABLE", "CREATE INDEX", "CREATE UNIQUE", "ALTER", "UPDATE"))
                if told == "open" or (lines >= step and changes and (noted or told.startswith(("CREATE", "ALTER")))):
                    break
            if told != "open":
                child.send_signal(signal.SIGKILL)
                kills += 1
    assert kills > 4
    rows = Rows(empty_database)
    began = time.monotonic()
    database = rows.database()
    database.open()
    assert database.run_blocking(lambda: Document.select().count()) == 0
    database.close()
    assert time.monotonic() - began < _WAIT_S
    found = shape(empty_database)
    execute(empty_database, *(f"DROP TABLE `{table._meta.table_name}`" for table in ALL_TABLES))
    dialect = dialect_of(empty_database)
    execute(empty_database, *(dialect.ddl(one) for one in statements("\n".join(draft.schema()))))
    assert found == shape(empty_database)


@pytest.mark.parametrize("schema", [0, max(migrations()) - 1])
def test_a_look_leaves_an_earlier_schema_as_it_is(empty_database: str, schema: int, tmp_path: Path) -> None:
    if schema:
        dialect = dialect_of(empty_database)
        raw = dialect.make()
        with raw.connection_context():
            upgrade(raw, dialect, folder=history(tmp_path / "history", schema))
        dialect.close()
    before = shape(empty_database)
    folder = tmp_path / "data"
    settings = load_settings({"data_dir": folder, "rows": {"url": empty_database}}, environ={})
    told = f"not looked at: the schema is {schema} of {max(migrations())}"
    finding = asyncio.run(_places(settings))
    assert finding.found.startswith(told)
    assert asyncio.run(show_index(settings)) == (1 if schema else 0)
    assert Rows(empty_database).database().examine().schema == schema
    assert shape(empty_database) == before
    assert not folder.exists()
