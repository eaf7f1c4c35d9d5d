from typing import Any

import pytest
from pydantic import SecretStr

from rag.core.settings import load_settings
from rag.core.types import Picture, TokenUsage, ToolCall, Turn
from rag.llm.base import Capabilities, ChatRequest, ModelInfo, ReplySchema, Sampling, ToolSpec
from rag.llm.chat_body import chat_body
from rag.llm.endpoint import Endpoint
from rag.llm.interactions_body import interactions_body
from rag.llm.interactions_lane import InteractionsLane, InteractionsReader
from rag.llm.providers.table import FAMILIES
from rag.llm.registry import Registry, read_models_file
from rag.llm.tool_calls import GOOGLE_MARK
from rag.llm.upstream import UpstreamPool
from tests.unit.rag.llm.conftest import SECRET, SHORT

CAN = Capabilities(tools=True, parallel_tools=True, json_schema=True, vision=True, reasoning=True)
INFO = ModelInfo(name="gemini-x@Gemini", context_tokens=8192, max_output_tokens=1024, capabilities=CAN)
ENDPOINT = Endpoint(
    base_url="https://g.example/v1beta", api_key=SecretStr(SECRET), model="gemini-x", family=FAMILIES["gemini"]
)
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = ToolSpec(name="weather", description="Tells the weather.", parameters=CITY)


@pytest.fixture
def lane(pool: UpstreamPool) -> InteractionsLane:
    return InteractionsLane(INFO, ENDPOINT, pool=pool, deadlines=SHORT)


async def asked(request: ChatRequest) -> dict[str, Any]:
    return interactions_body(await chat_body(request, INFO, ENDPOINT), thinks=True)


async def test_a_round_of_tools_is_told_in_steps() -> None:
    call = ToolCall(id="c1", name="weather", arguments='{"city": "Zug"}', signature=f"{INFO.name} {GOOGLE_MARK}c2ln")
    body = await asked(
        ChatRequest(
            turns=(
                Turn(role="system", content="Be brief."),
                Turn(role="user", content="And here?", pictures=(Picture(media_type="image/png", data=b"png"),)),
                Turn(role="assistant", content="I will look.", tool_calls=(call,)),
                Turn(role="tool", content="sun", tool_call_id="c1"),
            ),
            tools=(WEATHER,),
        )
    )
    assert body["system_instruction"] == "Be brief."
    assert body["store"] is False
    assert body["input"] == [
        {
            "type": "user_input",
            "content": [
                {"type": "text", "text": "And here?"},
                {"type": "image", "mime_type": "image/png", "data": "cG5n"},
            ],
        },
        {"type": "model_output", "content": [{"type": "text", "text": "I will look."}]},
        {"type": "thought", "signature": "c2ln"},
        {"type": "function_call", "id": "c1", "name": "weather", "arguments": {"city": "Zug"}},
        {"type": "function_result", "call_id": "c1", "name": "weather", "result": "sun"},
    ]
    (tool,) = body["tools"]
    assert (tool["type"], tool["name"], "strict" in tool) == ("function", "weather", False)


async def test_sampling_and_schema_are_told() -> None:
    body = await asked(
        ChatRequest(
            turns=(Turn(role="user", content="hi"),),
            tools=(WEATHER,),
            tool_choice="required",
            reply_schema=ReplySchema(name="answer", schema={"type": "object"}),
            sampling=Sampling(temperature=0.1, top_p=0.3, max_tokens=9, stop=("END",)),
            extra={"reasoning_effort": "medium"},
        )
    )
    assert body["generation_config"] == {
        "temperature": 0.1,
        "top_p": 0.3,
        "max_output_tokens": 9,
        "stop_sequences": ["END"],
        "tool_choice": "any",
        "thinking_level": "high",
        "thinking_summaries": "auto",
    }
    assert body["response_format"]["mime_type"] == "application/json"
    assert body["response_format"]["schema"]["type"] == "object"


def start(index: int, **step: Any) -> dict[str, Any]:
    return {"event_type": "step.start", "index": index, "step": step}


def delta(index: int, **told: Any) -> dict[str, Any]:
    return {"event_type": "step.delta", "index": index, "delta": told}


def completed(status: str) -> dict[str, Any]:
    usage = {
        "total_input_tokens": 5,
        "total_tool_use_tokens": 2,
        "total_cached_tokens": 1,
        "total_output_tokens": 7,
        "total_thought_tokens": 3,
    }
    return {"event_type": "interaction.completed", "interaction": {"status": status, "usage": usage}}


def test_a_streamed_reply_is_read() -> None:
    reader = InteractionsReader(model=INFO.name)
    events = [
        start(0, type="thought"),
        delta(0, type="thought_summary", content={"type": "text", "text": "Hm."}),
        delta(0, type="thought_signature", signature="c2ln"),
        start(1, type="model_output"),
        delta(1, type="text", text="I will look."),
        start(2, type="google_search_call", id="s1"),
        delta(2, type="google_search_call", arguments={"queries": ["x"]}),
        start(3, type="function_call", id="c1", name="weather", arguments={}, signature=""),
        delta(3, type="arguments_delta", arguments='{"city": '),
        delta(3, type="arguments_delta", arguments='"Zug"}'),
    ]
    told = [reader.read(event) for event in events]
    assert ("".join(r for r, _ in told), "".join(t for _, t in told)) == ("Hm.", "I will look.")
    assert "".join(fragment.arguments for fragment in reader.take_fragments()) == '{"city": "Zug"}'
    assert reader.done is False
    reader.read(completed("requires_action"))
    assert reader.done is True
    last = reader.last()[-1]
    call = ToolCall(id="c1", name="weather", arguments='{"city": "Zug"}', signature=f"{INFO.name} {GOOGLE_MARK}c2ln")
    assert last.tool_calls == (call,)
    assert last.finish == "tool_calls"
    assert last.usage == TokenUsage(prompt_tokens=7, completion_tokens=10, cached_tokens=1, reasoning_tokens=3)


def test_impossible_figures_count_nothing() -> None:
    reader = InteractionsReader()
    usage = {"total_input_tokens": 10**9, "total_tool_use_tokens": 10**9, "total_output_tokens": 10**12}
    reader.read({"event_type": "interaction.completed", "interaction": {"status": "completed", "usage": usage}})
    assert reader.last()[-1].usage == TokenUsage(prompt_tokens=10**9)


@pytest.mark.parametrize(
    ("status", "finish"), [("completed", "stop"), ("incomplete", "length"), ("in_progress", "cut_off"), ("", "cut_off")]
)
def test_finish_reasons(status: str, finish: str) -> None:
    reader = InteractionsReader()
    reader.read(completed(status))
    assert reader.last()[-1].finish == finish


def test_failures_and_other_forms_are_seen(lane: InteractionsLane) -> None:
    assert lane._failure({"error": {"message": "no"}}) == {"message": "no"}
    assert lane._failure(completed("failed")) == {"message": "the interaction failed"}
    assert lane._failure(completed("completed")) is None
    assert InteractionsReader().read_whole({"candidates": []}) is None


def test_the_key_travels_as_google_wants_it(lane: InteractionsLane) -> None:
    assert lane._login()["x-goog-api-key"] == SECRET
    assert "Authorization" not in lane._login()


def test_a_provider_can_be_asked_so() -> None:
    file = read_models_file()
    entry = file.providers["Gemini"].model_copy(update={"chat_transport": "interactions"})
    chosen = file.model_copy(update={"providers": {"Gemini": entry}})
    registry = Registry(load_settings(environ={"GEMINI_API_KEY": "x"}), models_file=chosen)
    model = registry.chat(f"{next(name for name, each in entry.models.items() if each.kind == 'chat')}@Gemini")
    assert isinstance(model, InteractionsLane)
    assert model._url == "https://generativelanguage.googleapis.com/v1beta/interactions"
