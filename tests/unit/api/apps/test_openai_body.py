"""What the OpenAI face takes, and what it refuses by name."""

from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from api.apps.openai_body import ChatBody
from rag.core.errors import InvalidInput
from rag.core.types import ToolCall

WEATHER = {"type": "function", "function": {"name": "weather", "description": "Now.", "parameters": {"type": "object"}}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"at": "Bern"}'}}
ASK = {"role": "user", "content": "Which weather?"}


def body(**fields: Any) -> ChatBody:
    made = ChatBody.model_validate({"model": "chat:x", "messages": [ASK]} | fields)
    made.settle()
    return made


def test_a_tool_round_becomes_turns() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "In English."},
        ASK,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "Rain."}]},
    ]
    made = body(messages=messages, tools=[WEATHER])
    assert made.wishes == ("Be brief.", "In English.")
    assert [turn.role for turn in made.turns] == ["system", "system", "user", "assistant", "tool"]
    assert made.turns[3].tool_calls == (ToolCall(id="c1", name="weather", arguments='{"at": "Bern"}'),)
    assert (made.turns[4].tool_call_id, made.turns[4].content) == ("c1", "Rain.")


@pytest.mark.parametrize(
    ("choice", "mode", "names"),
    [
        (None, "auto", ["weather", "clock"]),
        ("none", "none", ["weather", "clock"]),
        ("required", "required", ["weather", "clock"]),
        ({"type": "function", "function": {"name": "clock"}}, "required", ["clock"]),
    ],
)
def test_choices_of_a_tool(choice: Any, mode: str, names: list[str]) -> None:
    form = body(tools=[WEATHER, CLOCK], tool_choice=choice, parallel_tool_calls=False).form
    assert (form.tool_choice, [tool.name for tool in form.tools], form.parallel_tools) == (mode, names, False)
    assert form.tools[-1].parameters["type"] == "object"


def test_forms_of_the_reply() -> None:
    assert body().form.is_free
    assert body(response_format={"type": "text"}).form.is_free
    assert body(response_format={"type": "json_object"}).form.json_object
    schema = {"name": "fact", "schema": {"type": "object"}, "strict": True}
    made = body(response_format={"type": "json_schema", "json_schema": schema}).form
    assert made.schema is not None
    assert (made.schema.name, made.schema.schema) == ("fact", {"type": "object"})
    assert made.is_json


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"modalities": ["audio"], "audio": {"voice": "alloy", "format": "mp3"}}, "modalities"),
        ({"audio": {"voice": "alloy", "format": "mp3"}}, "audio"),
        ({"prediction": {"type": "content", "content": "Rain."}}, "prediction"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream_options": {"include_usage": True}, "stream": False}, "stream_options"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": [CLOCK] * 129}, "tools"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"messages": [ASK, {"role": "assistant", "content": "Rain."}]}, "messages"),
        ({"messages": [ASK, {"role": "assistant", "tool_calls": [CALL]}, ASK]}, "messages.2"),
        ({"messages": [ASK, {"role": "tool", "tool_call_id": "c1", "content": "x"}]}, "messages.1.tool_call_id"),
        (
            {
                "messages": [
                    ASK,
                    {"role": "assistant", "tool_calls": [CALL, CALL | {"id": "c2"}]},
                    {"role": "tool", "tool_call_id": "c1", "content": "x"},
                ]
            },
            "messages",
        ),
    ],
)
def test_what_we_cannot_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        body(**fields)
    assert caught.value.facts["param"] == param


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": False, "top_logprobs": 0, "logit_bias": {}, "modalities": ["text"]},
        dict.fromkeys(("logprobs", "top_logprobs", "logit_bias", "audio", "prediction", "web_search_options")),
        {"stream": True, "stream_options": {"include_usage": True}},
        {"stream_options": None},
        {"seed": 7, "user": "ann", "store": False, "metadata": {"a": "b"}, "service_tier": "auto"},
    ],
)
def test_what_asks_for_nothing_more_is_taken(fields: dict[str, Any]) -> None:
    assert body(**fields).turns[0].content == ASK["content"]


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": []},
        {"messages": None},
        {"messages": "hello"},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "assistant", "content": None}]},
        {"messages": [{"role": "user", "content": 3}]},
        {"messages": [{"role": "nobody", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]},
        {"messages": [ASK, {"role": "tool", "content": "x"}]},
        {"tools": [{"type": "web_search"}]},
        {"tools": [{"type": "function", "function": {"name": "two words"}}]},
        {"tool_choice": "perhaps", "tools": [CLOCK]},
        {"response_format": {"type": "xml"}},
        {"temperature": 3},
        {"stop": ["a"] * 5},
        {"max_tokens": 0},
    ],
)
def test_wrong_types_are_refused_by_the_form(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        body(**fields)


def test_unknown_keys_are_ignored() -> None:
    assert body(store=True, seed=3, metadata={"a": "b"}, service_tier="auto").model == "chat:x"
    assert orjson.dumps(body().model_dump(mode="json", include={"model"})) == b'{"model":"chat:x"}'
