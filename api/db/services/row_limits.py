"""What fits into a row, so that every engine refuses the same: SQLite alone would keep anything."""

from collections.abc import Mapping
from typing import Any

import peewee

from api.db.tables import Row
from rag.core.errors import InvalidInput, LimitExceeded

_SMALL = 1 << 31


def check_fits(table: type[Row], values: Mapping[str, Any]) -> None:
    """Look at those of `values` that are columns of `table`.

    Raises:
        LimitExceeded: a text is longer than its column; facts `field` and `limit`.
        InvalidInput: a number has more bits than its column; fact `field`.
    """
    for name, value in values.items():
        column = table._meta.fields.get(name)
        if isinstance(column, peewee.CharField) and isinstance(value, str) and len(value) > column.max_length:
            raise LimitExceeded(
                f"{name!r} has at most {column.max_length} characters.", field=name, limit=column.max_length
            )
        small = isinstance(column, peewee.IntegerField) and not isinstance(column, peewee.BigIntegerField)
        if small and isinstance(value, int) and not -_SMALL <= value < _SMALL:
            raise InvalidInput(f"{name!r} must lie between {-_SMALL} and {_SMALL - 1}.", field=name)
