"""Tool sets and reply schemas as providers take them: checked and converted once, then handed out.

Kept under an explicit key of provider, model, format and content. What is handed out for a key is the same to the
byte each time, whatever the order the tools were named in: providers find their cached prompts by it.
"""

import hashlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from rag.core.blocking import Lane, run_in
from rag.core.errors import InvalidInput
from rag.llm.base import ModelInfo, ReplySchema, ToolSpec
from rag.llm.providers.base import Family

Form = Literal["chat", "responses"]
"""OpenAI's chat completions, which LiteLLM takes too, or its Responses."""

NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
MAX_DEPTH: Final = 32
_ENTRIES: Final = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class SchemaKey:
    """What one conversion depends on; `digest` is that of the whole tool set or reply schema."""

    provider: str
    model: str
    kind: Literal["tools", "reply"]
    form: Form
    digest: str


class ToolSchemas:
    """Conversions of one process, at most `entries`; the oldest goes first. Used on the event loop: what is not there
    yet is made in a thread."""

    def __init__(self, *, entries: int = _ENTRIES) -> None:
        self._entries = entries
        self._made: dict[SchemaKey, bytes] = {}
        self._making = threading.Lock()
        self.conversions = 0

    async def tools(
        self, tools: Sequence[ToolSpec], *, info: ModelInfo, family: Family, form: Form
    ) -> list[dict[str, Any]]:
        """`tools` in `form`, by name. The caller may change what it gets.

        Raises:
            InvalidInput: a tool that the provider would refuse, by name.
        """
        ordered = sorted(tools, key=lambda tool: tool.name)
        key = _key(info, "tools", form=form, content=b"".join(map(_told, ordered)))
        found: list[dict[str, Any]] = orjson.loads(await self._get(key, lambda: _tools(ordered, family, form)))
        return found

    async def reply(self, schema: ReplySchema, *, info: ModelInfo, form: Form) -> dict[str, Any]:
        """`response_format` of the chat form, or `text.format` of Responses.

        Raises:
            InvalidInput: it is no JSON schema.
        """
        content = _told(ToolSpec(name=schema.name, description="", parameters=schema.schema), what="reply schema")
        key = _key(info, "reply", form=form, content=content)
        found: dict[str, Any] = orjson.loads(await self._get(key, lambda: _reply(schema, form)))
        return found

    async def _get(self, key: SchemaKey, make: Callable[[], object]) -> bytes:
        found = self._made.get(key)
        return found if found is not None else await run_in(Lane.TEXT, self._make, key, make)

    def _make(self, key: SchemaKey, make: Callable[[], object]) -> bytes:
        with self._making:
            found = self._made.get(key)
            if found is None:
                self.conversions += 1
                found = orjson.dumps(make())
                while len(self._made) >= self._entries:
                    del self._made[next(iter(self._made))]
                self._made[key] = found
            return found


SCHEMAS: Final = ToolSchemas()
"""Shared by all models of the process: it holds nothing but what its keys say."""


def is_strict(schema: Any) -> bool:
    """Whether a provider's strict mode takes it: each object closed, all its properties required."""
    if isinstance(schema, list):
        return all(map(is_strict, schema))
    if not isinstance(schema, Mapping):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is not False or set(schema.get("required", ())) != set(properties):
            return False
    return all(is_strict(value) for value in schema.values())


def _key(info: ModelInfo, kind: Literal["tools", "reply"], *, form: Form, content: bytes) -> SchemaKey:
    digest = hashlib.sha256(content).hexdigest()
    return SchemaKey(provider=info.provider, model=info.name, kind=kind, form=form, digest=digest)


def _told(tool: ToolSpec, *, what: str = "schema of tool") -> bytes:
    try:
        return orjson.dumps([tool.name, tool.description, tool.parameters], default=_plain)
    except TypeError as error:
        raise InvalidInput(f"The {what} {tool.name!r} is not JSON: {error}.", field="tools") from error


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _tools(tools: Sequence[ToolSpec], family: Family, form: Form) -> list[dict[str, Any]]:
    plain = [ToolSpec(name=tool.name, description=tool.description, parameters=_own(tool)) for tool in tools]
    for tool in plain:
        _check(tool.name, dict(tool.parameters), what="schema of tool")
    family.validate_tools(plain)
    return [_tool(tool, family, form) for tool in plain]


def _own(tool: ToolSpec) -> dict[str, Any]:
    """The tool's schema as plain objects, with the type that an empty one leaves out."""
    schema: dict[str, Any] = orjson.loads(orjson.dumps(tool.parameters, default=_plain))
    return schema or {"type": "object", "properties": {}}


def _tool(tool: ToolSpec, family: Family, form: Form) -> dict[str, Any]:
    parameters = family.parameters(tool.parameters)
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = parameters
    strict = family.strict_tools and is_strict(parameters)
    if form == "responses":
        # Said in any case: without it this format takes every schema for a strict one.
        return {"type": "function", **function, "strict": strict}
    return {"type": "function", "function": {**function, "strict": True} if strict else function}


def _reply(reply: ReplySchema, form: Form) -> dict[str, Any]:
    schema: dict[str, Any] = orjson.loads(orjson.dumps(reply.schema, default=_plain))
    _check(reply.name, schema, what="reply schema")
    told = {"name": reply.name, "schema": schema, "strict": is_strict(schema)}
    return {"type": "json_schema", **told} if form == "responses" else {"type": "json_schema", "json_schema": told}


def _check(name: str, schema: dict[str, Any], *, what: str) -> None:
    """Raise InvalidInput if `schema` is no JSON schema of an object, or says more than providers read."""
    # Imported here because it takes 0.1 s, which a process whose models use no tools does not pay.
    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.validators import validator_for

    if NAME.fullmatch(name) is None:
        raise InvalidInput(f"The name {name[:80]!r} does not fit [a-zA-Z0-9_-], 1 to 64 characters.", field="tools")
    if schema.get("type") != "object":
        raise InvalidInput(f"The {what} {name!r} must be of type 'object'.", field="tools")
    _check_depth(schema, f"{what} {name!r}", depth=1)
    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        where = "/".join(map(str, error.path)) or "its root"
        raise InvalidInput(
            f"The {what} {name!r} is not a JSON schema, at {where}: {error.message[:200]}.", field="tools"
        ) from error


def _check_depth(node: Any, what: str, *, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise InvalidInput(f"The {what} is nested deeper than {MAX_DEPTH} levels.", field="tools")
    if isinstance(node, Mapping):
        reference = node.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#"):
            raise InvalidInput(f"The {what} refers to {reference[:80]!r}; write it out instead.", field="tools")
    if isinstance(node, Mapping | list):
        for value in node.values() if isinstance(node, Mapping) else node:
            _check_depth(value, what, depth=depth + 1)
