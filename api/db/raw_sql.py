"""Statements that are sent as text: pragmas and schema changes."""

from typing import Any

import peewee


def execute(database: peewee.Database, statement: str) -> Any:
    """Run one statement of ours (never made of input) and return the cursor."""
    return database.execute_sql(statement)  # type: ignore[no-untyped-call]  # the stubs leave it untyped
