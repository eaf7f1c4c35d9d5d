"""Hostile, broken, huge and oddly named files through the whole server: each ends with a sentence, all else goes on."""

import io
import os
import random
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.serving import SHARED, Serving, call, wait_ended

GOOD = ("good.txt", b"The kiln was fired at 1,240 degrees for eleven hours.")


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    running = Serving(tmp_path_factory.mktemp("bad") / "data")
    yield running
    code, output = running.stop()
    assert code == 0, output[-3000:]
    assert "Traceback" not in output, output[-3000:]


@pytest.fixture
def client(serving: Serving) -> Iterator[httpx.Client]:
    with serving.client() as connected:
        yield connected


def workers(serving: Serving) -> set[int]:
    """The embedded worker's process id."""
    children = psutil.Process(serving.process.pid).children()
    return {child.pid for child in children if "worker" in child.cmdline()}


def upload(client: httpx.Client, dataset: str, *files: tuple[str, bytes]) -> dict[str, Any]:
    parts = [("file", file) for file in files]
    reply = client.post(f"/api/v1/datasets/{dataset}/documents", files=parts, timeout=300).json()
    assert set(reply) <= {"code", "message", "data"}
    return dict(reply)


def ingest(client: httpx.Client, name: str, *files: tuple[str, bytes], timeout_s: float = 240) -> list[dict[str, Any]]:
    """Upload one by one, parse what was taken, and return the documents once all ended."""
    dataset = call(client, "POST", "/api/v1/datasets", json={"name": name})["id"]
    ids = []
    for file in files:
        reply = upload(client, dataset, file)
        if reply["code"] == 0:
            ids.append(reply["data"][0]["id"])
        else:
            assert reply["message"], "a refusal says why"
    call(client, "POST", f"/api/v1/datasets/{dataset}/chunks", json={"document_ids": ids})
    return wait_ended(client, dataset, timeout_s=timeout_s)


def assert_ended_well(documents: list[dict[str, Any]]) -> None:
    for document in documents:
        assert document["run"] in ("DONE", "FAIL"), document
        if document["run"] == "FAIL":
            reason = document["progress_msg"].split("[ERROR]")[-1].strip()
            assert len(reason) > 15, document["name"]
            assert "Traceback" not in reason
            assert reason.endswith((".", "!", "?")), f"{document['name']}: {reason!r} is no sentence"
    assert next(d for d in documents if d["name"] == "good.txt")["run"] == "DONE"


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="the public test data is not beside the project")
@pytest.mark.timeout(400)
def test_every_hostile_file_ends_with_a_sentence(serving: Serving, client: httpx.Client) -> None:
    before = workers(serving)
    files = [(p.name, p.read_bytes()) for p in sorted((SHARED / "hostile").iterdir())]
    documents = ingest(client, "hostile", *files, GOOD, timeout_s=350)
    assert len(documents) > 60
    assert_ended_well(documents)
    assert workers(serving) == before, "the worker lives on"


def zip_bomb() -> bytes:
    """A DOCX whose only part unpacks to 2 GB."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        with archive.open("word/document.xml", "w", force_zip64=True) as part:
            block = b" " * (1 << 20)
            for _ in range(2048):
                part.write(block)
    return packed.getvalue()


@pytest.mark.timeout(300)
def test_a_zip_bomb_and_random_bytes(serving: Serving, client: httpx.Client) -> None:
    before = workers(serving)
    noise = random.Random(7).randbytes(200 << 20)
    files = [("bomb.docx", zip_bomb()), ("noise.pdf", noise), ("empty.pdf", b""), ("empty.txt", b""), GOOD]
    documents = ingest(client, "bombs", *files)
    assert {d["name"] for d in documents} == {"bomb.docx", "noise.pdf", "empty.pdf", "empty.txt", "good.txt"}
    assert_ended_well(documents)
    assert {d["run"] for d in documents if d["name"].startswith(("bomb", "noise"))} == {"FAIL"}
    assert workers(serving) == before


@pytest.mark.parametrize(
    "name",
    [
        "../../up.txt",
        "/etc/passwd.txt",
        "a\\b.txt",
        "nul\x00.txt",
        "line\nbreak.txt",
        "раураl.txt",
        "CON.txt",
        "💥.txt",
    ],
)
def test_odd_names_are_kept_harmless_or_refused(client: httpx.Client, serving: Serving, name: str) -> None:
    dataset = call(client, "POST", "/api/v1/datasets", json={"name": "names"})["id"]
    reply = upload(client, dataset, (name, b"some text in it"))
    if reply["code"] == 0:
        stored = reply["data"][0]["name"]
        assert not any(c in stored for c in "/\\\x00\n"), stored
        document = reply["data"][0]["id"]
        back = client.get(f"/api/v1/datasets/{dataset}/documents/{document}")
        assert back.content == b"some text in it"
    else:
        assert reply["message"]
    assert {p.name for p in serving.data_dir.parent.iterdir()} <= {"data"}, "nothing was written outside the folder"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this system does not let its root mount a small disk")
    try:
        running = Serving(disk / "data")
        try:
            with running.client() as client:
                first = ingest(client, "small", GOOD)
                assert first[0]["run"] == "DONE"
                dataset = first[0]["dataset_id"]
                reply = upload(client, dataset, ("big.txt", b"x" * (40 << 20)))
                assert reply["code"] != 0
                assert "space" in reply["message"].lower() or "full" in reply["message"].lower(), reply
                found = call(client, "POST", "/api/v1/retrieval", json={"dataset_ids": [dataset], "question": "kiln"})
                assert found["chunks"], "what was there can still be found"
                assert upload(client, dataset, ("small.txt", b"fits"))["code"] == 0, "space was given back"
        finally:
            code, output = running.stop()
        assert code == 0, output
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
