"""The schema's history: `NNNN_<effect>.sql`, numbered from 1 without gaps, applied forward only.

Each file is a list of statements that SQLite and MySQL both read: back-quoted names, LONGTEXT for text of any
length, `{AUTO_KEY}` for a counting primary key and `DROP INDEX a ON b` (spelled by the dialect). A statement either
changes the schema or rows; one that was carried out, but not noted, before its process died must say so when it is
repeated (CREATE, ADD, DROP do). Files that were released never change; a later change is a new file.
`python -m api.db.migrations.draft` prints what `tables.py` would need from nothing.
"""

import re
from collections.abc import Callable, Sequence
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

    def table_exists(self, database: peewee.Database, table: str) -> bool: ...
    def migrate(
        self, database: peewee.Database, number: int, steps: Sequence[str], *, is_missing: Callable[[], bool]
    ) -> None:
        """Apply the `steps` of migration `number` if it `is_missing` once nobody else can apply it, too.

        A process that dies meanwhile leaves nothing of it, or what the next one goes on with.
        """
        ...


def migrations(folder: Path = _FOLDER) -> dict[int, Path]:
    """The files by number, in order."""
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match:
            if int(match[1]) in found:
                raise RuntimeError(f"two migrations have the number of {path.name}")
            found[int(match[1])] = path
    if list(found) != list(range(1, len(found) + 1)):
        raise RuntimeError(f"migrations are not numbered 1 to {len(found)} without gaps: {list(found)}")
    return found


def statements(text: str) -> list[str]:
    """The statements of a file; comments are whole lines that start with two hyphens."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("--"))
    return [part.strip() for part in "\n".join(lines).split(";") if part.strip()]


def newest(folder: Path = _FOLDER) -> int:
    """The number of the last migration that this program knows."""
    return max(migrations(folder), default=0)


def applied(database: peewee.Database, dialect: MigrationDialect) -> int:
    """The number of the last migration these rows have seen; 0 for an empty file."""
    if not dialect.table_exists(database, "schema_migration"):
        return 0
    row = execute(database, "SELECT MAX(`number`) FROM `schema_migration`").fetchone()
    return int(row[0] or 0)


def upgrade(database: peewee.Database, dialect: MigrationDialect, *, folder: Path = _FOLDER) -> int:
    """Apply what is missing, one migration after the other, and return the number reached.

    Several processes may do this at once: they take turns.

    Raises:
        InvalidInput: the rows have seen a migration that is not in `folder`.
    """
    known = migrations(folder)
    newest = max(known, default=0)
    while (current := applied(database, dialect)) < newest:
        number = current + 1
        done = f"INSERT INTO `schema_migration` (`number`, `applied_at`) VALUES ({number}, {now_ms(SystemClock())})"
        steps = [*statements(known[number].read_text("utf-8")), done]
        dialect.migrate(database, number, steps, is_missing=lambda: applied(database, dialect) == current)
    if current > newest:
        raise InvalidInput(
            f"The rows were written by a newer version (schema {current}, this one knows {newest}). "
            "Use that version, or another data folder."
        )
    return current
