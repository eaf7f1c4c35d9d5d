"""Prints the schema of `tables.py` as portable statements: the start of a migration.

`python -m api.db.migrations.draft` gives the whole schema; take from it what changed.
"""

import sys
from collections.abc import Iterator

import peewee

from api.db.tables import ALL_TABLES, Row

_TYPES: tuple[tuple[type[peewee.Field], str], ...] = (
    (peewee.BigIntegerField, "BIGINT"),
    (peewee.BooleanField, "SMALLINT"),
    (peewee.DoubleField, "DOUBLE"),
    (peewee.TextField, "LONGTEXT"),
    (peewee.IntegerField, "INTEGER"),
)


def schema() -> Iterator[str]:
    """One statement after the other, each with its semicolon."""
    for table in ALL_TABLES:
        yield _table(table)
        yield from _indexes(table)


def _table(table: type[Row]) -> str:
    meta = table._meta
    lines = [_column(field) for field in meta.sorted_fields]
    if isinstance(meta.primary_key, peewee.CompositeKey):
        names = ", ".join(f"`{name}`" for name in meta.primary_key.field_names)
        lines.append(f"  PRIMARY KEY ({names})")
    return f"CREATE TABLE `{meta.table_name}` (\n" + ",\n".join(lines) + "\n);"


def _column(field: peewee.Field) -> str:
    if isinstance(field, peewee.AutoField):
        return f"  `{field.column_name}` {{AUTO_KEY}}"
    null = "" if field.null else " NOT NULL"
    key = " PRIMARY KEY" if field.primary_key else ""
    return f"  `{field.column_name}` {_type(field)}{null}{key}"


def _type(field: peewee.Field) -> str:
    if isinstance(field, peewee.CharField):
        return f"VARCHAR({field.max_length})"
    return next(name for kind, name in _TYPES if isinstance(field, kind))


def _indexes(table: type[Row]) -> Iterator[str]:
    meta = table._meta
    for field in meta.sorted_fields:
        if not field.primary_key and (field.index or field.unique):
            yield _index(meta.table_name, (field.column_name,), unique=field.unique)
    for names, unique in meta.indexes:
        yield _index(meta.table_name, tuple(meta.fields[name].column_name for name in names), unique=unique)


def _index(table: str, columns: tuple[str, ...], *, unique: bool) -> str:
    listed = ", ".join(f"`{column}`" for column in columns)
    kind = "UNIQUE INDEX" if unique else "INDEX"
    return f"CREATE {kind} `{table}_{'_'.join(columns)}` ON `{table}` ({listed});"


if __name__ == "__main__":
    sys.stdout.write("\n".join(schema()) + "\n")
