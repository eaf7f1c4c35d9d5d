import copy
from typing import Any

import pytest
from pydantic import SecretStr

from rag.core.errors import InvalidInput
from rag.llm.base import ToolSpec
from rag.llm.endpoint import Endpoint
from rag.llm.providers.base import COMPATIBLE, Family, told_in_words, without_empty
from rag.llm.providers.schema_walk import schemas_in, without

PLAIN: dict[str, Any] = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}


def tool(name: str = "search", parameters: Any = None, description: str = "Finds things.") -> ToolSpec:
    return ToolSpec(name=name, description=description, parameters=PLAIN if parameters is None else parameters)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"down": schema}}
    return schema


def test_usual_tools_are_taken() -> None:
    COMPATIBLE.validate_tools([tool("a"), tool("b-2_C"), tool("x" * 64, nested(20))])
    COMPATIBLE.validate_tools([])


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ([tool("a b")], "name"),
        ([tool("")], "name"),
        ([tool("x" * 65)], "name"),
        ([tool("a"), tool("a")], "Two tools"),
        ([tool(f"t{n}") for n in range(129)], "129 tools"),
        ([tool(parameters={})], "type 'object'"),
        ([tool(parameters={"type": "string"})], "type 'object'"),
        ([tool(parameters={"type": "object", "default": object()})], "not JSON"),
        ([tool(parameters=nested(40))], "nested"),
        ([tool(parameters=PLAIN | {"description": "x" * 300_000})], "larger"),
    ],
)
def test_what_no_provider_takes_is_refused(tools: list[ToolSpec], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        COMPATIBLE.validate_tools(tools)


def test_refused_keywords_are_told_from_properties_of_that_name() -> None:
    family = Family(name="Strict", refused=frozenset({"not"}), refused_at_root=frozenset({"anyOf"}))
    family.validate_tools([tool(parameters={"type": "object", "properties": {"not": {"type": "string"}}})])
    family.validate_tools([tool(parameters={"type": "object", "properties": {"a": {"anyOf": [{"type": "null"}]}}})])
    for schema in (
        {"type": "object", "properties": {"a": {"items": {"not": {"type": "string"}}}}},
        {"type": "object", "$defs": {"a": {"anyOf": [{"not": {}}]}}},
        {"type": "object", "anyOf": [{"required": ["a"]}]},
    ):
        with pytest.raises(InvalidInput, match="'search'"):
            family.validate_tools([tool(parameters=schema)])


def test_a_long_description_is_refused_where_there_is_a_limit() -> None:
    with pytest.raises(InvalidInput, match="1024"):
        Family(name="Short", max_description_chars=1024).validate_tools([tool(description="x" * 1025)])
    COMPATIBLE.validate_tools([tool(description="x" * 1025)])


def test_dropped_keywords_leave_the_original_alone() -> None:
    schema = {"$schema": "x", "type": "object", "properties": {"$schema": {"type": "string", "$schema": "y"}}}
    before = copy.deepcopy(schema)
    assert without(schema, frozenset({"$schema"})) == {
        "type": "object",
        "properties": {"$schema": {"type": "string"}},
    }
    assert schema == before
    assert len(list(schemas_in(schema))) == 2


def test_lists_of_schemas_are_walked() -> None:
    schema = {"anyOf": [{"x": 1, "type": "null"}, True], "items": [{"x": 1}], "enum": [{"x": 1}]}
    assert without(schema, frozenset({"x"})) == {"anyOf": [{"type": "null"}, True], "items": [{}], "enum": [{"x": 1}]}


def test_fields_are_renamed_and_left_out() -> None:
    family = Family(name="Other", renamed=(("seed", "random_seed"),), unsent=frozenset({"user"}))
    fields = {"seed": 1, "user": "u", "stop": ["x"]}
    assert family.fields(fields) == {"random_seed": 1, "stop": ["x"]}
    assert fields == {"seed": 1, "user": "u", "stop": ["x"]}


CALL = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"q": "a"}'}}


def test_calls_can_be_told_in_words() -> None:
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "", "tool_calls": [CALL, CALL | {"id": "c2"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
    ]
    before = copy.deepcopy(messages)
    family = Family(name="Needs", calls_need_tools=True)
    told = family.messages(messages, has_tools=False)
    assert [message["role"] for message in told] == ["user", "assistant", "user"]
    assert not any("tool_calls" in message for message in told)
    assert told[1]["content"].count('(Used search with {"q": "a"})') == 2
    assert told[2]["content"] == "Result of search:\none\n\nResult of search:\ntwo"
    assert family.messages(messages, has_tools=True) == messages == before
    assert COMPATIBLE.messages(messages, has_tools=False) == messages
    assert told_in_words([]) == []


def test_messages_that_say_nothing_can_be_left_out() -> None:
    messages = [
        {"role": "user", "content": ""},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
    ]
    assert without_empty(messages) == [messages[0], messages[2]]


@pytest.mark.parametrize(
    ("model", "sees", "thinks"),
    [
        ("qwen2.5-vl-7b", True, False),
        ("llava:13b", True, False),
        ("gemma3:4b", True, False),
        ("llama3.2", False, False),
        ("deepseek-r1:8b", False, True),
        ("o3-mini", False, True),
        ("gpt-5-mini", True, True),
        ("mistral-large", False, False),
    ],
)
def test_an_unlisted_model_is_judged_by_its_name(model: str, sees: bool, thinks: bool) -> None:
    found = COMPATIBLE.capabilities_of(model)
    assert (found.tools, found.vision, found.reasoning) == (True, sees, thinks)


def test_an_endpoint_shows_no_secret() -> None:
    endpoint = Endpoint(
        base_url="https://here.test/v1/",
        api_key=SecretStr("sk-visible"),
        arguments=(("aws_secret_access_key", SecretStr("aws-visible")),),
    )
    assert "visible" not in repr(endpoint)
    assert endpoint.secrets == ("sk-visible", "aws-visible")
    assert endpoint.url("/models") == "https://here.test/v1/models"
    assert endpoint.headers() == {"Authorization": "Bearer sk-visible"}


def test_an_endpoint_without_a_key_sends_none() -> None:
    endpoint = Endpoint(base_url="http://here.test", api_key=SecretStr("")).for_model("m")
    assert endpoint.headers() == {}
    assert endpoint.litellm_arguments() == {"model": "openai/m", "api_base": "http://here.test"}


def test_azure_has_addresses_and_a_header_of_its_own() -> None:
    endpoint = Endpoint(base_url="https://a.test", api_key=SecretStr("k"), api_version="2024-10-21").for_model("my gpt")
    assert endpoint.url("/chat/completions") == (
        "https://a.test/openai/deployments/my%20gpt/chat/completions?api-version=2024-10-21"
    )
    assert endpoint.headers() == {"api-key": "k"}
