"""One page of a query: checked order, total before paging, stable across pages. For use inside `Database.run`."""

from dataclasses import fields
from typing import Any

import peewee

from api.db.services.records import Page
from api.db.tables import Row
from rag.core.errors import InvalidInput

_NOT_COLUMNS = frozenset(("stage", "pages_done", "pages_total", "chunks_done", "chunks_total"))


def page_of(query: Any, table: type[Row], record: type[Any], page: Page) -> tuple[list[Any], int]:
    """The rows of `page` in its order, and the number of rows of `query`.

    Page 0 is page 1; size 0 gives no rows.

    Raises:
        InvalidInput: `page.order_by` is no column of `record` (fact `field` is `orderby`), or a number is negative
            (fact `field` is `page`).
    """
    if page.number < 0 or page.size < 0:
        raise InvalidInput("Page and page size cannot be negative.", field="page")
    column = order_column(table, record, page.order_by)
    total = int(query.count())
    if page.size == 0 or total == 0:
        return [], total
    key = table._meta.fields["id"]
    order = (column.desc(), key.desc()) if page.descending else (column.asc(), key.asc())
    return list(query.order_by(*order).paginate(max(page.number, 1), page.size)), total


def order_column(table: type[Row], record: type[Any], name: str) -> peewee.Field:
    """The column behind a field of `record`."""
    known = {field.name for field in fields(record)} - _NOT_COLUMNS
    if name not in known or name not in table._meta.fields:
        raise InvalidInput(f"Cannot order by {name!r}; known: {', '.join(sorted(known))}.", field="orderby")
    column: peewee.Field = table._meta.fields[name]
    return column
