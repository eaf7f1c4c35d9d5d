"""The official `ragflow-sdk` 0.22.1 against a real server: from a fresh folder to cited answers and back to nothing."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import requests
from ragflow_sdk import Chat, DataSet, RAGFlow, Session

from tests.e2e.conftest import REPORT
from tests.e2e.serving import Serving

pytestmark = pytest.mark.shared_data

NOTES = """Visitor notes

The Aldermoor bridge was opened in 1932. It carries two lanes of traffic over the river Wend.

The bridge is painted green every seven years. The paint costs 41,000 pounds.
"""
ABOUT_BRIDGE = "When was the Aldermoor bridge opened?"
ABOUT_STORES = "What was the $104.2 million increase in merchandise inventories primarily due to?"
INVENTORY_PAGE = 3


@pytest.fixture(scope="module")
def sdk(server: Serving) -> RAGFlow:
    return RAGFlow(server.key, server.url)


@pytest.fixture(scope="module")
def dataset(sdk: RAGFlow) -> DataSet:
    """A dataset with a report and a text, parsed."""
    if not REPORT.exists():
        pytest.skip("needs ../shared/data")
    made = sdk.create_dataset(name="reports", description="what the tests read")
    documents = made.upload_documents(
        [
            {"display_name": "ulta.pdf", "blob": REPORT.read_bytes()},
            {"display_name": "bridge.txt", "blob": NOTES.encode()},
        ]
    )
    assert [document.name for document in documents] == ["ulta.pdf", "bridge.txt"]
    results = made.parse_documents([document.id for document in documents])
    assert {state for _, state, _, _ in results} == {"DONE"}
    assert all(chunks > 0 for _, _, chunks, _ in results)
    return made


@pytest.fixture(scope="module")
def chat(sdk: RAGFlow, dataset: DataSet) -> Chat:
    return sdk.create_chat("Ada", dataset_ids=[dataset.id])


@pytest.fixture
def session(chat: Chat) -> Iterator[Session]:
    made = chat.create_session("what was asked")
    yield made
    chat.delete_sessions([made.id])


def documents_of(dataset: DataSet) -> dict[str, Any]:
    return {document.name: document for document in dataset.list_documents()}


def test_documents_are_done_and_counted(sdk: RAGFlow, dataset: DataSet) -> None:
    documents = documents_of(dataset)
    assert {document.run for document in documents.values()} == {"DONE"}
    assert documents["ulta.pdf"].progress == 1.0
    again = sdk.get_dataset(name="reports")
    assert again.document_count == 2
    assert again.chunk_count == sum(document.chunk_count for document in documents.values())


def test_chunks_name_their_page(dataset: DataSet) -> None:
    report = documents_of(dataset)["ulta.pdf"]
    chunks = report.list_chunks(page_size=1000)
    assert len(chunks) == report.chunk_count
    about_stores = [chunk for chunk in chunks if "47 new stores" in chunk.content]
    assert about_stores
    assert any(box[0] == INVENTORY_PAGE for chunk in about_stores for box in chunk.positions)
    for chunk in chunks:
        assert chunk.document_id == report.id
        for page, left, right, top, bottom in chunk.positions:
            assert page >= 1
            assert left <= right
            assert top <= bottom


def test_retrieval_finds_the_passage(sdk: RAGFlow, dataset: DataSet) -> None:
    found = sdk.retrieve(dataset_ids=[dataset.id], question=ABOUT_STORES, page_size=5)
    assert any("47 new stores" in chunk.content for chunk in found)
    best = [chunk.similarity for chunk in found]
    assert all(0.2 <= score <= 1.0 for score in best)
    (bridge,) = sdk.retrieve(dataset_ids=[dataset.id], question=ABOUT_BRIDGE, page_size=1)
    assert "1932" in bridge.content


def test_a_new_session_starts_with_the_opener(chat: Chat, session: Session) -> None:
    (opener,) = session.messages
    assert (opener["role"], opener["content"]) == ("assistant", chat.prompt.opener)
    assert session.chat_id == chat.id


def test_a_streamed_answer_is_cited_and_saved(chat: Chat, session: Session) -> None:
    messages = list(session.ask(ABOUT_STORES, stream=True))
    texts = [message.content for message in messages]
    final = messages[-1]
    assert "47 new stores" in final.content
    assert "[ID:" in final.content
    assert len(texts) >= 2
    assert texts[-2].replace(" ", "")[:40] == final.content.replace(" ", "")[:40]
    cited = final.reference[int(final.content.split("[ID:")[1].split("]")[0])]
    assert cited["document_name"] == "ulta.pdf"
    assert INVENTORY_PAGE in {box[0] for box in cited["positions"]}

    (saved,) = chat.list_sessions(id=session.id)
    opener, question, answer = saved.messages
    assert opener["role"] == "assistant"
    assert (question["role"], question["content"]) == ("user", ABOUT_STORES)
    assert answer["content"] == final.content
    assert answer["id"] == question["id"]
    keys = ("id", "content", "document_id", "document_name", "dataset_id", "image_id", "positions")
    assert answer["reference"] == [{key: chunk[key] for key in keys} for chunk in final.reference]


def test_an_answer_that_is_not_streamed(session: Session) -> None:
    (message,) = session.ask(ABOUT_BRIDGE, stream=False)
    assert "1932" in message.content
    assert any(chunk["document_name"] == "bridge.txt" for chunk in message.reference)


def test_a_second_question_leans_on_the_first(chat: Chat, session: Session) -> None:
    list(session.ask(ABOUT_BRIDGE, stream=True))
    list(session.ask("What does the paint of the bridge cost?", stream=True))
    (saved,) = chat.list_sessions(id=session.id)
    assert [message["role"] for message in saved.messages] == [
        "assistant",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert "41,000" in saved.messages[-1]["content"]


def test_what_is_not_in_the_documents_is_said_plainly(chat: Chat, dataset: DataSet, session: Session) -> None:
    (message,) = session.ask("Zyxgorble qwfpt brindlewomp?", stream=False)
    assert message.content == "Nothing in the documents answers this question."
    assert not message.reference
    prompt = {"empty_response": "I cannot say."}
    chat.update({"prompt": prompt, "dataset_ids": [dataset.id]})
    (message,) = session.ask("Zyxgorble qwfpt brindlewomp?", stream=True)
    assert message.content == "I cannot say."


def test_frames_are_the_contracts(server: Serving, chat: Chat, session: Session) -> None:
    """What `sessions.md` sections 5 and 6 say of headers, frames and keys, byte by byte."""
    with requests.post(
        f"{server.url}/api/v1/chats/{chat.id}/completions",
        json={"question": ABOUT_STORES, "session_id": session.id},
        headers={"Authorization": f"Bearer {server.key}"},
        stream=True,
        timeout=60,
    ) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["X-Accel-Buffering"] == "no"
        assert response.headers["Cache-Control"] == "no-cache"
        lines = response.content.decode().split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data:{") for line in lines)
    *partial, final, end = [json.loads(line.removeprefix("data:")) for line in lines]
    assert end == {"code": 0, "data": True}
    for frame in partial:
        assert set(frame) == {"code", "data"}
        assert set(frame["data"]) == {"answer", "reference", "audio_binary", "id", "session_id"}
        assert frame["data"]["reference"] == {"chunks": []}
    assert set(final["data"]) == {"answer", "reference", "prompt", "created_at", "id", "session_id"}
    assert set(final["data"]["reference"]) == {"total", "chunks", "doc_aggs"}
    assert set(final["data"]["reference"]["chunks"][0]) == {
        "id",
        "content",
        "document_id",
        "document_name",
        "dataset_id",
        "image_id",
        "positions",
        "url",
        "similarity",
        "vector_similarity",
        "term_similarity",
        "doc_type",
    }


def test_asking_without_a_session_makes_one(server: Serving, chat: Chat) -> None:
    with server.client() as client:
        reply = client.post(f"/api/v1/chats/{chat.id}/completions", json={"question": "lost"})
        opener, end = [json.loads(line[5:]) for line in reply.text.split("\n\n") if line]
        assert opener["data"]["answer"] == chat.prompt.opener
        assert opener["data"]["id"] is None
        assert end == {"code": 0, "message": "", "data": True}
        assert chat.list_sessions(id=opener["data"]["session_id"])
        chat.delete_sessions([opener["data"]["session_id"]])


def test_an_update_without_datasets_detaches_them(sdk: RAGFlow, dataset: DataSet) -> None:
    made = sdk.create_chat("Bob", dataset_ids=[dataset.id])
    made.update({"name": "Bobby"})
    (found,) = sdk.list_chats(id=made.id)
    assert found.name == "Bobby"
    assert found.datasets == []
    sdk.delete_chats([made.id])
    with pytest.raises(Exception, match="The chat doesn't exist"):
        sdk.list_chats(id=made.id)


def test_refusals_are_the_contracts_words(sdk: RAGFlow, chat: Chat, dataset: DataSet) -> None:
    with pytest.raises(Exception, match="Duplicated chat name in creating chat."):
        sdk.create_chat("ADA", dataset_ids=[dataset.id])
    with pytest.raises(Exception, match="You don't own the dataset nope"):
        sdk.create_chat("Eve", dataset_ids=["nope"])
    with pytest.raises(Exception, match="The chat doesn't own the session nope"):
        chat.delete_sessions(["nope"])
    with pytest.raises(Exception, match="API key is invalid"):
        RAGFlow("ragflow-wrong", sdk.api_url.removesuffix("/api/v1")).list_chats()


def test_everything_can_be_deleted(server: Serving, sdk: RAGFlow, dataset: DataSet, chat: Chat) -> None:
    session = chat.create_session()
    (answer,) = session.ask(ABOUT_BRIDGE, stream=False)
    assert answer.reference
    dataset.delete_documents([documents_of(dataset)["bridge.txt"].id])
    (saved,) = chat.list_sessions(id=session.id)
    assert saved.messages[-1]["reference"][0]["content"], "a saved reference keeps the text it cited"
    chat.delete_sessions()
    assert chat.list_sessions() == []
    sdk.delete_chats()
    assert sdk.list_chats() == []
    sdk.delete_datasets([dataset.id])
    with pytest.raises(Exception, match="lacks permission for dataset"):
        sdk.list_datasets(id=dataset.id)
    with server.client() as client:
        reply: httpx.Response = client.get(f"/api/v1/datasets/{dataset.id}/documents")
        assert SimpleNamespace(**reply.json()).code == 102
