"""Uploads: streamed to disk, hashed on the way, limited, cleaned up; downloads as attachments."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest
from werkzeug.exceptions import RequestEntityTooLarge

from api.apps.incoming import BUFFER_BYTES, MeasuredBody
from tests.unit.api.apps.web import Web, multipart, web


async def upload(site: Web, who: Any, dataset: str, *parts: tuple[str, str | None, bytes]) -> tuple[int, Any]:
    body, content_type = multipart(*parts)
    path = f"/api/v1/datasets/{dataset}/documents"
    response = await site.send("POST", path, who, content=body, headers={"Content-Type": content_type})
    return response.status_code, await response.get_json()


def leftovers(site: Web) -> list[Path]:
    return [path for path in (site.settings.data_dir / "tmp").rglob("*") if path.is_file()]


async def test_a_file_comes_back_as_it_was(site: Web) -> None:
    alice = await site.person("alice")
    dataset, _ = await site.dataset(alice, "files")
    content = bytes(range(256)) * 20_000 + b"\r\n--edg\r\n--\r\n"
    _, reply = await upload(site, alice, dataset, ("parent_path", None, b"a/b"), ("file", 'na"me é.txt', content))
    (document,) = reply["data"]
    assert document["size"] == len(content)
    record = await site.services.documents.get(alice.principal, dataset, document["id"])
    assert record.sha256 == hashlib.sha256(content).hexdigest()
    response = await site.send("GET", f"/api/v1/datasets/{dataset}/documents/{document['id']}", alice)
    assert await response.get_data() == content
    headers = response.headers
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Content-Disposition"].startswith("attachment; ")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert leftovers(site) == []


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../x.txt", "x.txt"),
        ("/etc/passwd.txt", "passwd.txt"),
        ("..\\..\\x.txt", "x.txt"),
        ("a\x00b.txt", "ab.txt"),
        ("x.html", "x.html"),
        ("\u202egnp.txt", "gnp.txt"),
    ],
)
async def test_hostile_names(site: Web, name: str, kept: str) -> None:
    alice = await site.person("alice")
    dataset, _ = await site.dataset(alice, "names")
    status, reply = await upload(site, alice, dataset, ("file", name, b"<script>alert(1)</script>"))
    assert status == 200
    assert reply["data"][0]["name"] == kept
    outside = [path for path in site.settings.data_dir.parent.iterdir() if path.name != "data"]
    assert outside == []


async def test_an_empty_file_name(site: Web) -> None:
    alice = await site.person("alice")
    dataset, _ = await site.dataset(alice, "names")
    _, reply = await upload(site, alice, dataset, ("file", "", b"x"))
    assert reply == {"code": 101, "message": "No file selected!"}
    _, reply = await upload(site, alice, dataset, ("file", None, b"x"))
    assert reply == {"code": 101, "message": "No file part!"}


async def test_good_files_stay_when_others_are_refused(site: Web) -> None:
    alice = await site.person("alice")
    dataset, _ = await site.dataset(alice, "mixed")
    _, reply = await upload(site, alice, dataset, ("file", "a.exe", b"x"), ("file", "b.txt", b"x"))
    assert reply == {"code": 500, "message": "a.exe: This type of file has not been supported yet!"}
    listed = await site.call("GET", f"/api/v1/datasets/{dataset}/documents", alice)
    assert [each["name"] for each in listed["data"]["docs"]] == ["b.txt"]
    assert leftovers(site) == []


async def test_a_large_form_field_is_refused(site: Web) -> None:
    alice = await site.person("alice")
    dataset, _ = await site.dataset(alice, "large")
    status, reply = await upload(site, alice, dataset, ("parent_path", None, b"x" * 3_000_000), ("file", "a.txt", b"x"))
    assert (status, reply["code"]) == (413, 413)
    status, _ = await upload(site, alice, dataset, *[("file", f"{n}.txt", b"") for n in range(1100)])
    assert status == 413
    endless = b"--edge\r\nX-Long: " + b"x" * 2_000_000
    response = await site.send(
        "POST",
        f"/api/v1/datasets/{dataset}/documents",
        alice,
        content=endless,
        headers={"Content-Type": "multipart/form-data; boundary=edge"},
    )
    assert response.status_code == 413
    assert leftovers(site) == []


async def test_limits_are_those_of_the_route(tmp_path: Path) -> None:
    limits = {"max_upload_bytes": 50_000, "max_body_bytes": 2_000}
    async with web(tmp_path, server=limits) as site:
        alice = await site.person("alice")
        dataset, _ = await site.dataset(alice, "limits")
        assert (await upload(site, alice, dataset, ("file", "a.txt", b"x" * 40_000)))[0] == 200
        assert (await upload(site, alice, dataset, ("file", "a.txt", b"x" * 60_000)))[0] == 413
        response = await site.send("POST", "/api/v1/datasets", alice, json={"name": "x", "description": "y" * 3000})
        assert response.status_code == 413
        assert set(await response.get_json()) == {"code", "message"}


async def test_a_body_is_not_read_ahead() -> None:
    body = MeasuredBody(None, None)
    body.append(b"x" * BUFFER_BYTES)
    waiting = asyncio.ensure_future(body.wait_for_room())
    await asyncio.sleep(0)
    assert not waiting.done()
    assert len(await anext(body)) == BUFFER_BYTES
    await asyncio.wait_for(waiting, 1)


async def test_a_body_read_whole_needs_no_room() -> None:
    body = MeasuredBody(None, None)

    async def feed() -> None:
        for _ in range(4):
            await body.wait_for_room()
            body.append(b"x" * BUFFER_BYTES)
        body.end()

    async def read() -> bytes:
        return await body

    feeding = asyncio.ensure_future(feed())
    assert len(await asyncio.wait_for(read(), 1)) == 4 * BUFFER_BYTES
    await feeding


async def test_a_body_counts_what_was_sent_not_what_is_buffered() -> None:
    body = MeasuredBody(None, None)
    body.limit(10)
    body.append(b"x" * 8)
    assert await anext(body) == b"x" * 8
    body.append(b"x" * 8)
    with pytest.raises(RequestEntityTooLarge):
        await anext(body)


async def test_the_rest_of_a_refused_body_is_taken_in_and_forgotten() -> None:
    body = MeasuredBody(None, 10)
    body.append(b"x" * 20)
    discarding = asyncio.ensure_future(body.discard())
    for _ in range(100):
        await asyncio.wait_for(body.wait_for_room(), 1)
        body.append(b"x" * BUFFER_BYTES)
    assert len(body._data) == 0
    assert not discarding.done()
    body.end()
    await asyncio.wait_for(discarding, 1)
