"""Filters and selectors as LanceDB's SQL, built from typed values only."""

from collections.abc import Iterable

from rag.store.base import Filter, Selector

NOTHING = "false"


def quoted(value: str) -> str:
    """`value` as an SQL string literal; the one place where quotes are doubled.

    NUL cannot be written in a literal: no stored id holds it, so what is left of such a value still matches nothing.
    """
    return "'" + value.replace("\x00", "\ufffd").replace("'", "''") + "'"


def one_of(column: str, values: Iterable[str]) -> str:
    """`column IN (...)`; false for no values."""
    listed = ", ".join(quoted(value) for value in sorted(set(values)))
    return f"{column} IN ({listed})" if listed else NOTHING


def of_filter(wanted: Filter) -> str:
    """The condition of a search."""
    parts = ["available = true", one_of("dataset_id", wanted.dataset_ids)]
    if wanted.document_ids is not None:
        parts.append(one_of("document_id", wanted.document_ids))
    if wanted.without_versions:
        parts.append(f"NOT ({one_of('version_id', wanted.without_versions)})")
    return NOTHING if NOTHING in parts else " AND ".join(parts)


def of_selector(selector: Selector) -> str:
    """The condition of a delete."""
    parts = [
        one_of(column, values)
        for column, values in (
            ("version_id", selector.version_ids),
            ("document_id", selector.document_ids),
            ("dataset_id", selector.dataset_ids),
        )
        if values
    ]
    return " OR ".join(parts) if parts else NOTHING
