"""Promises of docs/architecture.md that only a whole server can break: acknowledged writes, citations, repetition."""

import threading
import time
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.serving import Serving, call, wait_ended
from tests.e2e.stacks import Stack

BRIDGE = b"The Aldermoor bridge was opened in 1932. It carries two lanes of traffic over the river Wend.\n"
QUESTION = "When was the Aldermoor bridge opened?"
Made = list[tuple[str, str]]


def upload(client: httpx.Client, dataset: str, name: str, content: bytes = BRIDGE) -> str:
    data = call(client, "POST", f"/api/v1/datasets/{dataset}/documents", files={"file": (name, content)})
    return str(data[0]["id"])


def ingested(client: httpx.Client, name: str) -> tuple[str, str]:
    """A dataset with one document, parsed."""
    dataset = str(call(client, "POST", "/api/v1/datasets", json={"name": name})["id"])
    document = upload(client, dataset, "bridge.txt")
    parse(client, dataset, document)
    return dataset, document


def parse(client: httpx.Client, dataset: str, document: str) -> None:
    call(client, "POST", f"/api/v1/datasets/{dataset}/chunks", json={"document_ids": [document]})
    assert [each["run"] for each in wait_ended(client, dataset)] == ["DONE"]


def write_until_killed(client: httpx.Client, number: int, made: Made) -> None:
    """Make one thing after the other; what the server said yes to is noted at once."""
    count = 0
    try:
        dataset = str(call(client, "POST", "/api/v1/datasets", json={"name": f"set {number}"})["id"])
        made.append((f"/api/v1/datasets?id={dataset}", dataset))
        while True:
            count += 1
            content = f"{number} {count} ".encode() + BRIDGE
            document = upload(client, dataset, f"{count}.txt", content)
            made.append((f"/api/v1/datasets/{dataset}/documents/{document}", content.decode()))
            chat = call(client, "POST", "/api/v1/chats", json={"name": f"chat {number} {count}"})["id"]
            made.append((f"/api/v1/chats?id={chat}", chat))
    except httpx.TransportError:
        return


def test_no_acknowledged_write_is_lost_by_a_kill(stack: Stack, tmp_path: Path) -> None:
    serving = Serving(tmp_path / "data", env=stack.environment(tmp_path / "data"))
    made: Made = []
    with serving.client() as client:
        writers = [threading.Thread(target=write_until_killed, args=(client, n, made)) for n in range(3)]
        for writer in writers:
            writer.start()
        deadline = time.monotonic() + 30
        while len(made) < 30 and time.monotonic() < deadline:
            time.sleep(0.02)
        serving.kill()
        for writer in writers:
            writer.join()
    assert len(made) >= 30
    again = Serving(tmp_path / "data", env=stack.environment(tmp_path / "data"))
    try:
        with again.client() as client:
            for path, what in made:
                assert what in client.get(path).text, path
    finally:
        again.stop()


def test_a_server_killed_in_mid_ingestion_ends_it_after_a_restart(stack: Stack, tmp_path: Path) -> None:
    """The rows say `RUNNING` when the server and, with it, its worker go."""
    serving = Serving(tmp_path / "data", env=stack.environment(tmp_path / "data"))
    text = "\n".join(f"Line {number}: the bridge was painted in {number}." for number in range(4000)).encode()
    with serving.client() as client:
        dataset = str(call(client, "POST", "/api/v1/datasets", json={"name": "long"})["id"])
        document = upload(client, dataset, "long.txt", text)
        path = f"/api/v1/datasets/{dataset}/documents"
        call(client, "POST", f"/api/v1/datasets/{dataset}/chunks", json={"document_ids": [document]})
        deadline = time.monotonic() + 30
        while not 0 < call(client, "GET", path)["docs"][0]["progress"] < 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        serving.kill()
    again = Serving(tmp_path / "data", env=stack.environment(tmp_path / "data"))
    try:
        with again.client() as client:
            (ended,) = wait_ended(client, dataset)
            assert ended["run"] == "DONE", ended["progress_msg"]
            chunks = call(client, "GET", f"{path}/{document}/chunks", params={"page_size": 10000})
            assert chunks["total"] == ended["chunk_count"] > 50
            assert "Line 3999:" in chunks["chunks"][-1]["content"]
    finally:
        again.stop()


def shown(client: httpx.Client, dataset: str, document: str) -> tuple[Any, ...]:
    """Chunks, hits and counters, without the times."""
    chunks = call(client, "GET", f"/api/v1/datasets/{dataset}/documents/{document}/chunks")["chunks"]
    hits = call(client, "POST", "/api/v1/retrieval", json={"question": QUESTION, "dataset_ids": [dataset]})
    (row,) = call(client, "GET", "/api/v1/datasets", params={"id": dataset})
    return (
        [(each["id"], each["content"], each["positions"]) for each in chunks],
        [(each["id"], round(each["similarity"], 5), each["content"]) for each in hits["chunks"]],
        (hits["total"], row["document_count"], row["chunk_count"], row["token_num"]),
    )


def test_ingesting_twice_equals_ingesting_once(server: Serving) -> None:
    with server.client() as client:
        dataset, document = ingested(client, "twice")
        once = shown(client, dataset, document)
        assert once[1], "nothing is found at all"
        parse(client, dataset, document)
        assert shown(client, dataset, document) == once


def test_a_saved_reference_keeps_what_it_cited(server: Serving) -> None:
    with server.client() as client:
        dataset, document = ingested(client, "cited")
        chat = call(client, "POST", "/api/v1/chats", json={"name": "cited", "dataset_ids": [dataset]})["id"]
        session = call(client, "POST", f"/api/v1/chats/{chat}/sessions", json={})["id"]
        asked = {"question": QUESTION, "session_id": session, "stream": False}
        answer = call(client, "POST", f"/api/v1/chats/{chat}/completions", json=asked)
        assert "1932" in answer["answer"]
        assert "[ID:0]" in answer["answer"]
        path = f"/api/v1/chats/{chat}/sessions"
        (before,) = call(client, "GET", path, params={"id": session})
        assert "1932" in before["messages"][-1]["reference"][0]["content"]
        call(client, "DELETE", f"/api/v1/datasets/{dataset}/documents", json={"ids": [document]})
        (after,) = call(client, "GET", path, params={"id": session})
        assert after["messages"] == before["messages"]
