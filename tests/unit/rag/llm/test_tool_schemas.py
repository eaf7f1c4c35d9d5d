import asyncio
import sys
from dataclasses import replace
from subprocess import run
from types import MappingProxyType
from typing import Any

import orjson
import pytest

from rag.core.errors import InvalidInput
from rag.llm.base import ModelInfo, ReplySchema, ToolSpec
from rag.llm.providers.base import COMPATIBLE, Family
from rag.llm.tool_schemas import MAX_DEPTH, Form, ToolSchemas, is_strict

INFO = ModelInfo(name="mock@OpenAI", context_tokens=8192, max_output_tokens=1024)
SCHEMA = {"type": "object", "properties": {"query": {"type": "string"}, "k": {"type": "integer"}}}
FIND = ToolSpec(name="find", description="Finds.", parameters=SCHEMA)
READ = ToolSpec(name="read", description="", parameters={"type": "object", "properties": {}})
STRICT = {
    "type": "object",
    "properties": {"a": {"type": "string"}, "o": {"type": "object", "properties": {}, "additionalProperties": False}},
    "required": ["a", "o"],
    "additionalProperties": False,
}


async def converted(*tools: ToolSpec, form: Form = "chat", family: Family = COMPATIBLE) -> list[dict[str, Any]]:
    return await ToolSchemas().tools(tools, info=INFO, family=family, form=form)


async def test_the_chat_form() -> None:
    assert await converted(FIND) == [
        {"type": "function", "function": {"name": "find", "description": "Finds.", "parameters": SCHEMA}}
    ]


async def test_the_responses_form() -> None:
    assert await converted(FIND, form="responses") == [
        {"type": "function", "name": "find", "description": "Finds.", "parameters": SCHEMA, "strict": False}
    ]


async def test_the_bytes_do_not_depend_on_the_order_of_tools() -> None:
    schemas = ToolSchemas()
    one = await schemas.tools((FIND, READ), info=INFO, family=COMPATIBLE, form="chat")
    other = await schemas.tools((READ, FIND), info=INFO, family=COMPATIBLE, form="chat")
    assert orjson.dumps(one) == orjson.dumps(other)
    assert list(one[0]["function"]["parameters"]["properties"]) == ["query", "k"]
    assert schemas.conversions == 1


async def test_a_set_is_converted_once_per_model_and_form() -> None:
    schemas = ToolSchemas()
    other = replace(INFO, name="mock@Groq")
    for _ in range(3):
        for info in (INFO, other):
            for form in ("chat", "responses"):
                await schemas.tools((FIND,), info=info, family=COMPATIBLE, form=form)  # type: ignore[arg-type]
    assert schemas.conversions == 4


async def test_asking_at_once_converts_once() -> None:
    schemas = ToolSchemas()
    asked = (schemas.tools((FIND,), info=INFO, family=COMPATIBLE, form="chat") for _ in range(20))
    assert len({orjson.dumps(found) for found in await asyncio.gather(*asked)}) == 1
    assert schemas.conversions == 1


async def test_a_changed_tool_is_another_set() -> None:
    schemas = ToolSchemas()
    changeable: dict[str, Any] = {"type": "object", "properties": {}}
    tool = ToolSpec(name="find", description="", parameters=changeable)
    await schemas.tools((tool,), info=INFO, family=COMPATIBLE, form="chat")
    changeable["properties"]["new"] = {"type": "string"}
    (found,) = await schemas.tools((tool,), info=INFO, family=COMPATIBLE, form="chat")
    assert found["function"]["parameters"]["properties"] == {"new": {"type": "string"}}


async def test_what_is_handed_out_can_be_changed() -> None:
    schemas = ToolSchemas()
    (first,) = await schemas.tools((FIND,), info=INFO, family=COMPATIBLE, form="chat")
    first["function"]["parameters"]["properties"].clear()
    (second,) = await schemas.tools((FIND,), info=INFO, family=COMPATIBLE, form="chat")
    assert second["function"]["parameters"] == SCHEMA


async def test_it_stays_small() -> None:
    schemas = ToolSchemas(entries=2)
    for name in ("a", "b", "c", "c", "a"):
        await schemas.tools((replace(FIND, name=name),), info=INFO, family=COMPATIBLE, form="chat")
    assert schemas.conversions == 4
    assert len(schemas._made) == 2


async def test_frozen_schemas_are_taken() -> None:
    frozen = ToolSpec(name="find", description="", parameters=MappingProxyType({"type": "object"}))
    assert (await converted(frozen))[0]["function"]["parameters"] == {"type": "object"}


async def test_a_tool_without_a_schema_takes_nothing() -> None:
    (found,) = await converted(ToolSpec(name="now", description="", parameters={}))
    assert found["function"]["parameters"] == {"type": "object", "properties": {}}


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"x": schema}}
    return schema


@pytest.mark.parametrize(
    ("name", "schema", "why"),
    [
        ("bad name", SCHEMA, "'bad name' does not fit"),
        ("", SCHEMA, "'' does not fit"),
        ("x" * 65, SCHEMA, "does not fit"),
        ("find", {"type": "array"}, "'find' must be of type 'object'"),
        ("find", {"properties": {}}, "'find' must be of type 'object'"),
        ("find", {"type": "object", "properties": {"a": {"type": "text"}}}, "'find' is not a JSON schema, at prop"),
        ("find", {"type": "object", "required": "a"}, "'find' is not a JSON schema, at required"),
        ("find", {"type": "object", "properties": {"a": {"$ref": "http://evil.example"}}}, "'find' refers to 'http"),
        ("find", {"type": "object", "x": object()}, "'find' is not JSON"),
        ("find", deep(MAX_DEPTH), "'find' is nested deeper"),
        ("find", deep(300), "'find' is not JSON: Recursion"),
    ],
)
async def test_what_cannot_be_a_tool_is_named(name: str, schema: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await converted(ToolSpec(name=name, description="", parameters=schema))
    assert why in str(caught.value)
    assert caught.value.facts["field"] == "tools"


async def test_what_the_provider_refuses_is_refused() -> None:
    with pytest.raises(InvalidInput, match="Two tools have the name 'find'"):
        await converted(FIND, FIND)


async def test_what_the_provider_does_not_take_is_left_out() -> None:
    family = replace(COMPATIBLE, dropped=frozenset({"title"}))
    tool = ToolSpec(name="find", description="", parameters={**SCHEMA, "title": "T"})
    assert (await converted(tool, family=family))[0]["function"]["parameters"] == SCHEMA


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (STRICT, True),
        (SCHEMA, False),
        ({**STRICT, "required": ["a"]}, False),
        ({**STRICT, "properties": {"a": {"anyOf": [{"type": "null"}, SCHEMA]}, "o": {"type": "null"}}}, False),
    ],
)
async def test_strict_is_asked_for_where_it_can_be(schema: dict[str, Any], strict: bool) -> None:
    assert is_strict(schema) is strict
    tool = ToolSpec(name="find", description="", parameters=schema)
    family = replace(COMPATIBLE, strict_tools=True)
    assert (await converted(tool, family=family))[0]["function"].get("strict", False) is strict
    assert (await converted(tool, family=family, form="responses"))[0]["strict"] is strict
    assert "strict" not in (await converted(tool))[0]["function"]


async def test_reply_schemas() -> None:
    schemas = ToolSchemas()
    reply = ReplySchema(name="answer", schema=STRICT)
    told = {"name": "answer", "schema": STRICT, "strict": True}
    for _ in range(2):
        assert await schemas.reply(reply, info=INFO, form="chat") == {"type": "json_schema", "json_schema": told}
        assert await schemas.reply(reply, info=INFO, form="responses") == {"type": "json_schema", **told}
    assert schemas.conversions == 2


@pytest.mark.parametrize("schema", [{"type": "string"}, {"type": "object", "properties": 1}, {"x": {1, 2}}])
async def test_what_is_no_reply_schema(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="reply schema 'answer'"):
        await ToolSchemas().reply(ReplySchema(name="answer", schema=schema), info=INFO, form="chat")


def test_the_validator_is_imported_late() -> None:
    code = "import sys, rag.llm.tool_schemas; print('jsonschema' in sys.modules)"
    assert run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
