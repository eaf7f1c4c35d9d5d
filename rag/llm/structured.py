"""JSON from a chat model: asked for, checked against its schema, and asked for once more where it does not fit."""

import re
from dataclasses import replace
from typing import Any, Protocol

import orjson
import structlog

from rag.core.blocking import Lane, run_in
from rag.core.errors import InvalidInput, ModelBadOutput
from rag.core.types import TokenUsage, Turn
from rag.llm.base import ChatRequest, ModelInfo, ReplySchema

_FENCED = re.compile(r"```[a-zA-Z]*+[^\S\n]*+\n(.*?)```", re.DOTALL)
_ASK = (
    "Reply with one JSON value that fits this JSON schema, and with nothing else: no explanation, no Markdown.\n"
    "{schema}"
)
_REPAIR = "That does not fit: {problem}\nReply again with the whole corrected JSON value, and with nothing else."
_MOST_PROBLEMS = 5
_PROBLEM_CHARS = 300
_SHOWN_CHARS = 20_000
"""How much of a reply that does not fit the model is shown again."""

log = structlog.get_logger(__name__)


class Answering(Protocol):
    """A bundle with a chat model."""

    @property
    def info(self) -> ModelInfo: ...
    async def chat(self, request: ChatRequest) -> tuple[str, TokenUsage]: ...


async def ask_json(bundle: Answering, request: ChatRequest, schema: ReplySchema) -> Any:
    """The model's reply to `request`, parsed; it fits `schema`.

    The provider is given the schema where it can keep to one, else the model is told of it. A reply that does not fit
    is shown to the model once, with what is wrong.

    Raises:
        InvalidInput: `schema` is none, or refers to what is not in it; nothing was asked.
        ModelBadOutput: the second reply did not fit either; `facts["problem"]` says why.
        ModelError: as the bundle's `chat`.
    """
    await run_in(Lane.TEXT, _check_schema, schema)
    if bundle.info.capabilities.json_schema:
        asked = replace(request, reply_schema=schema)
    else:
        asked = replace(request, turns=_told(request.turns, schema))
    text, _ = await bundle.chat(asked)
    try:
        return await run_in(Lane.TEXT, _parsed, text, schema)
    except _Misfit as misfit:
        problem = misfit.problem
    log.info("json_repair", model=bundle.info.name, schema=schema.name)
    repair = (
        Turn(role="assistant", content=text[:_SHOWN_CHARS] or "(nothing)"),
        Turn(role="user", content=_REPAIR.format(problem=problem)),
    )
    text, _ = await bundle.chat(replace(asked, turns=asked.turns + repair))
    try:
        return await run_in(Lane.TEXT, _parsed, text, schema)
    except _Misfit as misfit:
        raise ModelBadOutput(
            f"The model {bundle.info.name!r} did not keep to the form it was asked for. "
            "Try again, or choose another model.",
            model=bundle.info.name,
            problem=misfit.problem,
        ) from misfit


class _Misfit(Exception):
    """A reply that does not fit; never leaves this module."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


def _told(turns: tuple[Turn, ...], schema: ReplySchema) -> tuple[Turn, ...]:
    """The turns, of which the first one tells of the schema."""
    words = _ASK.format(schema=orjson.dumps(schema.schema, option=orjson.OPT_SORT_KEYS).decode())
    if turns and turns[0].role == "system":
        return (replace(turns[0], content=f"{turns[0].content}\n\n{words}"), *turns[1:])
    return (Turn(role="system", content=words), *turns)


def _check_schema(schema: ReplySchema) -> None:
    from jsonschema import SchemaError

    try:
        _validator(schema).check_schema(schema.schema)
        orjson.dumps(schema.schema)
    except (SchemaError, TypeError, RecursionError) as error:
        reason = getattr(error, "message", str(error))[:_PROBLEM_CHARS]
        raise InvalidInput(f"{schema.name!r} is no JSON schema: {reason}") from error


def _parsed(text: str, schema: ReplySchema) -> Any:
    """The JSON in `text`.

    Raises:
        _Misfit: there is none, or it does not fit.
        InvalidInput: the schema refers to what is not in it.
    """
    from referencing.exceptions import Unresolvable

    value = _json_in(text)
    try:
        errors = sorted(_validator(schema).iter_errors(value), key=lambda error: list(map(str, error.absolute_path)))
    except Unresolvable as error:
        raise InvalidInput(f"The schema {schema.name!r} refers to {error.ref!r}, which is not in it.") from error
    except RecursionError:
        raise _Misfit("It is nested too deeply.") from None
    if errors:
        found = [f"{error.json_path}: {error.message[:_PROBLEM_CHARS]}" for error in errors[:_MOST_PROBLEMS]]
        raise _Misfit("; ".join(found))
    return value


def _json_in(text: str) -> Any:
    """The JSON value in `text`: all of it, or in a fence, or between the first and last bracket.

    Raises:
        _Misfit: none can be read.
    """
    problem = "There is no JSON in it."
    fenced = _FENCED.search(text)
    starts = [place for place in (text.find("{"), text.find("[")) if place >= 0]
    inner = text[min(starts) : max(text.rfind("}"), text.rfind("]")) + 1] if starts else ""
    for candidate in (text.strip(), fenced.group(1).strip() if fenced else "", inner):
        if not candidate:
            continue
        try:
            return orjson.loads(candidate)
        except orjson.JSONDecodeError as error:
            if starts:
                problem = f"It cannot be read as JSON: {error}."
    raise _Misfit(problem)


def _validator(schema: ReplySchema) -> Any:
    """Follows no reference out of the schema: a schema must not make this server fetch an address."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]  # it ships no types

    kind = validator_for(schema.schema, default=Draft202012Validator)
    return kind(schema.schema, registry=REGISTRY)
