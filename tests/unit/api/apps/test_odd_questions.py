"""Questions and conversations that are long or strange never hold the loop: these tests run on a watched one."""

import json
from typing import Any

import pytest

from api.db.tables import Message
from rag.core.types import ChunkText, Hit, Retrieved
from tests.unit.api.apps.web import Person, Web

SENTENCE = "The Aldermoor bridge was opened in 1932. "
LONG = {
    "words": "bridge opened " * (1 << 16),
    "one word": "x" * (1 << 20),
    "emoji": "🌉" * (1 << 17),
    "control characters": "\x00\x01\x1b\u202e" * (1 << 15),
    "marks": "[ID:0] " * (1 << 17),
    "slots": "{knowledge} {wish 0} {} " * (1 << 15),
    "lines": "\n" * (1 << 19),
    "tags": "</source><source id=0>" * (1 << 15),
    "sentences": SENTENCE * (1 << 14),
}


class Finds:
    """Finds one passage, or a very long one."""

    def __init__(self, content: str = SENTENCE) -> None:
        self.content = content

    async def retrieve(self, place: Any, *, embed: Any, question: str, **_: Any) -> Retrieved:
        chunk = ChunkText(
            chunk_id="0" * 16,
            document_id="d",
            version_id="v",
            dataset_id="k",
            document_name="bridge.txt",
            ordinal=0,
            content=self.content,
        )
        hit = Hit(chunk=chunk, rank=1, similarity=0.9, vector_similarity=0.9, term_similarity=0.9, fused=1.0)
        return Retrieved(hits=(hit,), total=1)


@pytest.fixture
async def asked(site: Web, monkeypatch: pytest.MonkeyPatch) -> tuple[Web, Person, str, str]:
    """The site, Ann, her chat and a dataset in which everything finds a passage."""
    monkeypatch.setattr(site.services.retrieval, "_retriever", Finds())
    ann = await site.person("ann")
    dataset, _ = await site.dataset(ann, "papers", "a.txt")
    chat = (await site.call("POST", "/api/v1/chats", ann, json={"name": "odd"}))["data"]["id"]
    return site, ann, chat, dataset


@pytest.mark.parametrize("question", LONG.values(), ids=LONG)
async def test_long_questions(asked: tuple[Web, Person, str, str], question: str) -> None:
    site, ann, chat, dataset = asked
    path = f"/api/v1/chats/{chat}"
    session = (await site.call("POST", f"{path}/sessions", ann, json={"name": "s"}))["data"]["id"]
    for stream in (False, True):
        body = {"question": question, "session_id": session, "kb_ids": [dataset], "stream": stream}
        response = await site.send("POST", f"{path}/completions", ann, content=json.dumps(body).encode())
        text = (await response.get_data()).decode()
        assert response.status_code == 200
        assert '"answer"' in text, text[:500]
    (stored,) = (await site.call("GET", f"{path}/sessions", ann))["data"]
    assert [each["content"] == question for each in stored["messages"] if each["role"] == "user"] == [True, True]


@pytest.mark.parametrize("face", ["/v1", "/api/v1/chats_openai"])
@pytest.mark.parametrize("roles", [("user", "assistant"), ("user",), ("assistant",), ("tool round",)])
async def test_ten_thousand_messages(asked: tuple[Web, Person, str, str], face: str, roles: tuple[str, ...]) -> None:
    site, ann, chat, _ = asked
    if roles == ("tool round",):
        call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
        messages: list[dict[str, Any]] = [{"role": "user", "content": "Well?"}]
        for number in range(5000):
            messages.append({"role": "assistant", "content": "I look.", "tool_calls": [call | {"id": f"c{number}"}]})
            messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": "Nothing."})
    else:
        messages = [{"role": roles[n % len(roles)], "content": f"Message {n}."} for n in range(10_000)]
    messages.append({"role": "user", "content": "When was the bridge opened?"})
    for stream in (False, True):
        body = json.dumps({"model": chat, "messages": messages, "stream": stream}).encode()
        place = face if face == "/v1" else f"{face}/{chat}"
        response = await site.send("POST", f"{place}/chat/completions", ann, content=body)
        assert response.status_code == 200
        assert b'"content"' in await response.get_data()


async def test_fifty_thousand_messages_of_a_letter(asked: tuple[Web, Person, str, str]) -> None:
    site, ann, chat, _ = asked
    messages = [{"role": "user", "content": "x"}] * 50_000
    body = json.dumps({"model": chat, "messages": messages, "stream": False}, separators=(",", ":")).encode()
    response = await site.send("POST", "/v1/chat/completions", ann, content=body)
    assert response.status_code == 200


async def test_a_session_of_ten_thousand_messages(asked: tuple[Web, Person, str, str]) -> None:
    site, ann, chat, dataset = asked
    path = f"/api/v1/chats/{chat}"
    session = (await site.call("POST", f"{path}/sessions", ann, json={"name": "s"}))["data"]["id"]
    source: dict[str, Any] = {"id": "c", "document_id": "d", "document_name": "bridge.txt", "content": SENTENCE}
    source |= {"positions": [[1, 2, 3, 4, 5]]}
    rows = [
        {
            "conversation_id": session,
            "turn": 1 + number // 2,
            "role": ("user", "assistant")[number % 2],
            "message_id": f"m{number // 2}",
            "content": f"Message {number} of the bridge.",
            "reference": {"total": 5, "chunks": [source] * 5, "documents": []} if number % 2 else None,
            "created_at": float(number),
        }
        for number in range(10_000)
    ]

    def write() -> None:
        for start in range(0, len(rows), 500):
            Message.insert_many(rows[start : start + 500]).execute()

    await site.services.db.write(write)
    listed = await site.send("GET", f"{path}/sessions", ann)
    text = await listed.get_data()
    assert text.count(b'"role"') == 10_001
    for stream in (False, True):
        body = {"question": "When was the bridge opened?", "session_id": session, "kb_ids": [dataset], "stream": stream}
        response = await site.send("POST", f"{path}/completions", ann, json=body)
        assert b"1932" in await response.get_data()
    renamed = await site.call("PUT", f"{path}/sessions/{session}", ann, json={"name": "long"})
    assert renamed["code"] == 0
    gone = await site.call("DELETE", f"{path}/sessions", ann, json={"ids": [session]})
    assert gone["code"] == 0


async def test_very_many_variables_documents_and_datasets(asked: tuple[Web, Person, str, str]) -> None:
    site, ann, chat, dataset = asked
    path = f"/api/v1/chats/{chat}"
    session = (await site.call("POST", f"{path}/sessions", ann, json={"name": "s"}))["data"]["id"]
    ask = {"question": "When?", "session_id": session, "stream": False}
    variables = {f"key {number}": "value" for number in range(50_000)}
    for more in (variables, {"doc_ids": ",".join(f"{n:032x}" for n in range(30_000)), "kb_ids": [dataset]}):
        reply = await site.call("POST", f"{path}/completions", ann, content=json.dumps(ask | more).encode())
        assert reply["code"] in (0, 100), reply
    reply = await site.call("POST", f"{path}/completions", ann, json=ask | {"kb_ids": [dataset] * 20_000})
    assert reply["code"] == 0


async def test_a_passage_of_a_megabyte(asked: tuple[Web, Person, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    site, ann, chat, dataset = asked
    monkeypatch.setattr(site.services.retrieval, "_retriever", Finds(SENTENCE * (1 << 14)))
    path = f"/api/v1/chats/{chat}"
    session = (await site.call("POST", f"{path}/sessions", ann, json={"name": "s"}))["data"]["id"]
    ask = {"question": "When was the bridge opened?", "session_id": session, "stream": False, "kb_ids": [dataset]}
    reply = await site.call("POST", f"{path}/completions", ann, json=ask)
    assert reply["data"]["answer"]
