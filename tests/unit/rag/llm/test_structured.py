"""JSON from chat models: parsed, checked, repaired once."""

import asyncio
import time
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.core.errors import InvalidInput, ModelBadOutput
from rag.core.types import TokenUsage, Turn
from rag.llm.base import Capabilities, ChatRequest, ModelInfo, ReplySchema
from rag.llm.structured import ask_json

PERSON = ReplySchema(
    name="person",
    schema={
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
)
GOOD = '{"name": "Ann", "age": 7}'
REQUEST = ChatRequest(turns=(Turn(role="system", content="Be brief."), Turn(role="user", content="Who is it?")))


class Saying:
    """A bundle that gives its replies in turn."""

    def __init__(self, *replies: str, native: bool = False) -> None:
        capabilities = Capabilities(json_schema=native)
        self.info = ModelInfo(name="m@Testing", context_tokens=1000, max_output_tokens=100, capabilities=capabilities)
        self.replies = list(replies)
        self.requests: list[ChatRequest] = []

    async def chat(self, request: ChatRequest) -> tuple[str, TokenUsage]:
        self.requests.append(request)
        return self.replies.pop(0), TokenUsage()


async def test_a_provider_that_can_is_given_the_schema() -> None:
    bundle = Saying(GOOD, native=True)
    assert await ask_json(bundle, REQUEST, PERSON) == {"name": "Ann", "age": 7}
    assert bundle.requests[0].reply_schema == PERSON
    assert bundle.requests[0].turns == REQUEST.turns


async def test_any_other_model_is_told_of_it() -> None:
    bundle = Saying(GOOD)
    assert await ask_json(bundle, REQUEST, PERSON) == {"name": "Ann", "age": 7}
    asked = bundle.requests[0]
    assert asked.reply_schema is None
    assert asked.turns[0].content.startswith("Be brief.\n\nReply with one JSON value")
    assert '"minimum":0' in asked.turns[0].content
    assert asked.turns[1:] == REQUEST.turns[1:]
    bundle = Saying(GOOD)
    await ask_json(bundle, ChatRequest(turns=REQUEST.turns[1:]), PERSON)
    assert [turn.role for turn in bundle.requests[0].turns] == ["system", "user"]


@pytest.mark.parametrize(
    "reply",
    [
        GOOD,
        f"  {GOOD}\n",
        f"```json\n{GOOD}\n```",
        f"Here you are:\n```\n{GOOD}\n```\nAnything else?",
        f"The person is {GOOD}. Is that right?",
    ],
)
async def test_json_is_found_wherever_a_model_puts_it(reply: str) -> None:
    bundle = Saying(reply)
    assert await ask_json(bundle, REQUEST, PERSON) == {"name": "Ann", "age": 7}
    assert len(bundle.requests) == 1


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ('{"name": "Ann"}', "$: 'age' is a required property"),
        ('{"name": "Ann", "age": -1}', "$.age: -1 is less than the minimum of 0"),
        ('{"name": "Ann", "age": 7, "x": 1}', "Additional properties are not allowed"),
        ("[1, 2]", "is not of type 'object'"),
        ('{"name": "Ann", "age": ', "cannot be read as JSON"),
        ("I do not know.", "There is no JSON in it."),
        ("", "There is no JSON in it."),
    ],
)
async def test_a_reply_that_does_not_fit_is_repaired_once(reply: str, problem: str) -> None:
    bundle = Saying(reply, GOOD)
    assert await ask_json(bundle, REQUEST, PERSON) == {"name": "Ann", "age": 7}
    first, second = bundle.requests
    assert second.turns[: len(first.turns)] == first.turns
    assert second.turns[-2] == Turn(role="assistant", content=reply or "(nothing)")
    assert problem in second.turns[-1].content
    bundle = Saying(reply, reply, GOOD)
    with pytest.raises(ModelBadOutput, match="did not keep to the form") as caught:
        await ask_json(bundle, REQUEST, PERSON)
    assert problem in caught.value.facts["problem"]
    assert len(bundle.requests) == 2


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"properties": 7}, {"minimum": "x"}, {"enum": [object()]}])
async def test_a_schema_that_is_none_is_refused_before_the_call(schema: dict[str, Any]) -> None:
    bundle = Saying(GOOD)
    with pytest.raises(InvalidInput, match="'bad' is no JSON schema"):
        await ask_json(bundle, REQUEST, ReplySchema(name="bad", schema=schema))
    assert bundle.requests == []


@pytest.mark.parametrize("ref", ["http://127.0.0.1:9/schema.json", "file:///etc/passwd", "#/$defs/none"])
async def test_no_reference_is_followed_out_of_a_schema(ref: str) -> None:
    schema = ReplySchema(name="far", schema={"type": "object", "properties": {"name": {"$ref": ref}}})
    with pytest.raises(InvalidInput, match="which is not in it"):
        await ask_json(Saying(GOOD), REQUEST, schema)


async def test_a_reply_nested_without_end_is_a_misfit() -> None:
    schema = ReplySchema(name="tree", schema={"anyOf": [{"type": "array", "items": {"$ref": "#"}}]})
    deep = "[" * 900 + "]" * 900
    with pytest.raises(ModelBadOutput):
        await ask_json(Saying(deep, deep), REQUEST, schema)
    assert await ask_json(Saying("[[]]"), REQUEST, schema) == [[]]


@given(value=st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), st.lists, max_leaves=8))
def test_any_json_comes_back_as_it_was(value: Any) -> None:
    wrapped = {"value": value}
    said = f"```json\n{orjson.dumps(wrapped).decode()}\n```"
    assert asyncio.run(ask_json(Saying(said), REQUEST, ReplySchema(name="any", schema={"type": "object"}))) == wrapped


async def test_a_fence_that_only_begins_is_given_up_at_once() -> None:
    bundle = Saying("```" + "\n" * 40_000 + "x", GOOD)
    began = time.process_time()
    assert await ask_json(bundle, REQUEST, PERSON) == {"name": "Ann", "age": 7}
    assert time.process_time() - began < 2


async def test_lines_between_fence_and_value_are_no_matter() -> None:
    assert await ask_json(Saying(f"```json  \n\n \n{GOOD}\n```"), REQUEST, PERSON) == {"name": "Ann", "age": 7}
