from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from rag.core.errors import InvalidInput
from rag.core.types import Picture, ToolCall, Turn
from rag.llm.base import Capabilities, ChatRequest, ModelInfo, ReplySchema, Sampling, ToolSpec
from rag.llm.endpoint import Endpoint
from rag.llm.responses_body import responses_body

ALL = Capabilities(tools=True, parallel_tools=True, json_schema=True, vision=True)
INFO = ModelInfo(name="m@P", context_tokens=8192, max_output_tokens=1024, capabilities=ALL)
ENDPOINT = Endpoint(base_url="http://x/v1", api_key=SecretStr("sk"), model="m")
HI = Turn(role="user", content="h\ud800i")
FIND = ToolSpec(name="find", description="d", parameters={"type": "object", "properties": {}})


async def body(*turns: Turn, info: ModelInfo = INFO, endpoint: Endpoint = ENDPOINT, **more: Any) -> dict[str, Any]:
    return await responses_body(ChatRequest(turns=turns or (HI,), **more), info, endpoint)


async def test_a_plain_request_keeps_nothing_at_the_provider() -> None:
    assert await body() == {"input": [{"role": "user", "content": "h?i"}], "store": False}


async def test_a_round_of_tools() -> None:
    sealed = 'm@P [{"type":"reasoning","summary":[],"id":"rs1","encrypted_content":"gA"}]'
    calls = (
        ToolCall(id="a", name="find", arguments='{"q":1}', signature=sealed),
        ToolCall(id="b", name="find", arguments="{", problem="p", signature="other@P [{}]"),
    )
    turns = (
        HI,
        Turn(role="assistant", content="Let me see.", tool_calls=calls),
        Turn(role="tool", content="found", tool_call_id="a"),
        Turn(role="tool", content="no", tool_call_id="b"),
    )
    assert (await body(*turns, tools=(FIND,)))["input"][1:] == [
        {"role": "assistant", "content": "Let me see."},
        {"type": "reasoning", "summary": [], "id": "rs1", "encrypted_content": "gA"},
        {"type": "function_call", "call_id": "a", "name": "find", "arguments": '{"q":1}'},
        {"type": "function_call", "call_id": "b", "name": "find", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "found"},
        {"type": "function_call_output", "call_id": "b", "output": "no"},
    ]


async def test_a_silent_call_is_no_message() -> None:
    silent = Turn(role="assistant", content="", tool_calls=(ToolCall(id="a", name="find", arguments="{}"),))
    assert [item.get("type") for item in (await body(HI, silent))["input"]] == [None, "function_call"]


async def test_pictures_and_schemas() -> None:
    picture = Picture(media_type="image/png", data=b"PNG")
    schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    found = await body(
        Turn(role="user", content="what?", pictures=(picture,)), reply_schema=ReplySchema(name="answer", schema=schema)
    )
    assert found["input"][0]["content"] == [
        {"type": "input_text", "text": "what?"},
        {"type": "input_image", "image_url": "data:image/png;base64,UE5H"},
    ]
    assert found["text"] == {"format": {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}}


async def test_sampling_in_the_names_of_the_format() -> None:
    sampling = Sampling(temperature=0.1, top_p=0.3, presence_penalty=0.4, max_tokens=9, stop=("END",))
    extra = {
        "reasoning_effort": "low",
        "verbosity": "low",
        "seed": 1,
        "user": "u",
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
    }
    found = await body(sampling=sampling, extra=extra, tools=(FIND,), tool_choice="none", parallel_tools=False)
    assert found == {
        "input": [{"role": "user", "content": "h?i"}],
        "store": False,
        "temperature": 0.1,
        "top_p": 0.3,
        "max_output_tokens": 9,
        "user": "u",
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"verbosity": "low", "format": {"type": "json_schema", "name": "a", "schema": {}}},
        "tools": [
            {
                "type": "function",
                "name": "find",
                "description": "d",
                "parameters": {"type": "object", "properties": {}},
                "strict": False,
            }
        ],
        "tool_choice": "none",
        "parallel_tool_calls": False,
    }
    plain = {"response_format": {"type": "json_object"}}
    assert (await body(extra=plain))["text"] == {"format": {"type": "json_object"}}


async def test_reasoning_models_send_their_thinking_sealed() -> None:
    info = replace(INFO, capabilities=replace(ALL, reasoning=True))
    found = await body(
        info=info,
        endpoint=replace(ENDPOINT, reasoning=True),
        sampling=Sampling(temperature=0.1, max_tokens=9),
    )
    assert found["include"] == ["reasoning.encrypted_content"]
    assert "temperature" not in found
    assert found["max_output_tokens"] == 9


@pytest.mark.parametrize("more", [{"extra": {"api_base": "http://evil.example"}}, {"tools": (FIND,)}])
async def test_what_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        await body(info=replace(INFO, capabilities=Capabilities()), **more)
