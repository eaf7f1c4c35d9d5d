import copy
from typing import Any

import pytest

from rag.core.errors import InvalidInput
from rag.llm.base import ToolSpec
from rag.llm.providers.mistral import its_id
from rag.llm.providers.table import FAMILIES

CALL: dict[str, Any] = {"id": "call_123", "type": "function", "function": {"name": "search", "arguments": "{}"}}
ROUND: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_123", "content": "found"},
]
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"q": {"type": "string"}}}
FIELDS: dict[str, Any] = {
    "temperature": 1.5,
    "seed": 7,
    "stop": ["a", "b"],
    "user": "u",
    "tools": [{}],
    "tool_choice": "required",
    "presence_penalty": 0.5,
    "max_completion_tokens": 9,
}


def tool(name: str = "search", **more: Any) -> ToolSpec:
    return ToolSpec(name=name, description="Finds.", parameters=SCHEMA | more)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_a_plain_tool_and_changes_no_argument(name: str) -> None:
    family = FAMILIES[name]
    family.validate_tools([tool()])
    messages, fields, schema = copy.deepcopy(ROUND), copy.deepcopy(FIELDS), copy.deepcopy(SCHEMA)
    family.messages(messages, has_tools=True)
    family.messages(messages, has_tools=False)
    family.fields(fields, reasoning=True)
    family.parameters(schema)
    assert (messages, fields, schema) == (ROUND, FIELDS, SCHEMA)
    assert family.parameters(schema) == SCHEMA


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_keeps_a_round_of_tools(name: str) -> None:
    found = FAMILIES[name].messages(ROUND, has_tools=True)
    assert [message["role"] for message in found] == ["system", "user", "assistant", "tool"]
    assert found[2]["tool_calls"][0]["id"] == found[3]["tool_call_id"]
    assert found[2]["tool_calls"][0]["function"] == CALL["function"]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_refuses_129_tools(name: str) -> None:
    with pytest.raises(InvalidInput, match="129"):
        FAMILIES[name].validate_tools([tool(f"t{number}") for number in range(129)])


@pytest.mark.parametrize(
    ("family", "bad"),
    [
        ("openai", tool(anyOf=[{"required": ["q"]}])),
        ("openai", tool(enum=[{}])),
        ("azure", tool(oneOf=[{}])),
        ("anthropic", tool(allOf=[{}])),
        ("bedrock", tool(oneOf=[{}])),
        ("gemini", tool("2nd")),
        ("gemini", tool(patternProperties={"^x": {}})),
        ("gemini", tool(properties={"a": {"not": {}}})),
        ("cohere", tool("with-dash")),
    ],
)
def test_what_a_family_refuses(family: str, bad: ToolSpec) -> None:
    with pytest.raises(InvalidInput, match=repr(bad.name)):
        FAMILIES[family].validate_tools([bad])
    FAMILIES["compatible"].validate_tools([bad])


@pytest.mark.parametrize("name", ["anthropic", "bedrock"])
def test_calls_are_told_in_words_where_no_tools_are_offered(name: str) -> None:
    found = FAMILIES[name].messages(ROUND, has_tools=False)
    assert [message["role"] for message in found] == ["system", "user", "assistant", "user"]
    assert "found" in found[3]["content"]
    assert "search" in found[2]["content"]


@pytest.mark.parametrize("name", ["anthropic", "bedrock"])
def test_claude_gets_no_empty_text(name: str) -> None:
    empty = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}, {"role": "user", "content": "?"}]
    assert FAMILIES[name].messages(empty, has_tools=False) == [
        {"role": "user", "content": "(nothing)"},
        {"role": "user", "content": "?"},
    ]


@pytest.mark.parametrize(
    ("name", "model", "both"),
    [
        ("anthropic", "claude-sonnet-4-5", False),
        ("anthropic", "", False),
        ("bedrock", "us.anthropic.claude-haiku-4-5-20251001-v1:0", False),
        ("bedrock", "arn:aws:bedrock:us-east-1:1:application-inference-profile/x1", False),
        ("bedrock", "amazon.nova-pro-v1:0", True),
        ("bedrock", "openai.gpt-oss-120b-1:0", True),
        ("bedrock", "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-pro-v1:0", False),
        ("compatible", "anthropic/claude-sonnet-4.5", False),
        ("compatible", "Claude-3-Opus", False),
        ("compatible", "google/gemini-2.5-pro", True),
        ("local", "claudette", True),
    ],
)
def test_claude_gets_temperature_or_top_p_but_not_both(name: str, model: str, both: bool) -> None:
    """Whoever serves it. What an ARN names is not always seen in it."""
    family = FAMILIES[name]
    asked = {"temperature": 0.0, "top_p": 0.3, "max_tokens": 9}
    expected = asked if both else {"temperature": 0.0, "max_tokens": 9}
    assert family.fields(asked, model=model) == expected
    assert family.fields({"top_p": 0.3}, model=model) == {"top_p": 0.3}


def test_mistral_gets_ids_and_fields_it_takes() -> None:
    family = FAMILIES["mistral"]
    found = family.messages(ROUND, has_tools=True)
    assert found[2]["tool_calls"][0]["id"] == found[3]["tool_call_id"] == its_id("call_123")
    assert its_id("call_123").isalnum()
    assert len(its_id("call_123")) == 9
    assert its_id("call_123") != its_id("call_124")
    assert its_id("AbCdEf123") == "AbCdEf123"
    sent = family.fields(FIELDS)
    assert (sent["tool_choice"], sent["random_seed"], sent["max_tokens"]) == ("any", 7, 9)
    assert not {"seed", "user", "max_completion_tokens"} & sent.keys()
    assert not family.asks_usage
    assert family.parameters(SCHEMA | {"additionalProperties": False, "$schema": "x"}) == SCHEMA


def test_zhipu_lets_models_choose_for_themselves() -> None:
    family = FAMILIES["zhipu"]
    sent = family.fields(FIELDS)
    assert (sent["temperature"], sent["stop"]) == (1.0, ["a"])
    assert "tools" in sent
    assert "tool_choice" not in sent
    assert family.fields({"tools": [{}], "tool_choice": "auto"}) == {"tools": [{}], "tool_choice": "auto"}
    assert family.fields({"tools": [{}], "tool_choice": "none"}) == {}


def test_xai_gets_penalties_only_where_nothing_thinks() -> None:
    family = FAMILIES["xai"]
    assert {"presence_penalty", "stop"} <= family.fields(FIELDS).keys()
    assert not {"presence_penalty", "stop"} & family.fields(FIELDS, reasoning=True).keys()


def test_what_families_say_of_unlisted_models() -> None:
    assert FAMILIES["anthropic"].capabilities_of("claude-next").prompt_caching == "marked"
    assert FAMILIES["bedrock"].capabilities_of("us.anthropic.claude-next").prompt_caching == "marked"
    assert FAMILIES["bedrock"].capabilities_of("meta.llama4").prompt_caching == "none"
    assert FAMILIES["bedrock"].capabilities_of("meta.llama4").tools
    assert not FAMILIES["deepseek"].capabilities_of("deepseek-next").json_schema
    assert FAMILIES["deepseek"].gives_reasoning_back
