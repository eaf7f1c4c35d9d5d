"""Answers after research, and with pages of the web, over a whole server and a provider that does as it is told."""

import json
import re
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from rag.core.types import ToolCall
from rag.testing.upstream_plan import Plan
from rag.testing.upstream_process import UpstreamProcess
from tests.e2e.serving import Serving, call, wait_ended

KEY = "tvly-s3cret-of-a-chat"
CASH = "The company held 42 billion dollars in cash at the end of 2022."
DEBT = "Total debt of the company fell to 17 billion dollars during 2022."
PAGE = {"title": "Weather", "url": "https://weather.example/a", "content": "It rained in the valleys.", "score": 0.8}


READ = ToolCall(id="call_3", name="read_document", arguments='{"document": "debt.txt"}')


def search(number: int, question: str) -> ToolCall:
    return ToolCall(id=f"call_{number}", name="search_knowledge", arguments=json.dumps({"question": question}))


class WebService(BaseHTTPRequestHandler):
    """A search service; keeps what it was sent."""

    seen: list[tuple[str, str, Any]] = []
    status = 200

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, self.headers["Authorization"], body))
        reply = json.dumps({"results": [PAGE]}).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[UpstreamProcess]:
    with UpstreamProcess() as running:
        yield running


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    service = ThreadingHTTPServer(("127.0.0.1", 0), WebService)
    thread = threading.Thread(target=service.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{service.server_address[1]}"
    service.shutdown()
    thread.join()
    service.server_close()


@pytest.fixture(scope="module")
def server(upstream: UpstreamProcess, web: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    env = {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": upstream.url, "PARLEY_WEB_SEARCH__BASE_URL": web}
    running = Serving(tmp_path_factory.mktemp("reasoning") / "data", env=env)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[httpx.Client]:
    with server.client() as made:
        yield made


@pytest.fixture(scope="module")
def dataset(client: httpx.Client) -> str:
    made = call(client, "POST", "/api/v1/datasets", json={"name": "reports"})
    path = f"/api/v1/datasets/{made['id']}"
    for name, text in (("cash.txt", CASH), ("debt.txt", DEBT)):
        call(client, "POST", f"{path}/documents", files={"file": (name, text.encode())})
    documents = call(client, "GET", f"{path}/documents")["docs"]
    call(client, "POST", f"{path}/chunks", json={"document_ids": [each["id"] for each in documents]})
    assert {each["run"] for each in wait_ended(client, made["id"])} == {"DONE"}
    return str(made["id"])


def talk(client: httpx.Client, name: str, datasets: list[str], model: str | None = None, **prompt: Any) -> str:
    """The path of completions of a chat, and a session in it."""
    body: dict[str, Any] = {"name": name, "dataset_ids": datasets, "prompt": prompt}
    if model:
        body["llm"] = {"model_name": model}
    chat = call(client, "POST", "/api/v1/chats", json=body)
    session = call(client, "POST", f"/api/v1/chats/{chat['id']}/sessions", json={"name": "s"})
    return f"/api/v1/chats/{chat['id']}|{session['id']}"


def ask(client: httpx.Client, path: str, question: str) -> dict[str, Any]:
    chat, _, session = path.partition("|")
    body = {"question": question, "session_id": session, "stream": False}
    return dict(call(client, "POST", f"{chat}/completions", json=body))


def events(client: httpx.Client, path: str, message_id: str) -> list[tuple[str, Any]]:
    chat, _, session = path.partition("|")
    text = client.get(f"{chat}/sessions/{session}/messages/{message_id}/events").text
    frames = [frame.split("\n") for frame in text.split("\n\n") if "event: " in frame]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for _, name, data in frames]


def test_research_in_rounds_cites_with_one_numbering(
    client: httpx.Client, upstream: UpstreamProcess, dataset: str
) -> None:
    upstream.will(
        Plan(tokens=("First ", "the cash."), tool_calls=(search(1, "cash at the end of 2022"),)),
        Plan(tool_calls=(search(2, "total debt"), READ)),
        Plan(tokens=("Enough.",)),
        Plan(tokens=(CASH, " [ID:0] ", DEBT, " [ID:1]")),
    )
    path = talk(client, "research", [dataset], reasoning=True)
    before = len(upstream.seen())
    answer = ask(client, path, "How much cash, and how much debt?")
    requests = [seen.body for seen in upstream.seen()[before:]][:4]
    assert ["tools" in request for request in requests] == [True, True, True, False]
    assert [message["role"] for message in requests[3]["messages"]][-2:] == ["assistant", "user"]
    chunks = answer["reference"]["chunks"]
    by_text = {chunk["content"].strip(): number for number, chunk in enumerate(chunks)}
    assert by_text.keys() == {CASH, DEBT}
    told = answer["answer"].rpartition("</think>")[2]
    assert {int(mark) for mark in re.findall(r"\[ID:(\d+)\]", told)} <= {0, 1}
    happened = events(client, path, answer["id"])
    names = [name for name, _ in happened]
    assert names.count("tool_started") == names.count("tool_finished") == 3
    thinking = "".join(data["text"] for name, data in happened if name == "reasoning")
    assert "First the cash." in thinking
    assert "Searching: total debt" in thinking
    assert "Reading: debt.txt" in thinking
    numbered = [data["reference"]["chunks"] for name, data in happened if name == "retrieval_finished"]
    assert all(later[: len(sooner)] == sooner for sooner, later in zip(numbered, numbered[1:], strict=False))
    chat, _, session = path.partition("|")
    told = call(client, "GET", f"{chat}/sessions/{session}/messages/{answer['id']}")
    assert {"answer", "first_token", "prompt", "retrieve", "tools"} <= told["timings_ms"].keys()


def test_a_model_without_tools_plans_its_searches(
    client: httpx.Client, upstream: UpstreamProcess, dataset: str
) -> None:
    more = {"thought": "The debt is missing.", "queries": ["total debt"], "enough": False}
    enough = {"thought": "That is all.", "queries": [], "enough": True}
    upstream.will(Plan(tokens=(json.dumps(more),)), Plan(tokens=(json.dumps(enough),)), Plan(tokens=(CASH, " [ID:0]")))
    path = talk(client, "planned", [dataset], model="chatgpt-4o-latest@OpenAI", reasoning=True)
    before = len(upstream.seen())
    answer = ask(client, path, "How much cash, and how much debt?")
    first, second, last = [seen.body for seen in upstream.seen()[before:]][:3]
    assert first["response_format"]["json_schema"]["name"] == "research_plan"
    assert CASH in json.dumps(second["messages"])
    assert "response_format" not in last
    assert not [request for request in (first, second, last) if "tools" in request]
    assert CASH in answer["answer"]
    happened = events(client, path, answer["id"])
    thinking = "".join(data["text"] for name, data in happened if name == "reasoning")
    assert "The debt is missing.\nSearching: total debt\nThat is all." in thinking
    assert [name for name, _ in happened].count("tool_finished") == 2
    assert "<think>" in answer["answer"]


def test_the_built_in_model_answers_without_research(
    client: httpx.Client, upstream: UpstreamProcess, dataset: str
) -> None:
    path = talk(client, "built in", [dataset], model="extractive@Builtin", reasoning=True)
    before = len(upstream.seen())
    answer = ask(client, path, "How much cash did the company hold at the end of 2022?")
    assert "42 billion" in answer["answer"]
    assert "tool_started" not in [name for name, _ in events(client, path, answer["id"])]
    assert len(upstream.seen()) == before


def test_pages_of_the_web_are_cited_and_the_key_goes_nowhere_else(
    client: httpx.Client, server: Serving, upstream: UpstreamProcess
) -> None:
    upstream.will(Plan(tokens=("It rained in the valleys", " [ID:0].")))
    path = talk(client, "web", [], tavily_api_key=KEY)
    answer = ask(client, path, "Did it rain?")
    assert answer["answer"] == "It rained in the valleys [ID:0]."
    (chunk,) = answer["reference"]["chunks"]
    assert (chunk["url"], chunk["document_id"], chunk["content"]) == (PAGE["url"], "", PAGE["content"])
    where, authorization, body = WebService.seen[-1]
    assert (where, authorization, body["query"]) == ("/search", f"Bearer {KEY}", "Did it rain?")
    assert KEY not in json.dumps([seen.body for seen in upstream.seen()])
    chat = path.partition("|")[0].rpartition("/")[2]
    shown = client.get("/api/v1/chats", params={"id": chat}).text
    assert KEY not in shown
    assert '"tavily_api_key":"********"' in shown.replace(" ", "")
    rows = sqlite3.connect(f"file:{server.data_dir / 'rows.sqlite'}?mode=ro", uri=True)
    try:
        stored = rows.execute("SELECT prompt_config FROM dialog WHERE id = ?", (chat,)).fetchone()[0]
    finally:
        rows.close()
    assert KEY not in stored


def test_a_web_search_that_is_down_never_breaks_the_answer(
    client: httpx.Client, upstream: UpstreamProcess, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WebService, "status", 500)
    upstream.will(Plan(tokens=(CASH, " [ID:0]")))
    path = talk(client, "web down", [dataset], tavily_api_key=KEY)
    answer = ask(client, path, "How much cash did the company hold?")
    assert CASH in answer["answer"]
    assert {chunk["url"] for chunk in answer["reference"]["chunks"]} == {None}
