"""Conditions on documents' `meta_fields`: of a retrieval request (chunks.md section 7), of a chat, or model-made.

What is asked for and what is stored are compared as values here, after the rows were read by the principal's datasets:
no part of a condition reaches SQL, a pattern or any other language.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api.db.services.owned import in_groups
from api.db.tables import Document
from rag.core.types import Principal

Test = Callable[[str, str], bool]
Fields = Mapping[str, Mapping[str, Any]]
"""`meta_fields` by document id."""
_MOST_CONDITIONS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """`operator` is one of `OPERATORS`; any other one matches nothing."""

    key: str
    operator: str
    value: str


def _compare(by_number: Callable[[float, float], bool], by_text: Callable[[str, str], bool]) -> Test:
    def test(stored: str, wanted: str) -> bool:
        try:
            return by_number(float(stored), float(wanted))
        except ValueError:
            return by_text(stored, wanted)

    return test


OPERATORS: Mapping[str, Test] = {
    "contains": lambda stored, wanted: wanted.lower() in stored.lower(),
    "not contains": lambda stored, wanted: wanted.lower() not in stored.lower(),
    "start with": lambda stored, wanted: stored.lower().startswith(wanted.lower()),
    "end with": lambda stored, wanted: stored.lower().endswith(wanted.lower()),
    "empty": lambda stored, _: not stored,
    "not empty": lambda stored, _: bool(stored),
    "=": _compare(lambda a, b: a == b, lambda a, b: a == b),
    "≠": _compare(lambda a, b: a != b, lambda a, b: a != b),
    ">": _compare(lambda a, b: a > b, lambda a, b: a > b),
    "<": _compare(lambda a, b: a < b, lambda a, b: a < b),
    "≥": _compare(lambda a, b: a >= b, lambda a, b: a >= b),
    "≤": _compare(lambda a, b: a <= b, lambda a, b: a <= b),
}
_SPELLINGS = {"is": "=", "not is": "≠"}


def operator_named(name: str) -> str:
    """The operator that `name` stands for; `name` itself where it is no other spelling of one."""
    return _SPELLINGS.get(name, name)


def matching(fields: Fields, conditions: Sequence[Condition]) -> tuple[str, ...]:
    """The documents that meet all `conditions`. One without a condition's key never does; of a list one value must."""
    return tuple(
        document_id for document_id, meta in fields.items() if all(_meets(meta, condition) for condition in conditions)
    )


def known_keys(fields: Fields) -> frozenset[str]:
    """The keys that any of the documents has."""
    return frozenset(key for meta in fields.values() for key in meta)


def manual_conditions(listed: Any) -> tuple[Condition, ...]:
    """The conditions of a chat's `{"method": "manual", "manual": [{"key", "op", "value"}]}`, at most 32.

    Rows without a key say nothing and are left out; a value that is no text is read as its text.
    """
    rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    return tuple(
        Condition(key=row["key"], operator=operator_named(str(row.get("op"))), value=str(row.get("value", "")))
        for row in rows
        if isinstance(row.get("key"), str) and row["key"]
    )[:_MOST_CONDITIONS]


def fields_of(principal: Principal, dataset_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The documents of the principal's datasets that have metadata; others' datasets count as empty."""
    found: dict[str, dict[str, Any]] = {}
    for group in in_groups(dict.fromkeys(dataset_ids)):
        own = (Document.tenant_id == principal.tenant_id) & Document.dataset_id.in_(group)
        rows = Document.select(Document.id, Document.meta_fields).where(own & (Document.meta_fields != {}))
        found.update((row.id, row.meta_fields) for row in rows if isinstance(row.meta_fields, dict))
    return found


def _meets(meta: Mapping[str, Any], condition: Condition) -> bool:
    if condition.key not in meta or condition.operator not in OPERATORS:
        return False
    stored = meta[condition.key]
    values = stored if isinstance(stored, list) else [stored]
    return any(OPERATORS[condition.operator](str(value), condition.value) for value in values)
