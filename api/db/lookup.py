"""Look-ups that nearly every request makes. Composing such a statement takes ten times as long as its answer, so it is
composed once for each engine; values still go beside it, never into it."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import peewee

from api.db.tables import Row, database_proxy

R = TypeVar("R", bound=Row)


class Lookup(Generic[R]):
    """The first row of a select. For use inside `Database.run` and `Database.write`.

    Args:
        select: Makes the select from its values, which are texts. It may use each of them once and not look at them.
        count: How many values there are.
    """

    def __init__(self, table: type[R], select: Callable[..., Any], count: int) -> None:
        self._table = table
        self._select = select
        self._marks = tuple(f"value {number}" for number in range(count))
        self._composed: dict[type[peewee.Database], tuple[str, list[Any], list[int]]] = {}

    def first(self, *values: str) -> R | None:
        """The row for `values`, or None."""
        statement, fixed, places = self._for_engine(type(database_proxy.obj))
        arguments = list(fixed)
        for place, value in zip(places, values, strict=True):
            arguments[place] = value
        for row in self._table.raw(statement, *arguments):
            return row  # type: ignore[no-any-return]  # peewee is untyped
        return None

    def _for_engine(self, engine: type[peewee.Database]) -> tuple[str, list[Any], list[int]]:
        """Statement, its arguments with marks in the places of the values, and these places in order."""
        found = self._composed.get(engine)
        if found is None:
            statement, arguments = self._select(*self._marks).limit(1).sql()
            found = self._composed[engine] = statement, arguments, [arguments.index(mark) for mark in self._marks]
        return found
