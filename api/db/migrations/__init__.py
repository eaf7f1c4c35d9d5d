"""The schema's history: `NNNN_<effect>.sql`, numbered from 1 without gaps, applied forward only.

Each file is a list of statements that SQLite and MySQL both read: back-quoted names, LONGTEXT for text of any
length, `{AUTO_KEY}` for a counting primary key (spelled by the dialect). Files that were released never change;
a later change is a new file. `python -m api.db.migrations.draft` prints what `tables.py` would need from nothing.
"""

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import peewee

from api.db.raw_sql import execute
from rag.core.clock import SystemClock, now_ms
from rag.core.errors import InvalidInput

_FOLDER = Path(__file__).parent
_NAME = re.compile(r"(\d{4})_\w+\.sql")


class MigrationDialect(Protocol):
    """What applying a migration needs of an engine."""

    def ddl(self, statement: str) -> str: ...
    def table_exists(self, database: peewee.Database, table: str) -> bool: ...
    def writing(self, database: peewee.Database) -> AbstractContextManager[None]: ...


def migrations(folder: Path = _FOLDER) -> dict[int, Path]:
    """The files by number, in order."""
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match:
            found[int(match[1])] = path
    if list(found) != list(range(1, len(found) + 1)):
        raise RuntimeError(f"migrations are not numbered 1 to {len(found)} without gaps: {list(found)}")
    return found


def statements(text: str) -> list[str]:
    """The statements of a file; comments are whole lines that start with two hyphens."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("--"))
    return [part.strip() for part in "\n".join(lines).split(";") if part.strip()]


def applied(database: peewee.Database, dialect: MigrationDialect) -> int:
    """The number of the last migration these rows have seen; 0 for an empty file."""
    if not dialect.table_exists(database, "schema_migration"):
        return 0
    row = execute(database, "SELECT MAX(`number`) FROM `schema_migration`").fetchone()
    return int(row[0] or 0)


def upgrade(database: peewee.Database, dialect: MigrationDialect, *, folder: Path = _FOLDER) -> int:
    """Apply what is missing, each migration in its own transaction, and return the number reached.

    Several processes may do this at once: each looks again under the writer lock.

    Raises:
        InvalidInput: the rows have seen a migration that is not in `folder`.
    """
    known = migrations(folder)
    newest = max(known, default=0)
    while (current := applied(database, dialect)) < newest:
        with dialect.writing(database):
            if applied(database, dialect) != current:
                continue
            for statement in statements(known[current + 1].read_text("utf-8")):
                execute(database, dialect.ddl(statement))
            execute(
                database,
                f"INSERT INTO `schema_migration` (`number`, `applied_at`) "
                f"VALUES ({current + 1}, {now_ms(SystemClock())})",
            )
    if current > newest:
        raise InvalidInput(
            f"The rows were written by a newer version (schema {current}, this one knows {newest}). "
            "Use that version, or another data folder."
        )
    return current
