"""Follow-up questions and metadata filters over a whole server, with the built-in model."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.serving import Serving, call, wait_ended

TEXTS = {
    "bridge.txt": "The Aldermoor bridge was built by Ada Brook in 1931. The Aldermoor bridge is 412 metres long.",
    "tunnel.txt": "The Fennimore tunnel was dug by Carl Dunn in 1954. The Fennimore tunnel is 7,300 metres long.",
    "canal.txt": "The Ostler canal was dug by Eve Firth in 1811. The Ostler canal is 96,000 metres long.",
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    serving = Serving(tmp_path_factory.mktemp("understanding") / "data")
    try:
        with serving.client() as client:
            yield client
    finally:
        serving.stop()


@pytest.fixture(scope="module")
def dataset(client: httpx.Client) -> str:
    made = call(client, "POST", "/api/v1/datasets", json={"name": "works"})
    path = f"/api/v1/datasets/{made['id']}"
    for name, text in TEXTS.items():
        call(client, "POST", f"{path}/documents", files={"file": (name, text.encode())})
    for document in call(client, "GET", f"{path}/documents")["docs"]:
        year = {"bridge.txt": 1931, "tunnel.txt": "1954", "canal.txt": 1811}[document["name"]]
        call(client, "PUT", f"{path}/documents/{document['id']}", json={"meta_fields": {"year": year}})
        call(client, "POST", f"{path}/chunks", json={"document_ids": [document["id"]]})
    wait_ended(client, made["id"])
    return str(made["id"])


def chat(client: httpx.Client, dataset: str, name: str, **columns: Any) -> str:
    prompt = {"similarity_threshold": 0.1, "keywords_similarity_weight": 0.7, "top_n": 1, "empty_response": "Nothing."}
    body = {"name": name, "dataset_ids": [dataset], "llm": {"model_name": "extractive@Builtin"}, "prompt": prompt}
    made = call(client, "POST", "/api/v1/chats", json=body)
    if columns:
        call(client, "PUT", f"/api/v1/chats/{made['id']}", json={"dataset_ids": [dataset], **columns})
    return str(made["id"])


def answers(client: httpx.Client, chat_id: str, *questions: str) -> list[dict[str, Any]]:
    session = call(client, "POST", f"/api/v1/chats/{chat_id}/sessions", json={"name": "s"})
    path = f"/api/v1/chats/{chat_id}/completions"
    bodies = [{"question": question, "session_id": session["id"], "stream": False} for question in questions]
    return [call(client, "POST", path, json=body) for body in bodies]


def sources(answer: dict[str, Any]) -> list[str]:
    return [chunk["document_name"] for chunk in answer["reference"]["chunks"]]


@pytest.mark.parametrize("subject", ["bridge", "tunnel", "canal"])
def test_a_follow_up_is_about_what_was_asked_before(client: httpx.Client, dataset: str, subject: str) -> None:
    chat_id = chat(client, dataset, f"follow-up {subject}")
    name = {"bridge": "Aldermoor bridge", "tunnel": "Fennimore tunnel", "canal": "Ostler canal"}[subject]
    first, second = answers(client, chat_id, f"Who worked on the {name}?", "And how long is it in metres?")
    assert sources(first) == [f"{subject}.txt"]
    assert sources(second) == [f"{subject}.txt"]
    assert "metres long. [ID:0]" in second["answer"]


@pytest.mark.parametrize(
    ("operator", "value", "found"), [("≥", "1950", ["tunnel.txt"]), ("<", "1900", ["canal.txt"]), ("=", "2000", [])]
)
def test_a_chat_searches_only_what_meets_its_filter(
    client: httpx.Client, dataset: str, operator: str, value: str, found: list[str]
) -> None:
    wanted = {"method": "manual", "manual": [{"key": "year", "op": operator, "value": value}]}
    chat_id = chat(client, dataset, f"filter {operator}", meta_data_filter=wanted)
    (answer,) = answers(client, chat_id, "How long is it in metres?")
    assert sources(answer) == found
    assert (answer["answer"] == "Nothing.") is (not found)
