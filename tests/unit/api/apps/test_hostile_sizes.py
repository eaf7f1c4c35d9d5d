"""Bodies that are well-formed, allowed by their size, and made to keep the server busy."""

import asyncio
import time
from typing import Any
from uuid import uuid1

import pytest

from api.db.services.document_service import DocumentService
from api.db.services.retrieval_service import LONGEST_QUESTION_CHARS, RetrievalService
from rag.core.types import Retrieved
from tests.unit.api.apps.web import Web


async def longest_wait(work: Any) -> tuple[Any, float]:
    """The result of `work`, and the longest time the event loop did nothing else."""
    longest, last = 0.0, time.monotonic()

    async def watch() -> None:
        nonlocal longest, last
        while True:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            longest, last = max(longest, now - last), now

    watcher = asyncio.create_task(watch())
    try:
        return await work, longest
    finally:
        watcher.cancel()


@pytest.mark.parametrize("ids", [["zz"] * 200_000, [uuid1().hex for _ in range(50_000)]], ids=["wrong", "unknown"])
async def test_very_many_ids_are_refused_at_once(site: Web, ids: list[str]) -> None:
    alice = await site.person("alice")
    reply, waited = await longest_wait(site.call("DELETE", "/api/v1/datasets", alice, json={"ids": ids}))
    assert reply["code"] == 101
    assert "at most 10000 items" in reply["message"]
    assert waited < 2


async def test_ids_that_come_twice_are_counted_not_compared(site: Web) -> None:
    alice = await site.person("alice")
    ids = [uuid1().hex for _ in range(4_999)] * 2
    reply, waited = await longest_wait(site.call("DELETE", "/api/v1/datasets", alice, json={"ids": ids}))
    assert reply["message"].startswith("Field: <ids> - Message: <Duplicate ids: '")
    assert waited < 1


async def test_a_refusal_has_not_as_many_lines_as_the_body_has_mistakes(site: Web) -> None:
    alice = await site.person("alice")
    reply = await site.call("POST", "/api/v1/datasets", alice, json={"name": "a"} | {f"k{i}": 1 for i in range(5_000)})
    assert reply["code"] == 101
    assert reply["message"].count("\n") == 99


async def test_documents_of_a_search_are_looked_up_together(site: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = await site.person("alice")
    dataset, documents = await site.dataset(alice, "papers", "a.txt")
    looks = 0
    original = DocumentService.first_outside

    async def counted(self: DocumentService, *arguments: Any) -> str | None:
        nonlocal looks
        looks += 1
        return await original(self, *arguments)

    monkeypatch.setattr(DocumentService, "first_outside", counted)
    body = {"dataset_ids": [dataset], "document_ids": [*documents * 5_000, "other"], "question": "words"}
    reply = await site.call("POST", "/api/v1/retrieval", alice, json=body)
    assert reply == {"code": 102, "message": "The datasets don't own the document other"}
    assert looks == 1


async def test_only_the_beginning_of_a_long_question_is_searched_for(
    site: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked:
        def __init__(self) -> None:
            self.questions: list[str] = []

        async def retrieve(self, place: Any, *, embed: Any, question: str, **_: Any) -> Retrieved:
            self.questions.append(question)
            return Retrieved(hits=(), total=0)

    asked = Asked()
    monkeypatch.setattr(site.services.retrieval, "_retriever", asked)
    assert isinstance(site.services.retrieval, RetrievalService)
    alice = await site.person("alice")
    dataset, _ = await site.dataset(alice, "papers")
    body = {"dataset_ids": [dataset], "question": "why " * 400_000}
    reply = await site.call("POST", "/api/v1/retrieval", alice, json=body)
    assert reply["code"] == 0
    assert [len(question) for question in asked.questions] == [LONGEST_QUESTION_CHARS]


async def test_one_call_embeds_no_more_than_it_may(site: Web) -> None:
    alice = await site.person("alice")
    body = {"model": "minilm@Builtin", "input": ["word " * 100_000] * 3}
    response = await site.send("POST", "/v1/embeddings", alice, json=body)
    assert response.status_code == 400
    assert b"1,200,000 characters" in await response.get_data()
