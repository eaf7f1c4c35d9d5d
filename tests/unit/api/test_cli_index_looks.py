"""Looking at an installation changes no rows: neither an empty one nor one of an earlier version."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from api.cli_index import NotCompared, look_at_index, show_index
from api.db.database import Database
from api.db.migrations import migrations, newest, upgrade
from api.db.sqlite import SqliteDialect
from api.doctor import _places
from rag.core.settings import Settings, load_settings


def history(folder: Path, upto: int) -> Path:
    """A folder with the first migrations only."""
    folder.mkdir()
    for number, path in migrations().items():
        if number <= upto:
            (folder / path.name).write_text(path.read_text())
    return folder


def settings_of(folder: Path) -> Settings:
    return load_settings({"data_dir": folder}, environ={}, env_file=folder / "no.env")


def old_rows(folder: Path, schema: int, scratch: Path) -> Path:
    """The rows of a data folder as an earlier version left them."""
    folder.mkdir()
    dialect = SqliteDialect(folder / "rows.sqlite", busy_timeout_s=1)
    raw = dialect.make()
    dialect.open()
    with raw.connection_context():
        upgrade(raw, dialect, folder=history(scratch, schema))
    dialect.close()
    return folder / "rows.sqlite"


@pytest.mark.parametrize("schema", [0, newest() - 1])
def test_rows_that_are_not_of_this_version_stay_as_they_are(
    tmp_path: Path, schema: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    path = old_rows(folder, schema, tmp_path / "history")
    before = path.read_bytes()
    told = f"not looked at: the schema is {schema} of {newest()}, `parley serve` brings it up to date"
    with pytest.raises(NotCompared, match=told):
        asyncio.run(look_at_index(settings_of(folder)))
    finding = asyncio.run(_places(settings_of(folder)))
    assert (finding.state, finding.found) == ("warn" if schema else "ok", told)
    assert asyncio.run(show_index(settings_of(folder))) == (1 if schema else 0)
    assert told in " ".join(capsys.readouterr().out.split())
    assert path.read_bytes() == before
    assert Database(path, busy_timeout_s=1).examine().schema == schema
    assert not (folder / "format.lock").exists()


def test_where_there_is_nothing_nothing_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    assert asyncio.run(show_index(settings_of(folder))) == 0
    assert not folder.exists()


def test_rows_of_this_version_are_compared(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    path = old_rows(folder, newest(), tmp_path / "history")
    _, places = asyncio.run(look_at_index(settings_of(folder)))
    assert places == []
    found = sqlite3.connect(path).execute("SELECT COUNT(*) FROM schema_migration").fetchone()
    assert found == (newest(),)
