"""A reranking model of a server, in retrieval and in chats, up to the moment it fails."""

import asyncio
from pathlib import Path

import httpx

from rag.testing.upstream_services import Answer, ServicesUpstream
from tests.e2e.serving import Serving, call, wait_ended

MODEL = "bge-reranker@lab"
TEXTS = (
    "Cash held by the company was 42 billion dollars.",
    "Rain fell in the valley.",
    "Cash and rain, the valley says.",
)
QUESTION = "What of rain in the valley?"


async def test_a_reranking_model_orders_and_its_failure_changes_nothing(tmp_path: Path) -> None:
    async with ServicesUpstream().serving() as upstream:
        env = {"PARLEY_MODELS__COMPATIBLE__LAB__BASE_URL": upstream.url, "PARLEY_DIALOG__ATTEMPTS": "1"}
        serving = await asyncio.to_thread(Serving, tmp_path / "data", env=env)
        try:
            client = await asyncio.to_thread(serving.client)
            dataset = await asyncio.to_thread(_filled, client)
            await asyncio.to_thread(_reranked, client, dataset)
            assert [called.path for called in upstream.calls if "rerank" in called.path] != []
            upstream.answer = Answer(status=500)
            await asyncio.to_thread(_plain, client, dataset)
            client.close()
        finally:
            await asyncio.to_thread(serving.stop)


def _filled(client: httpx.Client) -> str:
    made = call(client, "POST", "/api/v1/datasets", json={"name": "texts"})
    path = f"/api/v1/datasets/{made['id']}"
    for number, text in enumerate(TEXTS):
        call(client, "POST", f"{path}/documents", files={"file": (f"{number}.txt", text.encode())})
    documents = call(client, "GET", f"{path}/documents")["docs"]
    call(client, "POST", f"{path}/chunks", json={"document_ids": [each["id"] for each in documents]})
    wait_ended(client, made["id"])
    return str(made["id"])


def _found(client: httpx.Client, dataset: str, **more: object) -> list[dict[str, float]]:
    body = {"question": QUESTION, "dataset_ids": [dataset], "similarity_threshold": 0.0, **more}
    return list(call(client, "POST", "/api/v1/retrieval", json=body)["chunks"])


def _reranked(client: httpx.Client, dataset: str) -> None:
    found = _found(client, dataset, rerank_id=MODEL, vector_similarity_weight=1.0)
    scores = [chunk["vector_similarity"] for chunk in found]
    assert scores == sorted(scores, reverse=True)
    assert scores == [chunk["similarity"] for chunk in found]
    assert scores != [chunk["vector_similarity"] for chunk in _found(client, dataset, vector_similarity_weight=1.0)]
    best = scores[0]
    only = _found(client, dataset, rerank_id=MODEL, vector_similarity_weight=1.0, similarity_threshold=best - 0.001)
    assert [chunk["vector_similarity"] for chunk in only] == [best]
    prompt = {"rerank_model": MODEL, "similarity_threshold": best - 0.001}
    body = {"name": "c", "dataset_ids": [dataset], "llm": {"model_name": "extractive@Builtin"}, "prompt": prompt}
    chat = call(client, "POST", "/api/v1/chats", json=body)
    (chunk,) = _answer(client, chat["id"])
    assert chunk["vector_similarity"] == best


def _answer(client: httpx.Client, chat: str) -> list[dict[str, float]]:
    session = call(client, "POST", f"/api/v1/chats/{chat}/sessions", json={"name": "s"})
    body = {"question": QUESTION, "session_id": session["id"], "stream": False}
    return list(call(client, "POST", f"/api/v1/chats/{chat}/completions", json=body)["reference"]["chunks"])


def _plain(client: httpx.Client, dataset: str) -> None:
    assert _found(client, dataset, rerank_id=MODEL) == _found(client, dataset)
    prompt = {"rerank_model": MODEL, "similarity_threshold": 0.0}
    body = {"name": "d", "dataset_ids": [dataset], "llm": {"model_name": "extractive@Builtin"}, "prompt": prompt}
    chat = call(client, "POST", "/api/v1/chats", json=body)
    assert len(_answer(client, chat["id"])) == len(TEXTS)
