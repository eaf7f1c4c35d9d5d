"""The metadata filter of retrieval (chunks.md section 7): its form, the codes and texts of what is malformed."""

from typing import Any

from api.apps import repr_texts
from api.apps.body import as_object
from api.apps.context import services
from api.apps.envelope import uncaught
from api.db.services.metadata_filter import Condition, known_keys, matching, operator_named
from rag.core.types import Principal


async def matching_documents(principal: Principal, dataset_ids: tuple[str, ...], condition: Any) -> tuple[str, ...]:
    """The documents that meet `condition`; empty, which means all, where there is none or nothing matches.

    Raises:
        Refused: 100, a condition lacks a key or its value is no text.
    """
    conditions = _conditions(condition)
    if not conditions:
        return ()
    fields = await services().documents.meta_fields(principal, dataset_ids)
    known = known_keys(fields)
    asked = [each for each in conditions if each.key in known]
    return matching(fields, asked) if asked else ()


def _conditions(condition: Any) -> list[Condition]:
    if not condition:
        return []
    listed = as_object(condition).get("conditions") or []
    if not isinstance(listed, list):
        raise uncaught(repr_texts.not_iterable(listed))
    return [_condition(each) for each in listed]


def _condition(each: Any) -> Condition:
    found = as_object(each)
    for key in ("name", "comparison_operator", "value"):
        if key not in found:
            raise uncaught(repr_texts.missing(key))
    value = found["value"]
    if not isinstance(value, str):
        raise uncaught(repr_texts.not_comparable(value))
    return Condition(key=str(found["name"]), operator=operator_named(str(found["comparison_operator"])), value=value)
