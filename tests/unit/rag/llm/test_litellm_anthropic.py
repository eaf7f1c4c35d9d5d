"""Anthropic's messages by way of LiteLLM: what our requests become there, and what its replies become here."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from rag.core.blocking import Lane, run_in
from rag.core.errors import ModelRefused
from rag.core.types import Picture, TokenUsage, ToolCall, Turn
from rag.llm import litellm_port
from rag.llm.base import ReplySchema, Sampling
from rag.llm.chat_model import LiteLLMBase
from rag.llm.deadlines import Deadlines
from rag.llm.endpoint import Endpoint
from rag.llm.providers.claude import ANTHROPIC
from rag.testing.chat_model_suite import FIND, TWO_CALLS, ToolModelSuite, a_request, said_by, with_tools
from rag.testing.upstream import FaultyUpstream, Plan
from tests.unit.rag.llm.conftest import INFO, SECRET, OverUpstream

# The library's objects do not fit their own pydantic schema, and it leaves a client to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
MARKED = replace(INFO, name="claude@Anthropic", capabilities=replace(INFO.capabilities, prompt_caching="marked"))
MARK = {"type": "ephemeral"}


@pytest.fixture
async def claude(endpoint: Endpoint, upstream: FaultyUpstream) -> AsyncIterator[LiteLLMBase]:
    await run_in(Lane.MODEL, litellm_port.load)
    there = replace(endpoint, base_url=upstream.root, litellm_prefix="anthropic", model="claude-sonnet-4-5")
    yield LiteLLMBase(MARKED, there, deadlines=Deadlines(first_token_s=5.0, next_token_s=5.0, answer_s=9.0))
    await litellm_port.close_clients()


class TestTools(ToolModelSuite):
    @pytest.fixture
    def steered(self, claude: LiteLLMBase, upstream: FaultyUpstream) -> OverUpstream:
        # The format sends one block after the other.
        return OverUpstream(claude, upstream, interleaved=False)


async def sent(claude: LiteLLMBase, upstream: FaultyUpstream, **more: Any) -> dict[str, Any]:
    await said_by(claude, replace(with_tools(), **more))
    return upstream.requests[-1].body


async def test_temperature_and_top_p_do_not_go_together(claude: LiteLLMBase, upstream: FaultyUpstream) -> None:
    claude._endpoint = replace(claude._endpoint, family=ANTHROPIC)
    body = await sent(claude, upstream, sampling=Sampling(temperature=0.1, top_p=0.3))
    assert (body["temperature"], body.get("top_p")) == (0.1, None)


SYSTEM = Turn(role="system", content="Be brief.")


async def test_caching_is_marked_on_the_wire(claude: LiteLLMBase, upstream: FaultyUpstream) -> None:
    turns = (SYSTEM, replace(SYSTEM, content="Cite."), *a_request().turns)
    body = await sent(claude, upstream, turns=turns, cache_prefix=True)
    assert [part.get("cache_control") for part in body["system"]] == [None, MARK]
    assert [tool.get("cache_control") for tool in body["tools"]] == [None, MARK]
    plain = await sent(claude, upstream, turns=turns)
    assert "cache_control" not in str(plain)


async def test_the_prefix_stays_the_same_over_the_rounds(claude: LiteLLMBase, upstream: FaultyUpstream) -> None:
    asked = Turn(role="assistant", content="", tool_calls=TWO_CALLS)
    results = [Turn(role="tool", content="Found.", tool_call_id=call.id) for call in TWO_CALLS]
    first = await sent(claude, upstream, turns=(SYSTEM, *a_request().turns), cache_prefix=True)
    second = await sent(
        claude, upstream, turns=(SYSTEM, *a_request().turns, asked, *results), tools=(FIND,), cache_prefix=True
    )
    third = await sent(claude, upstream, turns=(SYSTEM, *a_request().turns, asked, *results), cache_prefix=True)
    assert first["system"] == second["system"] == third["system"]
    assert first["tools"] == third["tools"] != second["tools"]
    assert third["messages"][: len(first["messages"])] == first["messages"]


async def test_cached_tokens_are_told_apart(claude: LiteLLMBase, upstream: FaultyUpstream) -> None:
    upstream.will(Plan(cached_tokens=8))
    last = (await said_by(claude, a_request()))[-1]
    assert last.usage == TokenUsage(prompt_tokens=11, completion_tokens=4, cached_tokens=8)


async def test_signed_thinking_goes_back_with_the_calls_it_led_to(
    claude: LiteLLMBase, upstream: FaultyUpstream
) -> None:
    upstream.will(Plan(tokens=(), reasoning=("Hm", "m"), tool_calls=TWO_CALLS), Plan())
    deltas = await said_by(claude, with_tools())
    calls = deltas[-1].tool_calls
    assert [(call.id, call.name) for call in calls] == [(call.id, call.name) for call in TWO_CALLS]
    assert "".join(delta.reasoning for delta in deltas) == "Hmm"
    asked = Turn(role="assistant", content="", tool_calls=calls)
    results = [Turn(role="tool", content="Found.", tool_call_id=call.id) for call in calls]
    body = await sent(claude, upstream, turns=(*a_request().turns, asked, *results))
    thinking, *uses = body["messages"][1]["content"]
    assert thinking == {"type": "thinking", "thinking": "Hmm", "signature": "c2lnbmVk"}
    assert [use["id"] for use in uses] == ["call_a", "call_b"]


async def test_pictures_are_sent_as_data(claude: LiteLLMBase, upstream: FaultyUpstream) -> None:
    picture = Picture(media_type="image/png", data=b"\x89PNG")
    body = await sent(claude, upstream, turns=(Turn(role="user", content="What?", pictures=(picture,)),), tools=())
    _, shown = body["messages"][0]["content"]
    assert shown == {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}}


async def test_a_reply_schema_is_sent(claude: LiteLLMBase, upstream: FaultyUpstream) -> None:
    schema = ReplySchema(name="answer", schema={"type": "object", "properties": {"a": {"type": "string"}}})
    body = await sent(claude, upstream, tools=(), reply_schema=schema)
    assert '"a"' in str(body).replace("'", '"')
    assert {"output_format", "output_config", "tools"} & body.keys()


@pytest.mark.parametrize("choice", ["none", "required"])
async def test_how_tools_may_be_chosen(claude: LiteLLMBase, upstream: FaultyUpstream, choice: Any) -> None:
    body = await sent(claude, upstream, tool_choice=choice, parallel_tools=False)
    assert body["tool_choice"]["type"] == {"none": "none", "required": "any"}[choice]
    if choice == "required":
        assert body["tool_choice"]["disable_parallel_tool_use"] is True


async def test_a_history_with_broken_arguments_is_sent_whole(claude: LiteLLMBase, upstream: FaultyUpstream) -> None:
    broken = ToolCall(id="call_a", name="find", arguments='{"query": "G', problem="The call cannot be used.")
    turns = (
        *a_request().turns,
        Turn(role="assistant", content="Let me see.", tool_calls=(broken,)),
        Turn(role="tool", content="Error: The call cannot be used.", tool_call_id="call_a"),
    )
    body = await sent(claude, upstream, turns=turns)
    assert body["messages"][1]["content"][-1]["input"] == {}


async def test_no_secret_of_the_login_shows(endpoint: Endpoint, upstream: FaultyUpstream) -> None:
    await run_in(Lane.MODEL, litellm_port.load)
    upstream.will(Plan(fault="status", status=401, error={"message": f"bad {SECRET}"}))
    model = LiteLLMBase(INFO, endpoint, deadlines=Deadlines())
    with pytest.raises(ModelRefused) as caught:
        await said_by(model, a_request())
    assert "bad ***" in str(caught.value)
    await litellm_port.close_clients()
