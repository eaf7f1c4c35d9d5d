"""The objects that contract rows can name."""

import itertools
import time
import uuid
from typing import Any

import httpx

from tests.contract.runner import page_headers

TEXT = "The Aldermoor bridge was opened in 1932. It carries two lanes of traffic over the river Wend.\n"


class World:
    """Makes objects on the server under test: datasets once, chats and sessions fresh for each row.

    | name | is |
    |---|---|
    | `dataset`, `document` | the id of a dataset with one parsed text about a bridge, and of that text |
    | `empty_dataset` | the id of a dataset without chunks |
    | `chat`, `chat_name` | the id and the name of a chat on `dataset` |
    | `plain_chat` | the id of a chat without datasets |
    | `session` | the id of a session of `chat` |
    | `dialog`, `plain_dialog` | the ids of two chats as the page makes them, on `dataset` and on nothing |
    | `conversation` | the id of a conversation of the page with `dialog` |
    | `own_id` | 32 hex digits that nothing has as its id |
    | `share` | a share token of the owner of all this |
    | `new_name` | a name that nothing has |
    """

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._numbers = itertools.count(1)
        self._lasting: dict[str, str] = {}
        self._row: dict[str, str] = {}

    def begin_row(self) -> None:
        """Forget the chats and sessions of the row before."""
        self._row = {}

    def make(self, name: str) -> str:
        """The object called `name`, as the table says."""
        if name not in self._row and name not in self._lasting:
            maker = getattr(self, f"_make_{name}", None)
            assert maker is not None, f"nothing is called {name!r}"
            maker()
        return self._row[name] if name in self._row else self._lasting[name]

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """One call by key that must succeed; its `data`."""
        return self._call(method, path, headers={"Authorization": self._client.headers["X-Test-Key"]}, **arguments)

    def call_page(self, method: str, path: str, **arguments: Any) -> Any:
        """One call of the page that must succeed; its `data`."""
        return self._call(method, path, headers=page_headers(self._client), **arguments)

    def _call(self, method: str, path: str, *, headers: dict[str, str], **arguments: Any) -> Any:
        body = self._client.request(method, path, headers=headers, **arguments).json()
        assert body["code"] == 0, body
        return body.get("data")

    def _make_new_name(self) -> None:
        self._row["new_name"] = f"name {next(self._numbers)}"

    def _make_chat_name(self) -> None:
        self._make_chat()

    def _make_chat(self) -> None:
        name = f"chat {next(self._numbers)}"
        made = self.call("POST", "/api/v1/chats", json={"name": name, "dataset_ids": [self.make("dataset")]})
        self._row |= {"chat": made["id"], "chat_name": name}

    def _make_plain_chat(self) -> None:
        made = self.call("POST", "/api/v1/chats", json={"name": f"plain {next(self._numbers)}"})
        self._row["plain_chat"] = made["id"]

    def _make_session(self) -> None:
        made = self.call("POST", f"/api/v1/chats/{self.make('chat')}/sessions", json={"name": "asked"})
        self._row["session"] = made["id"]

    def _make_own_id(self) -> None:
        self._row["own_id"] = uuid.uuid4().hex

    def _make_dialog(self) -> None:
        prompt = {
            "system": "Answer from this:\n{knowledge}",
            "prologue": "Hello there.",
            "parameters": [{"key": "knowledge", "optional": False}],
            "empty_response": "Nothing was found.",
            "quote": True,
        }
        body = {"name": f"dialog {next(self._numbers)}", "prompt_config": prompt, "kb_ids": [self.make("dataset")]}
        self._row["dialog"] = self.call_page("POST", "/v1/dialog/set", json=body)["id"]

    def _make_plain_dialog(self) -> None:
        prompt = {"system": "Be kind.", "prologue": "Hello there.", "parameters": []}
        body = {"name": f"plain dialog {next(self._numbers)}", "prompt_config": prompt}
        self._row["plain_dialog"] = self.call_page("POST", "/v1/dialog/set", json=body)["id"]

    def _make_conversation(self) -> None:
        body = {"conversation_id": self.make("own_id"), "is_new": True, "dialog_id": self.make("dialog")}
        self._row["conversation"] = self.call_page("POST", "/v1/conversation/set", json=body)["id"]

    def _make_share(self) -> None:
        self._lasting["share"] = self.call_page("POST", "/v1/system/new_token")["beta"]

    def _make_empty_dataset(self) -> None:
        made = self.call("POST", "/api/v1/datasets", json={"name": "nothing in it"})
        self._lasting["empty_dataset"] = made["id"]

    def _make_document(self) -> None:
        self._make_dataset()

    def _make_dataset(self) -> None:
        dataset = self.call("POST", "/api/v1/datasets", json={"name": "bridges"})["id"]
        path = f"/api/v1/datasets/{dataset}"
        files = {"file": ("bridge.txt", TEXT.encode())}
        (document,) = self.call("POST", f"{path}/documents", files=files)
        self.call("POST", f"{path}/chunks", json={"document_ids": [document["id"]]})
        deadline = time.monotonic() + 60
        while self.call("GET", f"{path}/documents")["docs"][0]["run"] != "DONE":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        self._lasting |= {"dataset": dataset, "document": document["id"]}
