"""Answers with tools over a whole server, with a real MCP server and a provider that does as it is told."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from rag.core.types import ToolCall
from rag.testing.upstream_plan import Plan
from rag.testing.upstream_process import UpstreamProcess
from tests.e2e.serving import Serving
from tests.servers.mcp_process import running_server

SECRET = "mcp-s3cret-of-the-operator"
KEY = ToolCall(id="call_1", name="helper__key", arguments="{}")
SLOW = ToolCall(id="call_1", name="helper__slow", arguments='{"seconds": 60}')


@pytest.fixture(scope="module")
def upstream() -> Iterator[UpstreamProcess]:
    with UpstreamProcess() as running:
        yield running


@pytest.fixture(scope="module")
def server(upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with running_server() as (url, _):
        env = {
            "OPENAI_API_KEY": "sk-test",
            "OPENAI_BASE_URL": upstream.url,
            "PARLEY_TOOLS__MCP_SERVERS__HELPER__URL": url,
            "PARLEY_TOOLS__MCP_SERVERS__HELPER__HEADERS": json.dumps({"X-Key": SECRET}),
            "PARLEY_TOOLS__TIMEOUT_S": "1.5",
        }
        running = Serving(tmp_path_factory.mktemp("tools") / "data", env=env)
        running.client().close()
        yield running
        running.stop()


@pytest.fixture
def client(server: Serving) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {server.key}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=30, trust_env=False) as made:
        yield made


def done(reply: httpx.Response) -> Any:
    body = reply.json()
    assert body["code"] == 0, body
    return body["data"]


def session(client: httpx.Client, name: str, **prompt: Any) -> tuple[str, str]:
    """A chat with these tools, and a session in it."""
    whole = {"prompt": "You help.", "variables": [], "refine_multiturn": False, **prompt}
    chat = done(client.post("/api/v1/chats", json={"name": name, "prompt": whole}))
    return chat["id"], done(client.post(f"/api/v1/chats/{chat['id']}/sessions", json={"name": "s"}))["id"]


def ask(client: httpx.Client, chat: str, session_id: str, question: str) -> dict[str, Any]:
    body = {"question": question, "session_id": session_id, "stream": False}
    return dict(done(client.post(f"/api/v1/chats/{chat}/completions", json=body)))


def events(client: httpx.Client, chat: str, session_id: str, message_id: str) -> list[tuple[str, Any]]:
    text = client.get(f"/api/v1/chats/{chat}/sessions/{session_id}/messages/{message_id}/events").text
    frames = [frame.split("\n") for frame in text.split("\n\n") if "event: " in frame]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for _, name, data in frames]


def test_a_tool_of_an_mcp_server_is_used_in_two_requests(client: httpx.Client, upstream: UpstreamProcess) -> None:
    upstream.will(Plan(tool_calls=(KEY,), tools_first=True, tokens=("It ", "knows.")))
    chat, session_id = session(client, "with tools", tools=["helper"])
    before = len(upstream.seen())
    answer = ask(client, chat, session_id, "Which key?")
    assert answer["answer"] == "It knows."
    first, second = [seen.body for seen in upstream.seen()[before:]]
    assert "helper__key" in [tool["function"]["name"] for tool in first["tools"]]
    assert first["tools"] == second["tools"]
    assert second["messages"][-1]["content"] == SECRET
    told = events(client, chat, session_id, answer["id"])
    names = [name for name, _ in told if name.startswith("tool")]
    assert names == ["tool_started", "tool_finished"]
    assert next(data for name, data in told if name == "tool_finished")["error"] == ""


def test_a_tool_that_is_too_slow_is_told_and_the_answer_comes(client: httpx.Client, upstream: UpstreamProcess) -> None:
    upstream.will(Plan(tool_calls=(SLOW,), tools_first=True, tokens=("Too ", "slow.")))
    chat, session_id = session(client, "slow tool", tools=["helper"])
    assert ask(client, chat, session_id, "Wait?")["answer"] == "Too slow."
    assert "seconds" in upstream.seen()[-1].body["messages"][-1]["content"]


def test_tools_that_the_provider_refuses_fail_one_message_and_no_more(
    client: httpx.Client, upstream: UpstreamProcess
) -> None:
    refusal = {"message": "Invalid schema for function 'helper__key'.", "type": "invalid_request_error"}
    upstream.will(Plan(fault="status", status=400, error=refusal), Plan(tokens=("All ", "well.")))
    chat, session_id = session(client, "refused", tools=["helper"])
    failed = ask(client, chat, session_id, "One?")
    assert failed["answer"].startswith("**ERROR**")
    assert "Invalid schema" in failed["answer"]
    assert events(client, chat, session_id, failed["id"])[-1][0] == "failed"
    assert ask(client, chat, session_id, "Two?")["answer"] == "All well."
    (stored,) = done(client.get(f"/api/v1/chats/{chat}/sessions", params={"id": session_id}))
    statuses = [message.get("status") for message in stored["messages"] if message["role"] == "assistant"]
    assert statuses[1:] == ["failed", None]


def test_users_cannot_name_servers_of_their_own(client: httpx.Client, upstream: UpstreamProcess) -> None:
    upstream.will(Plan(tokens=("Plain.",)))
    server_of_mine = {"url": "http://127.0.0.1:9/mcp", "command": "sh"}
    chat, session_id = session(
        client, "own", tools=[server_of_mine, "http://127.0.0.1:9/mcp"], mcp_servers=server_of_mine
    )
    assert ask(client, chat, session_id, "Hello?")["answer"] == "Plain."
    assert "tools" not in upstream.seen()[-1].body


def test_headers_of_the_settings_leave_the_server_in_no_reply(client: httpx.Client) -> None:
    for path in ("/api/v1/chats", "/v1/system/status", "/healthz", "/readyz", "/openapi.json", "/metrics"):
        assert SECRET not in client.get(path).text
