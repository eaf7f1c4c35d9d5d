"""Arguments as a model wrote them, checked against the schema of their tool. Runs in a thread: both may be large."""

from collections.abc import Mapping
from typing import Any

import orjson

from rag.core.errors import InvalidInput
from rag.llm.base import ToolSpec

MOST_CHARS = 64 << 10
_MOST_PROBLEMS = 3
_MOST_PROBLEM_CHARS = 300


def checked_arguments(spec: ToolSpec, written: str) -> Mapping[str, Any]:
    """The arguments that `written` holds; none at all if it is empty, as models write it for tools without any.

    Raises:
        InvalidInput: it is no JSON object, too long, or does not fit the schema. The message is made for the model.
    """
    if len(written) > MOST_CHARS:
        raise InvalidInput(f"The arguments are too long: {len(written)} characters, at most {MOST_CHARS}.")
    try:
        arguments = orjson.loads(written) if written.strip() else {}
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"The arguments are not valid JSON: {error}.") from error
    if not isinstance(arguments, dict):
        raise InvalidInput("The arguments must be a JSON object.")
    problems = _problems(spec, arguments)
    if problems:
        raise InvalidInput(f"The arguments do not fit the tool's schema: {'; '.join(problems)}.")
    return arguments


def _problems(spec: ToolSpec, arguments: Mapping[str, Any]) -> list[str]:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import extend
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    # Patterns are left to the tool: one that backtracks for minutes would hold up the whole process. A registry of
    # our own, empty: the library's would fetch what a schema refers to.
    ignored = {"pattern": None, "patternProperties": None}
    checker = extend(Draft202012Validator, ignored)  # type: ignore[no-untyped-call]  # the library has no types for it
    found: list[str] = []
    try:
        errors = checker(dict(spec.parameters), registry=Registry()).iter_errors(arguments)
        for error in errors:
            found.append(f"{error.json_path}: {error.message[:_MOST_PROBLEM_CHARS]}")
            if len(found) == _MOST_PROBLEMS:
                break
    except (SchemaError, Unresolvable, RecursionError):
        # A schema that cannot be used checks nothing; the tool sees for itself.
        return []
    return found
