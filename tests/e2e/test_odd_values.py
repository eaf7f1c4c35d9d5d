"""Names, keys and questions that are special to SQL, to Elasticsearch or to C: kept and found as they are, or refused
with a sentence, on each choice of backends alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.e2e.serving import Serving, call, wait_ended

KEYS = (
    "it's",
    'say "x"',
    "`tick`",
    "a.b.c",
    ".",
    "*",
    "na*e",
    "%",
    "_id",
    "_source",
    "$where",
    "back\\slash",
    "'; DROP TABLE document; --",
    '{"match_all": {}}',
    "💥 キー",
    "nul\x00key",
    "ends in a blank ",
    "x" * 5000,
)
VALUES = {"kiln.txt": 'it\'s "hot" *.* \\ _id 💥', "river.txt": "%"}
ODD_NAMES = ("💥 fire", "👩‍👩‍👧 é ", "nul\x00here", 'it\'s "a" `name`', "a.b*", "_id", "%")


@dataclass
class World:
    """A dataset of two documents that any question about firing finds; both have a value for each of `KEYS`."""

    client: httpx.Client
    dataset: str
    documents: dict[str, str]

    def found(self, **more: Any) -> set[str]:
        """The documents that a search finds, by name."""
        body = {"question": "fired", "dataset_ids": [self.dataset], "similarity_threshold": 0.0} | more
        names = {document_id: name for name, document_id in self.documents.items()}
        return {
            names[hit["document_id"]] for hit in call(self.client, "POST", "/api/v1/retrieval", json=body)["chunks"]
        }


@pytest.fixture(scope="module")
def world(server: Serving) -> Iterator[World]:
    with server.client() as client:
        dataset = call(client, "POST", "/api/v1/datasets", json={"name": "odd"})["id"]
        path = f"/api/v1/datasets/{dataset}"
        files = [("file", (name, f"The {name[:-4]} was fired.".encode())) for name in VALUES]
        made = {row["name"]: row["id"] for row in call(client, "POST", f"{path}/documents", files=files)}
        call(client, "POST", f"{path}/chunks", json={"document_ids": list(made.values())})
        assert {row["run"] for row in wait_ended(client, dataset)} == {"DONE"}
        for name, document in made.items():
            meta = dict.fromkeys(KEYS, VALUES[name])
            call(client, "PUT", f"{path}/documents/{document}", json={"meta_fields": meta})
        yield World(client, dataset, made)


def refused_or(client: httpx.Client, method: str, path: str, **arguments: Any) -> Any:
    """The `data` of a reply; None if it is a refusal, which says why and is no breakdown."""
    response = client.request(method, path, **arguments)
    reply = response.json()
    assert response.status_code < 500, reply
    if reply["code"] == 0:
        return reply["data"]
    assert len(reply["message"]) > 10, reply
    assert "Traceback" not in response.text
    return None


def condition(name: str, operator: str, value: str) -> dict[str, Any]:
    return {"conditions": [{"name": name, "comparison_operator": operator, "value": value}]}


def test_metadata_keys_are_kept_as_they_are(world: World) -> None:
    for row in call(world.client, "GET", f"/api/v1/datasets/{world.dataset}/documents")["docs"]:
        assert row["meta_fields"] == dict.fromkeys(KEYS, VALUES[row["name"]])


@pytest.mark.parametrize("key", KEYS, ids=range(len(KEYS)))
def test_metadata_conditions_mean_what_they_say(world: World, key: str) -> None:
    assert world.found() == set(VALUES)
    for name, value in VALUES.items():
        assert world.found(metadata_condition=condition(key, "is", value)) == {name}
        assert world.found(metadata_condition=condition(key, "contains", value[-1])) == {name}
        assert world.found(metadata_condition=condition(key, "≠", value)) == set(VALUES) - {name}


@pytest.mark.parametrize("name", ["", "no'such.key*", "\x00", "_index", "live_version"])
def test_a_key_that_no_document_has_is_no_condition(world: World, name: str) -> None:
    assert world.found(metadata_condition=condition(name, "is", "'*.\x00")) == set(VALUES)


@pytest.mark.parametrize("given", [{"conditions": ["*"]}, {"conditions": "a'b"}, {"conditions": [{"_id": 1}]}, "*", 7])
def test_conditions_of_another_shape_are_refused(world: World, given: Any) -> None:
    body = {"question": "fired", "dataset_ids": [world.dataset], "metadata_condition": given}
    reply = world.client.post("/api/v1/retrieval", json=body).json()
    assert reply["code"] == 100
    assert reply["message"]


@pytest.mark.parametrize("question", ["'", '"', "*", "_id:*", "fired AND (", "\x00", "kiln\x00", "💥", "a'; DROP", "%"])
def test_questions_are_words_and_no_language(world: World, question: str) -> None:
    assert world.found(question=question) <= set(VALUES)
    assert "kiln" not in question or "kiln.txt" in world.found(question=question)


def test_a_question_of_20_000_words(world: World) -> None:
    question = "Was the kiln fired? " + " ".join(f"word{number % 9000}" for number in range(20_000))
    assert "kiln.txt" in world.found(question=question)
    chat = call(world.client, "POST", "/api/v1/chats", json={"name": "long", "dataset_ids": [world.dataset]})["id"]
    path = f"/api/v1/chats/{chat}"
    session = call(world.client, "POST", f"{path}/sessions", json={"name": "s"})["id"]
    ask = {"question": question, "session_id": session, "stream": False}
    answer = refused_or(world.client, "POST", f"{path}/completions", json=ask)
    assert answer is None or answer["answer"]


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("kind", ["datasets", "chats"])
def test_names_of_datasets_and_chats(world: World, kind: str, name: str) -> None:
    path = f"/api/v1/{kind}"
    made = refused_or(world.client, "POST", path, json={"name": name})
    if made is None:
        return
    kept = made["name"]
    assert kept == name.replace("\x00", "").strip()
    (found,) = call(world.client, "GET", path, params={"name": kept})
    assert (found["id"], found["name"]) == (made["id"], kept)
    call(world.client, "PUT", f"{path}/{made['id']}", json={"name": f"{name} 2"})
    (found,) = call(world.client, "GET", path, params={"id": made["id"]})
    assert found["name"] == f"{name} 2".replace("\x00", "")


@pytest.mark.parametrize("kind", ["datasets", "chats"])
@pytest.mark.parametrize("name", ["\x00", " \x00 ", ""])
def test_a_name_of_nothing_is_refused(world: World, kind: str, name: str) -> None:
    assert refused_or(world.client, "POST", f"/api/v1/{kind}", json={"name": name}) is None


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_of_files(world: World, name: str) -> None:
    path = f"/api/v1/datasets/{call(world.client, 'POST', '/api/v1/datasets', json={'name': 'files'})['id']}/documents"
    made = refused_or(world.client, "POST", path, files=[("file", (f"{name}.txt", b"some text"))])
    if made is None:
        return
    document = made[0]["id"]
    assert "\x00" not in made[0]["name"]
    if not {'"', "\x00"} & set(name):  # A header spells these otherwise.
        assert made[0]["name"] == f"{name}.txt".replace("\x00", "")
    assert world.client.get(f"{path}/{document}").content == b"some text"
    renamed = f"{name} again.txt"
    call(world.client, "PUT", f"{path}/{document}", json={"name": renamed})
    (found,) = call(world.client, "GET", path, params={"keywords": "again"})["docs"]
    assert found["name"] == renamed.replace("\x00", "")
