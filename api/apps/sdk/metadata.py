"""The metadata filter of retrieval (chunks.md section 7): conditions on documents' `meta_fields`, all of them."""

from collections.abc import Callable
from typing import Any

from api.apps import repr_texts
from api.apps.body import LARGEST, as_object
from api.apps.context import services
from api.apps.envelope import uncaught
from api.db.services.records import DocumentQuery, Page
from rag.core.types import Principal

Test = Callable[[str, str], bool]


def _compare(by_number: Callable[[float, float], bool], by_text: Callable[[str, str], bool]) -> Test:
    def test(stored: str, wanted: str) -> bool:
        try:
            return by_number(float(stored), float(wanted))
        except ValueError:
            return by_text(stored, wanted)

    return test


OPERATORS: dict[str, Test] = {
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


async def matching_documents(principal: Principal, dataset_ids: tuple[str, ...], condition: Any) -> tuple[str, ...]:
    """The documents that meet `condition`; empty, which means all, where there is none or nothing matches.

    Raises:
        Refused: 100, a condition lacks a key or its value is no text.
    """
    conditions = _conditions(condition)
    if not conditions:
        return ()
    fields: dict[str, dict[str, Any]] = {}
    for dataset_id in dataset_ids:
        query = DocumentQuery(page=Page(size=LARGEST))
        records, _ = await services().documents.list(principal, dataset_id, query)
        fields.update((record.id, record.meta_fields) for record in records)
    known = {key for each in fields.values() for key in each}
    asked = [each for each in conditions if each[0] in known]
    if not asked:
        return ()
    return tuple(
        document_id
        for document_id, meta in fields.items()
        if all(_meets(meta, name, operator, value) for name, operator, value in asked)
    )


def _conditions(condition: Any) -> list[tuple[str, str, str]]:
    if not condition:
        return []
    listed = as_object(condition).get("conditions") or []
    if not isinstance(listed, list):
        raise uncaught(repr_texts.not_iterable(listed))
    return [_triple(each) for each in listed]


def _triple(each: Any) -> tuple[str, str, str]:
    found = as_object(each)
    for key in ("name", "comparison_operator", "value"):
        if key not in found:
            raise uncaught(repr_texts.missing(key))
    value = found["value"]
    if not isinstance(value, str):
        raise uncaught(repr_texts.not_comparable(value))
    operator = str(found["comparison_operator"])
    return str(found["name"]), _SPELLINGS.get(operator, operator), value


def _meets(meta: dict[str, Any], name: str, operator: str, wanted: str) -> bool:
    if name not in meta or operator not in OPERATORS:
        return False
    stored = meta[name]
    values = stored if isinstance(stored, list) else [stored]
    return any(OPERATORS[operator](str(value), wanted) for value in values)
