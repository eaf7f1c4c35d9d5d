"""The official `openai` client, synchronous and not, against a real server whose model does as it is told: tools of the
client, settings and forms that reach the model, usage in tokens, and errors before and within a stream."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from rag.core.types import ToolCall
from rag.testing.upstream_plan import Plan
from rag.testing.upstream_process import UpstreamProcess
from tests.e2e.serving import Serving, call, wait_ended

NOTES = b"The Aldermoor bridge was opened in 1932. It carries two lanes of traffic over the river Wend."
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place.",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
    },
}
CALLS = (
    ToolCall(id="call_a", name="weather", arguments='{"at": "Bern"}'),
    ToolCall(id="call_b", name="weather", arguments='{"at": "Oslo"}'),
)
ROUND = Plan(tool_calls=CALLS, tools_first=True, tokens=("It ", "rains."), arguments_split=4)
ASKED = {"role": "user", "content": "Which weather do Bern and Oslo have?"}
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def upstream() -> Iterator[UpstreamProcess]:
    with UpstreamProcess() as running:
        yield running


@pytest.fixture(scope="module")
def server(upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    env = {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": upstream.url, "PARLEY_DIALOG__ATTEMPTS": "1"}
    running = Serving(tmp_path_factory.mktemp("tools") / "data", env=env)
    with running.client() as client:
        dataset = call(client, "POST", "/api/v1/datasets", json={"name": "bridges"})["id"]
        path = f"/api/v1/datasets/{dataset}"
        (document,) = call(client, "POST", f"{path}/documents", files={"file": ("bridge.txt", NOTES)})
        call(client, "POST", f"{path}/chunks", json={"document_ids": [document["id"]]})
        wait_ended(client, dataset)
        plain = {"prompt": "You are Ada.", "variables": []}
        call(client, "POST", "/api/v1/chats", json={"name": "Plain", "prompt": plain})
        call(client, "POST", "/api/v1/chats", json={"name": "Ada", "dataset_ids": [dataset]})
        keyless = {"name": "Keyless", "llm": {"model_name": "extractive@Builtin"}, "prompt": plain}
        call(client, "POST", "/api/v1/chats", json=keyless)
    yield running
    running.stop()


@pytest.fixture
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0) as made:
        yield made


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, server: Serving) -> Ask:
    """One call of either client: the completion, or the list of a stream's chunks. `model` is Plain unless named."""
    address = {"base_url": f"{server.url}/v1", "api_key": server.key, "max_retries": 0}

    def at_once(**body: Any) -> Any:
        with openai.OpenAI(**address) as client:
            reply = client.chat.completions.create(**{"model": "chat:Plain"} | body)
            return list(reply) if body.get("stream") else reply

    async def later(**body: Any) -> Any:
        async with openai.AsyncOpenAI(**address) as client:
            reply = await client.chat.completions.create(**{"model": "chat:Plain"} | body)
            return [chunk async for chunk in reply] if body.get("stream") else reply

    if request.param == "sync":
        return at_once
    runner = request.getfixturevalue("runner")
    return lambda **body: runner(later(**body))


@pytest.fixture
def runner() -> Iterator[Callable[[Any], Any]]:
    with asyncio.Runner() as loop:
        yield loop.run


def joined(chunks: list[ChatCompletionChunk]) -> tuple[str, list[dict[str, Any]], str | None]:
    """What a client makes of a stream: text, calls, and why it ended."""
    text, finish = "", None
    calls: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
            for part in choice.delta.tool_calls or ():
                held = calls.setdefault(part.index, {"id": part.id, "type": "function", "arguments": ""})
                assert part.function is not None
                held["name"] = held.get("name") or part.function.name
                held["arguments"] += part.function.arguments or ""
    return text, [calls[index] for index in sorted(calls)], finish


def told(reply: Any) -> tuple[str, list[dict[str, Any]], str | None]:
    if isinstance(reply, list):
        return joined(reply)
    assert isinstance(reply, ChatCompletion)
    (choice,) = reply.choices
    calls = [
        {"id": made.id, "type": made.type, "name": made.function.name, "arguments": made.function.arguments}
        for made in choice.message.tool_calls or ()
        if made.type == "function"
    ]
    return choice.message.content or "", calls, choice.finish_reason


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("model", ["chat:Plain", "chat:Ada", "dataset:bridges"])
def test_tools_of_the_client_go_there_and_back(ask: Ask, upstream: UpstreamProcess, model: str, stream: bool) -> None:
    upstream.will(ROUND)
    before = len(upstream.seen())
    text, calls, finish = told(ask(model=model, messages=[ASKED], tools=[WEATHER], stream=stream))
    assert (text, finish) == ("", "tool_calls")
    assert [(made["id"], made["name"], json.loads(made["arguments"])) for made in calls] == [
        ("call_a", "weather", {"at": "Bern"}),
        ("call_b", "weather", {"at": "Oslo"}),
    ]
    (asked,) = [seen.body for seen in upstream.seen(before)]
    assert [tool["function"]["name"] for tool in asked["tools"]] == ["weather"]

    made = [{"id": c["id"], "type": "function", "function": {k: c[k] for k in ("name", "arguments")}} for c in calls]
    messages = [
        ASKED,
        {"role": "assistant", "content": None, "tool_calls": made},
        {"role": "tool", "tool_call_id": "call_a", "content": "Rain."},
        {"role": "tool", "tool_call_id": "call_b", "content": "Snow."},
    ]
    text, calls, finish = told(ask(model=model, messages=messages, tools=[WEATHER], stream=stream))
    assert (text, calls, finish) == ("It rains.", [], "stop")
    given = upstream.seen()[-1].body["messages"]
    assert [message["role"] for message in given if message["role"] != "system"] == [
        "user",
        "assistant",
        "tool",
        "tool",
    ]
    assert [part["id"] for part in given[-3]["tool_calls"]] == ["call_a", "call_b"]
    assert [message["content"] for message in given[-2:]] == ["Rain.", "Snow."]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_settings_reach_the_model(ask: Ask, upstream: UpstreamProcess, stream: bool) -> None:
    upstream.will(Plan(tokens=("Yes", ".")))
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    ask(
        messages=[{"role": "system", "content": "Answer in French."}, {"role": "user", "content": "Well?"}],
        stream=stream,
        n=1,
        temperature=0.25,
        top_p=0.5,
        presence_penalty=0.125,
        frequency_penalty=-0.5,
        max_completion_tokens=77,
        stop=["END", "###"],
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        parallel_tool_calls=False,
        response_format={"type": "json_schema", "json_schema": {"name": "fact", "schema": schema}},
    )
    sent = upstream.seen()[-1].body
    wanted = {"temperature": 0.25, "top_p": 0.5, "presence_penalty": 0.125, "frequency_penalty": -0.5}
    assert {key: sent[key] for key in wanted} == wanted
    assert 77 in (sent.get("max_tokens"), sent.get("max_completion_tokens"))
    assert sent["stop"] == ["END", "###"]
    assert sent["tool_choice"] == "required"
    assert sent["parallel_tool_calls"] is False
    assert sent["response_format"]["json_schema"]["name"] == "fact"
    system = sent["messages"][0]
    assert system["role"] == "system"
    assert system["content"].startswith("You are Ada.")
    assert system["content"].endswith("Answer in French.")


def test_json_objects_have_no_marks(ask: Ask, upstream: UpstreamProcess) -> None:
    upstream.will(Plan(tokens=('{"opened": ', "1932}")))
    question = [{"role": "user", "content": "When was the Aldermoor bridge opened? As JSON."}]
    reply = ask(model="chat:Ada", messages=question, response_format={"type": "json_object"})
    assert json.loads(reply.choices[0].message.content) == {"opened": 1932}
    sent = upstream.seen()[-1].body
    assert sent["response_format"] == {"type": "json_object"}
    assert "1932" in sent["messages"][0]["content"]
    assert "[ID:" not in sent["messages"][0]["content"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_usage_is_in_tokens_and_sources_have_addresses(ask: Ask, upstream: UpstreamProcess, stream: bool) -> None:
    upstream.will(Plan(tokens=("It was opened in 1932 ", "[ID:0]."), prompt_tokens=321, cached_tokens=64))
    question = [{"role": "user", "content": "When was the Aldermoor bridge opened?"}]
    more = {"stream_options": {"include_usage": True}} if stream else {}
    reply = ask(model="chat:Ada", messages=question, stream=stream, **more)
    usage = reply[-1].usage if stream else reply.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (321, 2, 323)
    assert usage.prompt_tokens_details.cached_tokens == 64
    if stream:
        assert [chunk.usage for chunk in reply[:-1]] == [None] * (len(reply) - 1)
        (note,) = reply[-2].choices[0].delta.model_extra["annotations"]
    else:
        (noted,) = reply.choices[0].message.annotations
        note = noted.model_dump()
    citation = note["url_citation"]
    assert citation["title"] == "bridge.txt"
    assert "/documents/" in citation["url"]
    assert citation["page"] is None
    assert told(reply)[0][citation["start_index"] : citation["end_index"]] == "[ID:0]"


def test_errors_before_the_first_token_have_their_status(ask: Ask, upstream: UpstreamProcess) -> None:
    for stream in (False, True):
        upstream.will(Plan(fault="status", status=500))
        with pytest.raises(openai.InternalServerError) as caught:
            ask(messages=[ASKED], stream=stream)
        assert caught.value.status_code in (502, 503)
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["type"] == "server_error"


def test_a_stream_that_breaks_raises_in_the_client(ask: Ask, upstream: UpstreamProcess) -> None:
    upstream.will(Plan(tokens=("One ", "two ", "three."), fault="error_in_stream", after=2))
    with pytest.raises(openai.APIError, match="upstream says no"):
        ask(messages=[ASKED], stream=True)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"tools": [WEATHER]}, "cannot use tools"),
        ({"response_format": {"type": "json_object"}}, "cannot write JSON"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}},
            "cannot keep to a JSON schema",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_models_that_cannot_are_named(client: openai.OpenAI, body: dict[str, Any], reason: str, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match=reason):
        client.chat.completions.create(model="chat:Keyless", messages=[ASKED], stream=stream, **body)


def test_a_broken_tool_round_is_refused_with_its_place(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="answers no call") as caught:
        client.chat.completions.create(
            model="chat:Plain", messages=[ASKED, {"role": "tool", "tool_call_id": "x", "content": "y"}]
        )
    assert caught.value.param == "messages.1.tool_call_id"
