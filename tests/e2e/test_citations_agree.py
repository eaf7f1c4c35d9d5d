"""An answer's marks and sources, over real sockets: the same on every route, while it streams and ever after.

The model cites wrongly on purpose: one mark names a source that does not say it, one sentence rests on nothing.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from rag.testing.upstream_plan import Plan
from rag.testing.upstream_process import UpstreamProcess
from tests.e2e.serving import Serving, call, wait_ended

BRIDGE = b"The Aldermoor bridge was opened in 1932. It carries two lanes of traffic over the river Wend."
PAINT = b"The Aldermoor bridge is painted green every seven years. Its paint costs 41,000 pounds each time."
QUESTION = "When was the Aldermoor bridge opened, and what does its paint cost?"
OPENED = "The Aldermoor bridge was opened in 1932"
COSTS = "The paint of the Aldermoor bridge costs 41,000 pounds"
MADE_UP = "The Aldermoor bridge was sold in 1971 to a farmer"
RETENTION_S = 3.0


@pytest.fixture(scope="module")
def upstream() -> Iterator[UpstreamProcess]:
    with UpstreamProcess() as running:
        yield running


@pytest.fixture(scope="module")
def server(upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    env = {
        "OPENAI_API_KEY": "sk-test",
        "OPENAI_BASE_URL": upstream.url,
        "PARLEY_DIALOG__EVENT_RETENTION_S": str(RETENTION_S),
    }
    running = Serving(tmp_path_factory.mktemp("agree") / "data", env=env)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def dataset(server: Serving) -> str:
    with server.client() as client:
        made = str(call(client, "POST", "/api/v1/datasets", json={"name": "bridges"})["id"])
        path = f"/api/v1/datasets/{made}"
        files = [("file", ("bridge.txt", BRIDGE)), ("file", ("paint.txt", PAINT))]
        documents = call(client, "POST", f"{path}/documents", files=files)
        call(client, "POST", f"{path}/chunks", json={"document_ids": [each["id"] for each in documents]})
        wait_ended(client, dataset=made)
    return made


def frames(client: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    lines = client.post(path, json=body).text.splitlines()
    return [json.loads(line.removeprefix("data:")) for line in lines if line.startswith("data:{")]


def told(client: httpx.Client, path: str) -> dict[str, dict[str, Any]]:
    """The last event of each name on our events route."""
    lines = client.get(path).text.splitlines()
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return dict(zip(names, data, strict=True))


def seven(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What every route has of a source: where it is, and what it says."""
    keys = ("id", "content", "document_id", "document_name", "dataset_id", "positions")
    return [{key: chunk.get(key, chunk.get(f"chunk_{key}")) for key in keys} for chunk in chunks]


def numbers(client: httpx.Client, chat: str) -> tuple[int, int]:
    """The sources that hold the opening and the paint; they are found in the same order each time."""
    session = call(client, "POST", f"/api/v1/chats/{chat}/sessions", json={})["id"]
    body = {"question": QUESTION, "session_id": session, "stream": False}
    chunks = call(client, "POST", f"/api/v1/chats/{chat}/completions", json=body)["reference"]["chunks"]
    places = {chunk["document_name"]: number for number, chunk in enumerate(chunks)}
    return places["bridge.txt"], places["paint.txt"]


def test_an_answer_is_cited_the_same_everywhere(server: Serving, upstream: UpstreamProcess, dataset: str) -> None:
    with server.client() as client:
        chat = call(client, "POST", "/api/v1/chats", json={"name": "Ada", "dataset_ids": [dataset]})["id"]
        bridge, paint = numbers(client, chat)
        said = f"{OPENED} [ID:{bridge}]. {COSTS} [ID:{bridge}]. {MADE_UP} [ID:{paint}]."
        wanted = f"{OPENED} [ID:{bridge}]. {COSTS} [ID:{paint}]. {MADE_UP}."
        upstream.will(Plan(tokens=[f"{word} " for word in said.split(" ")][:-1] + [said.split(" ")[-1]]))
        base = f"/api/v1/chats/{chat}"
        session = call(client, "POST", f"{base}/sessions", json={})["id"]
        asked = {"question": QUESTION, "session_id": session, "stream": True}
        final = frames(client, f"{base}/completions", asked)[-2]["data"]
        assert final["answer"] == wanted
        chunks = final["reference"]["chunks"]
        assert {each["doc_name"] for each in final["reference"]["doc_aggs"]} == {"bridge.txt", "paint.txt"}

        events_path = f"{base}/sessions/{session}/messages/{final['id']}/events"
        replay = told(client, events_path)
        for name in ("citations", "done"):
            assert replay[name]["answer"] == wanted
            own = replay[name]["reference"]
            assert seven(own["chunks"]) == seven(chunks)
            assert own["doc_aggs"] == final["reference"]["doc_aggs"]
            assert [chunk["index"] for chunk in own["chunks"]] == list(range(len(chunks)))
            assert all("page" in chunk for chunk in own["chunks"])

        (listed,) = call(client, "GET", f"{base}/sessions", params={"id": session})
        saved = listed["messages"][-1]
        assert (saved["content"], seven(saved["reference"])) == (wanted, seven(chunks))

        message = call(client, "GET", f"{base}/sessions/{session}/messages/{final['id']}")
        assert (message["answer"], seven(message["reference"]["chunks"])) == (wanted, seven(chunks))

        time.sleep(RETENTION_S + 1)
        after = told(client, events_path)["done"]
        assert after["answer"] == wanted
        assert after["reference"] == replay["done"]["reference"]

        check_openai_faces(server, client, base, wanted, chunks)
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as page:
            assert page.get(server.sign_in_link()).status_code == 303
            page.headers["Origin"] = server.url
            row = call(page, "GET", "/v1/conversation/get", params={"conversation_id": session})
            assert row["message"][-1]["content"] == wanted
            assert seven(row["reference"][-1]["chunks"]) == seven(chunks)


def check_openai_faces(
    server: Serving, client: httpx.Client, base: str, wanted: str, chunks: list[dict[str, Any]]
) -> None:
    messages: Any = [{"role": "user", "content": QUESTION}]
    path = base.replace("/chats/", "/chats_openai/") + "/chat/completions"
    body = {"model": "m", "messages": messages, "reference": True}
    last = frames(client, path, body | {"stream": True})[-1]["choices"][0]["delta"]
    assert (last["final_content"], seven(last["reference"])) == (wanted, seven(chunks))
    whole = client.post(path, json=body | {"stream": False}).json()["choices"][0]["message"]
    assert (whole["content"], seven(whole["reference"])) == (wanted, seven(chunks))
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0) as official:
        reply = official.chat.completions.create(model="chat:Ada", messages=messages).choices[0].message
        assert reply.content == wanted
        cited = [note.url_citation for note in reply.annotations or ()]
        assert [wanted[each.start_index : each.end_index] for each in cited] == _marks(wanted)
        extra: Any = reply.model_extra
        assert [each["content"] for each in extra["references"]] == [chunk["content"] for chunk in chunks]
        assert [each["positions"] for each in extra["references"]] == [chunk["positions"] for chunk in chunks]
        streamed: list[dict[str, Any]] = []
        for part in official.chat.completions.create(model="chat:Ada", messages=messages, stream=True):
            for choice in part.choices:
                streamed += (choice.delta.model_extra or {}).get("annotations") or []
        titles = [each["url_citation"]["title"] for each in streamed]
        assert titles == [each.title for each in cited] == ["bridge.txt", "paint.txt"]


def _marks(text: str) -> list[str]:
    return [f"[ID:{part.partition(']')[0]}]" for part in text.split("[ID:")[1:]]


def test_what_rests_on_nothing_has_no_marks(server: Serving, upstream: UpstreamProcess, dataset: str) -> None:
    with server.client() as client:
        prompt = {"empty_response": "Nothing found, sorry."}
        llm = {"model_name": "extractive@Builtin"}
        made = {"name": "Empty", "dataset_ids": [dataset], "prompt": prompt, "llm": llm}
        chat = call(client, "POST", "/api/v1/chats", json=made)["id"]
        base = f"/api/v1/chats/{chat}"
        session = call(client, "POST", f"{base}/sessions", json={})["id"]
        asked = {"question": "Who won the chess championship in 1972?", "session_id": session, "stream": False}
        answer = call(client, "POST", f"{base}/completions", json=asked)
        assert answer["answer"] == "Nothing found, sorry."
        (listed,) = call(client, "GET", f"{base}/sessions", params={"id": session})
        assert listed["messages"][-1]["content"] == "Nothing found, sorry."
