"""What a browser does against a real server: sign in, make a chat, ask, read again, rate, delete."""

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.e2e.serving import Serving, call, wait_ended
from tests.e2e.stacks import Stack

TEXT = b"The Aldermoor bridge was opened in 1932.\n\nThe paint of the bridge costs 41,000 pounds.\n"
OPENED, PAINT = "When was the Aldermoor bridge opened?", "What does the paint of the bridge cost?"
PROMPT = {
    "system": "Answer from this:\n{knowledge}",
    "prologue": "Hello there.",
    "parameters": [{"key": "knowledge", "optional": False}],
    "quote": True,
}


@pytest.fixture(scope="module")
def server(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("page") / "data"
    running = Serving(folder, env=stack.environment(folder) | {"PARLEY_AUTH__REGISTER_ENABLED": "true"})
    running.client().close()
    yield running
    running.stop()


@pytest.fixture(scope="module", params=["link", "login"])
def browser(request: pytest.FixtureRequest, server: Serving) -> Iterator[httpx.Client]:
    """Somebody who is signed in: by the printed link, or by name and password."""
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        if request.param == "link":
            assert client.get(server.sign_in_link()).status_code == 303
            client.headers["Origin"] = server.url
        else:
            person = {"nickname": "Ann", "email": "ann@example.org", "password": "correct horse"}
            registered = client.post("/v1/user/register", json=person)
            assert registered.json()["message"] == "Ann, welcome aboard!"
            client.headers["Authorization"] = registered.headers["Authorization"]
        yield client


@pytest.fixture(scope="module")
def dataset(browser: httpx.Client) -> str:
    """A parsed text of whoever is signed in."""
    key = call(browser, "POST", "/v1/system/new_token")["token"]
    with httpx.Client(base_url=browser.base_url, timeout=60, trust_env=False) as api:
        api.headers["Authorization"] = f"Bearer {key}"
        made = str(call(api, "POST", "/api/v1/datasets", json={"name": "bridges"})["id"])
        path = f"/api/v1/datasets/{made}"
        (document,) = call(api, "POST", f"{path}/documents", files={"file": ("bridge.txt", TEXT)})
        call(api, "POST", f"{path}/chunks", json={"document_ids": [document["id"]]})
        assert [each["run"] for each in wait_ended(api, made)] == ["DONE"]
    return made


@dataclass
class Tab:
    """A conversation as a page keeps it."""

    browser: httpx.Client
    dialog: str
    id: str
    messages: list[dict[str, Any]]

    def ask(self, question: str) -> list[Any]:
        """The frames of the answer, which the page puts behind what was said."""
        self.messages.append({"role": "user", "content": question, "id": str(uuid.uuid4())})
        body = {"conversation_id": self.id, "messages": self.messages}
        with self.browser.stream("POST", "/v1/conversation/completion", json=body) as response:
            assert response.headers["Content-Type"].startswith("text/event-stream")
            assert response.headers["X-Accel-Buffering"] == "no"
            text = response.read().decode()
        assert all(each.startswith("data:{") for each in text.split("\n\n") if each)
        frames = [json.loads(each.removeprefix("data:")) for each in text.split("\n\n") if each]
        answer = {"role": "assistant", "content": frames[-2]["data"]["answer"], "id": self.messages[-1]["id"]}
        self.messages.append(answer)
        return frames

    def stored(self) -> Any:
        return call(self.browser, "GET", "/v1/conversation/get", params={"conversation_id": self.id})

    def change(self, route: str, **body: Any) -> Any:
        return call(self.browser, "POST", f"/v1/conversation/{route}", json={"conversation_id": self.id} | body)


@pytest.fixture
def tab(browser: httpx.Client, dataset: str) -> Iterator[Tab]:
    fields = {"name": f"chat {uuid.uuid4()}", "prompt_config": PROMPT, "kb_ids": [dataset]}
    dialog = call(browser, "POST", "/v1/dialog/set", json=fields)["id"]
    wanted = {"conversation_id": uuid.uuid4().hex, "is_new": True, "dialog_id": dialog, "name": "What about it?"}
    made = call(browser, "POST", "/v1/conversation/set", json=wanted)
    assert made["id"] == wanted["conversation_id"]
    yield Tab(browser, dialog, made["id"], made["message"])
    assert call(browser, "POST", "/v1/conversation/rm", json={"conversation_ids": [made["id"]]}) is True
    assert call(browser, "POST", "/v1/dialog/rm", json={"dialog_ids": [dialog]}) is True


def test_ask_read_rate_delete(tab: Tab) -> None:
    *partial, final, end = tab.ask(OPENED)
    assert end == {"code": 0, "message": "", "data": True}
    assert all(set(frame) == {"code", "message", "data"} for frame in (*partial, final))
    texts = [frame["data"]["answer"] for frame in partial]
    assert all(after.startswith(before) for before, after in zip(texts, texts[1:], strict=False))
    assert "1932" in final["data"]["answer"]
    assert "[ID:0]" in final["data"]["answer"]
    question = tab.messages[1]["id"]
    assert {frame["data"]["id"] for frame in (*partial, final)} == {question}

    stored = tab.stored()
    assert [(each["role"], each["content"]) for each in stored["message"]] == [
        (each["role"], each["content"]) for each in tab.messages
    ]
    assert stored["reference"] == [final["data"]["reference"]]
    (listed,) = call(tab.browser, "GET", "/v1/conversation/list", params={"dialog_id": tab.dialog})
    assert listed["message"] == stored["message"]

    second = tab.ask(PAINT)[-2]["data"]
    assert "41,000" in second["answer"]
    assert tab.stored()["reference"] == [final["data"]["reference"], second["reference"]]

    rated = tab.change("thumbup", message_id=question, thumbup=False, feedback="Too short.")
    assert [each.get("thumbup") for each in rated["message"]] == [None, None, False, None, None]
    assert tab.stored()["message"][2]["feedback"] == "Too short."

    left = tab.change("delete_msg", message_id=question)
    assert [each["content"] for each in left["message"]] == ["Hello there.", PAINT, second["answer"]]
    assert left["reference"] == [second["reference"]]
    assert tab.stored()["message"] == left["message"]


def test_asking_again_replaces_the_answer(tab: Tab) -> None:
    tab.ask(PAINT)
    tab.ask(OPENED)
    del tab.messages[-1]
    again = tab.messages.pop()
    frames = tab.ask(again["content"])
    stored = tab.stored()
    assert len(stored["message"]) == 5
    assert stored["message"][-1]["content"] == frames[-2]["data"]["answer"]
    assert stored["reference"][-1] == frames[-2]["data"]["reference"]


def test_a_page_that_leaves_finds_its_answer_later(tab: Tab) -> None:
    body = {"conversation_id": tab.id, "messages": [*tab.messages, {"role": "user", "content": OPENED, "id": "q1"}]}
    with tab.browser.stream("POST", "/v1/conversation/completion", json=body) as response:
        assert next(response.iter_raw())
    deadline = time.monotonic() + 20
    while "status" in (answer := tab.stored()["message"][-1]):
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)
    assert "1932" in answer["content"]


def test_another_model_for_once_leaves_no_trace(tab: Tab) -> None:
    body = {"messages": [{"role": "user", "content": OPENED, "id": "q1"}], "llm_id": "extractive@Builtin"}
    assert "1932" in tab.change("completion", **body, stream=False)["answer"]
    assert [each["content"] for each in tab.stored()["message"]] == ["Hello there."]
