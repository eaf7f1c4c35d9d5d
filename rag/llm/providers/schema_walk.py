"""The JSON schemas within a JSON schema: keywords are told from properties that only bear their names."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rag.core.errors import InvalidInput

MAX_DEPTH: Final = 32

_ONE: Final = frozenset(
    {
        "additionalItems",
        "additionalProperties",
        "contains",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
"""Keywords that hold a schema."""
_SEVERAL: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
"""Keywords that hold a list of schemas."""
_NAMED: Final = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
"""Keywords that hold schemas by name."""


def schemas_in(schema: Mapping[str, Any], *, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """`schema` and every schema within it.

    Raises:
        InvalidInput: they are nested deeper than 32.
    """
    if depth > MAX_DEPTH:
        raise InvalidInput(f"A tool's schema is nested deeper than {MAX_DEPTH}; make it flatter.", field="tools")
    yield schema
    for keyword, value in schema.items():
        for below in _below(keyword, value):
            if isinstance(below, Mapping):
                yield from schemas_in(below, depth=depth + 1)


def without(schema: Mapping[str, Any], keywords: frozenset[str]) -> dict[str, Any]:
    """A copy of `schema` without `keywords`, at any depth."""
    copied: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in keywords:
            continue
        if keyword in _ONE and isinstance(value, Mapping):
            copied[keyword] = without(value, keywords)
        elif keyword in _NAMED and isinstance(value, Mapping):
            copied[keyword] = {k: without(v, keywords) if isinstance(v, Mapping) else v for k, v in value.items()}
        elif keyword in (_SEVERAL | _ONE) and isinstance(value, list):
            copied[keyword] = [without(v, keywords) if isinstance(v, Mapping) else v for v in value]
        else:
            copied[keyword] = value
    return copied


def _below(keyword: str, value: Any) -> list[Any]:
    if keyword in _NAMED and isinstance(value, Mapping):
        return list(value.values())
    if keyword in (_SEVERAL | _ONE) and isinstance(value, list):
        return value
    return [value] if keyword in _ONE else []
