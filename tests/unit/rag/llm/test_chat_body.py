import base64
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from rag.core.errors import InvalidInput
from rag.core.types import Picture, ToolCall, Turn
from rag.llm.base import Capabilities, ChatRequest, ModelInfo, ReplySchema, Sampling, ToolSpec
from rag.llm.chat_body import chat_body
from rag.llm.endpoint import Endpoint
from rag.llm.providers.base import COMPATIBLE

ALL = Capabilities(tools=True, parallel_tools=True, json_schema=True, vision=True, prompt_caching="marked")
INFO = ModelInfo(name="m@P", context_tokens=8192, max_output_tokens=1024, capabilities=ALL)
ENDPOINT = Endpoint(base_url="http://x/v1", api_key=SecretStr("sk"), model="m")
HI = Turn(role="user", content="hi")
FIND = ToolSpec(name="find", description="d", parameters={"type": "object", "properties": {}})
READ = ToolSpec(name="read", description="d", parameters={"type": "object", "properties": {}})
MARK = {"type": "ephemeral"}


async def body(*turns: Turn, info: ModelInfo = INFO, endpoint: Endpoint = ENDPOINT, **more: Any) -> dict[str, Any]:
    return await chat_body(ChatRequest(turns=turns or (HI,), **more), info, endpoint)


async def test_a_round_of_tools() -> None:
    calls = (
        ToolCall(id="a", name="find", arguments='{"q": 1}'),
        ToolCall(id="b", name="x", arguments="{", problem="p"),
    )
    asked = Turn(role="assistant", content="", tool_calls=calls, reasoning="because")
    result = Turn(role="tool", content="found", tool_call_id="a")
    assert (await body(HI, asked, result, tools=(FIND,)))["messages"] == [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "find", "arguments": '{"q": 1}'}},
                {"id": "b", "type": "function", "function": {"name": "x", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "found"},
    ]


async def test_thinking_goes_back_only_where_it_is_wanted() -> None:
    asked = Turn(
        role="assistant", content="", tool_calls=(ToolCall(id="a", name="find", arguments="{}"),), reasoning="because"
    )
    family = replace(COMPATIBLE, gives_reasoning_back=True)
    found = await body(HI, asked, tools=(FIND,), endpoint=replace(ENDPOINT, family=family))
    assert found["messages"][1]["reasoning_content"] == "because"


@pytest.mark.parametrize(
    ("signature", "message", "told"),
    [
        ("m@P google:s==", {}, {"extra_content": {"google": {"thought_signature": "s=="}}}),
        ("m@P s==", {}, {"provider_specific_fields": {"thought_signature": "s=="}}),
        ('m@P {"thinking_blocks":[{"a":1}]}', {"thinking_blocks": [{"a": 1}]}, {}),
        ("other@P s==", {}, {}),
        ("", {}, {}),
    ],
)
async def test_signatures_go_back_to_the_model_that_made_them(
    signature: str, message: dict[str, Any], told: dict[str, Any]
) -> None:
    call = ToolCall(id="a", name="find", arguments="{}", signature=signature)
    found = (await body(HI, Turn(role="assistant", content="", tool_calls=(call,)), tools=(FIND,)))["messages"][1]
    (sent,) = found.pop("tool_calls")
    assert found == {"role": "assistant", "content": None, **message}
    assert sent == {"id": "a", "type": "function", "function": {"name": "find", "arguments": "{}"}, **told}


async def test_pictures_go_as_data() -> None:
    picture = Picture(media_type="image/png", data=b"\x89PNG")
    (message,) = (await body(Turn(role="user", content="what?", pictures=(picture,))))["messages"]
    url = "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()
    assert message["content"] == [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]


async def test_a_large_picture_is_put_together_off_the_loop() -> None:
    picture = Picture(media_type="image/png", data=bytes(8 << 20))
    (message,) = (await body(Turn(role="user", content="", pictures=(picture,))))["messages"]
    (part,) = message["content"]
    assert len(part["image_url"]["url"]) > 8 << 20


async def test_how_tools_may_be_chosen() -> None:
    fields = await body(tools=(READ, FIND))
    assert [tool["function"]["name"] for tool in fields["tools"]] == ["find", "read"]
    assert "tool_choice" not in fields
    assert "parallel_tool_calls" not in fields
    fields = await body(tools=(FIND,), tool_choice="required", parallel_tools=False)
    assert (fields["tool_choice"], fields["parallel_tool_calls"]) == ("required", False)
    assert not {"tool_choice", "parallel_tool_calls", "tools"} & (await body(tool_choice="none")).keys()


async def test_one_tool_at_a_time_is_not_asked_of_a_model_that_knows_no_other_way() -> None:
    info = replace(INFO, capabilities=replace(ALL, parallel_tools=False))
    assert "parallel_tool_calls" not in await body(tools=(FIND,), parallel_tools=False, info=info)


async def test_a_reply_schema() -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False, "required": []}
    found = await body(reply_schema=ReplySchema(name="answer", schema=schema))
    told = {"name": "answer", "schema": schema, "strict": True}
    assert found["response_format"] == {"type": "json_schema", "json_schema": told}


SYSTEM = Turn(role="system", content="Be brief.")


async def test_caching_is_marked_on_the_last_tool_and_system_turn() -> None:
    found = await body(SYSTEM, replace(SYSTEM, content="Cite."), HI, tools=(FIND, READ), cache_prefix=True)
    assert [tool.get("cache_control") for tool in found["tools"]] == [None, MARK]
    assert [message["content"] for message in found["messages"]] == [
        "Be brief.",
        [{"type": "text", "text": "Cite.", "cache_control": MARK}],
        "hi",
    ]


async def test_an_empty_system_turn_stays_plain() -> None:
    found = await body(replace(SYSTEM, content=""), HI, cache_prefix=True)
    assert found["messages"][0] == {"role": "system", "content": ""}


@pytest.mark.parametrize("caching", ["none", "automatic"])
async def test_caching_is_not_marked_where_it_is_not_wanted(caching: Any) -> None:
    info = replace(INFO, capabilities=replace(ALL, prompt_caching=caching))
    plain = await body(SYSTEM, HI, tools=(FIND,), info=info)
    assert await body(SYSTEM, HI, tools=(FIND,), info=info, cache_prefix=True) == plain
    assert await body(SYSTEM, HI, tools=(FIND,)) == plain


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"tools": (FIND,)}, "'m@P' cannot use tools"),
        ({"reply_schema": ReplySchema(name="a", schema={"type": "object"})}, "'m@P' cannot keep to a JSON schema"),
        (
            {"turns": (Turn(role="user", content="", pictures=(Picture(media_type="image/gif", data=b"G"),)),)},
            "'m@P' cannot see pictures",
        ),
        ({"turns": ()}, "every message is empty"),
        ({"turns": (Turn(role="user", content=" \n"),)}, "every message is empty"),
    ],
)
async def test_what_the_model_cannot_do_is_refused(more: dict[str, Any], why: str) -> None:
    request = ChatRequest(**{"turns": (HI,), **more})
    with pytest.raises(InvalidInput, match=why):
        await chat_body(request, replace(INFO, capabilities=Capabilities()), ENDPOINT)


async def test_reasoning_models_take_no_sampling() -> None:
    sampling = Sampling(temperature=0.1, top_p=0.2, max_tokens=9)
    found = await body(sampling=sampling, endpoint=replace(ENDPOINT, reasoning=True))
    assert found == {"messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 9}
