"""Statements that are sent as text: pragmas, schema changes, the one look-up each search makes, the one insert that
ingestion makes."""

from collections.abc import Iterable, Sequence
from typing import Any

import peewee


def execute(database: peewee.Database, statement: str, values: Sequence[str] = ()) -> Any:
    """Run one statement of ours and return the cursor. Input goes into `values`, never into the statement, which
    marks its places with `database.param`."""
    return database.execute_sql(statement, values)  # type: ignore[no-untyped-call]  # the stubs leave it untyped


def execute_many(database: peewee.Database, statement: str, rows: Iterable[Sequence[object]]) -> None:
    """Run one statement of ours for each of `rows`, whose values the engine takes as they are. A server gets many rows
    at once, in statements that it says it takes."""
    database.cursor().executemany(statement, list(rows))  # type: ignore[no-untyped-call]  # as above
