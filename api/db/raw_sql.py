"""Statements that are sent as text: pragmas, schema changes, and the one look-up each search makes."""

from collections.abc import Sequence
from typing import Any

import peewee


def execute(database: peewee.Database, statement: str, values: Sequence[str] = ()) -> Any:
    """Run one statement of ours and return the cursor. Input goes into `values`, never into the statement, which
    marks its places with `database.param`."""
    return database.execute_sql(statement, values)  # type: ignore[no-untyped-call]  # the stubs leave it untyped
