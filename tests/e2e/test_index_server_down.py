"""The index's server is down at the start, goes, stalls, or refuses us: what needs it says so, all else goes on."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.serving import Serving, call, parley, wait_ended
from tests.servers.elastic import PASSWORD, Elasticsearch, fresh_prefix
from tests.servers.fixtures import PrivateServer

pytestmark = pytest.mark.timeout(300)

_SOON_S = 5.0
_BACK_S = 30.0
LINES = "\n".join(f"Line {number}: the kiln was fired at {number} degrees." for number in range(3000)).encode()


@contextmanager
def serving(folder: Path, **settings: str) -> Iterator[Serving]:
    running = Serving(folder / "data", env={f"PARLEY_INDEX__{name.upper()}": value for name, value in settings.items()})
    try:
        yield running
    finally:
        code, output = running.stop()
        assert code == 0, output
        assert "Traceback" not in output, output
        assert PASSWORD not in output


def readiness(server: Serving) -> tuple[int, dict[str, Any]]:
    reply = httpx.get(f"{server.url}/readyz", trust_env=False, timeout=30)
    return reply.status_code, reply.json()


def wait_until(server: Serving, *, ready: bool) -> dict[str, Any]:
    give_up = time.monotonic() + _BACK_S
    while ((found := readiness(server))[0] == 200) is not ready or (not ready and found[1]["status"] == "starting"):
        assert time.monotonic() < give_up, found
        time.sleep(0.1)
    return found[1]


class User:
    """What a client does that the index has a part in, and what it has none in."""

    def __init__(self, server: Serving) -> None:
        headers = {"Authorization": f"Bearer {server.key}"}
        self.client = httpx.Client(base_url=server.url, headers=headers, timeout=60, trust_env=False)
        self.dataset = str(call(self.client, "POST", "/api/v1/datasets", json={"name": "kilns"})["id"])
        self.path = f"/api/v1/datasets/{self.dataset}"

    def parse(self, name: str, content: bytes) -> str:
        (document,) = call(self.client, "POST", f"{self.path}/documents", files={"file": (name, content)})
        call(self.client, "POST", f"{self.path}/chunks", json={"document_ids": [document["id"]]})
        return str(document["id"])

    def run_of(self, document: str) -> tuple[str, float]:
        (found,) = call(self.client, "GET", f"{self.path}/documents", params={"id": document})["docs"]
        return str(found["run"]), float(found["progress"])

    def search(self) -> dict[str, Any]:
        began = time.monotonic()
        body = {"question": "How hot was the kiln?", "dataset_ids": [self.dataset], "similarity_threshold": 0}
        reply = self.client.post("/api/v1/retrieval", json=body)
        assert time.monotonic() - began < _SOON_S
        assert reply.status_code == 200
        return dict(reply.json())

    def found(self) -> set[str]:
        reply = self.search()
        assert reply["code"] == 0, reply
        return {chunk["document_id"] for chunk in reply["data"]["chunks"]}

    def cannot_search(self) -> None:
        reply = self.search()
        assert reply["code"] == 500, reply
        assert "Elasticsearch at http://127.0.0.1:" in reply["message"]


def test_down_at_the_start_then_gone_then_stalled(tmp_path: Path, private_server: PrivateServer) -> None:
    server = private_server(Elasticsearch, running=False)
    with serving(tmp_path, url=server.url) as running:
        assert httpx.get(f"{running.url}/healthz", trust_env=False).status_code == 200
        away = wait_until(running, ready=False)
        assert away["status"] == "unavailable"
        assert away["missing"] == ["index"]
        assert "cannot be reached" in away["failed"]["index"]
        user = User(running)
        first = user.parse("first.txt", b"The first kiln was fired at 900 degrees.")
        user.cannot_search()
        assert user.run_of(first)[0] in ("RUNNING", "UNSTART")

        server.start()
        wait_until(running, ready=True)
        assert [one["run"] for one in wait_ended(user.client, user.dataset)] == ["DONE"]
        assert user.found() == {first}

        second = user.parse("second.txt", LINES)
        give_up = time.monotonic() + 60
        while not 0.3 < user.run_of(second)[1] < 1:
            assert time.monotonic() < give_up, user.run_of(second)
            time.sleep(0.02)
        server.kill()
        user.cannot_search()
        wait_until(running, ready=False)
        time.sleep(12)  # longer than all attempts would take that errors are allowed
        assert user.run_of(second)[0] == "RUNNING"
        server.start()
        wait_until(running, ready=True)
        assert {one["run"] for one in wait_ended(user.client, user.dataset)} == {"DONE"}
        assert user.found() >= {second}

        server.pause()
        with ThreadPoolExecutor(16) as pool:  # more than search at once
            list(pool.map(lambda _: user.cannot_search(), range(16)))
        assert "did not answer" in wait_until(running, ready=False)["failed"]["index"]
        began = time.monotonic()
        call(user.client, "DELETE", f"{user.path}/documents", json={"ids": [second]})
        assert time.monotonic() - began < _SOON_S
        server.resume()
        wait_until(running, ready=True)
        assert user.found() == {first}
        user.client.close()


class _Other(BaseHTTPRequestHandler):
    """Something that is not the Elasticsearch we know."""

    version = ""

    def do_GET(self) -> None:
        content = b'{"nodes":{"n":{"version":"%s"}}}' % self.version.encode()
        self.send_response(200)
        if self.version:
            self.send_header("X-elastic-product", "Elasticsearch")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def other(version: str) -> Iterator[str]:
    handler = type("Handler", (_Other,), {"version": version})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def refused(folder: Path, words: str, **settings: str) -> None:
    """Neither server nor worker starts, and both say why in one line."""
    env = {f"PARLEY_INDEX__{name.upper()}": value for name, value in settings.items()}
    for command in (["serve", "--port", "0"], ["worker"]):
        done = parley(*command, "--data-dir", folder / "data", env=env)
        assert done.returncode == 1, done
        assert words in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "not-the-password" not in done.stderr + done.stdout


@pytest.mark.parametrize(("version", "words"), [("", "not Elasticsearch"), ("9.1.0", "9.1.0"), ("7.17.0", "7.17.0")])
def test_what_is_no_elasticsearch_8_ends_the_start_with_a_line(tmp_path: Path, version: str, words: str) -> None:
    with other(version) as url:
        refused(tmp_path, words, url=url)


@pytest.mark.parametrize(("meta", "words"), [({}, "index.prefix"), ({"parley": {"schema": 99}}, "99")])
def test_an_index_with_another_mapping_ends_the_start_with_a_line(
    tmp_path: Path, elasticsearch_url: str, meta: dict[str, Any], words: str
) -> None:
    prefix = fresh_prefix()
    reply = httpx.put(f"{elasticsearch_url}/{prefix}.t_x_g1.1", json={"mappings": {"_meta": meta}}, trust_env=False)
    assert reply.status_code == 200, reply.text
    refused(tmp_path, words, url=elasticsearch_url, prefix=prefix)


def test_a_full_disk_there_stops_writes_alone(tmp_path: Path, elasticsearch_url: str) -> None:
    prefix = fresh_prefix()

    def block(on: bool | None) -> None:
        body = {"index.blocks.read_only_allow_delete": on}
        reply = httpx.put(f"{elasticsearch_url}/{prefix}.*/_settings", json=body, trust_env=False, timeout=20)
        assert reply.status_code == 200, reply.text

    with serving(tmp_path, url=elasticsearch_url, prefix=prefix) as running:
        wait_until(running, ready=True)
        user = User(running)
        first = user.parse("first.txt", b"The first kiln was fired at 900 degrees.")
        wait_ended(user.client, user.dataset)
        block(True)
        second = user.parse("second.txt", b"The second kiln was fired at 950 degrees.")
        give_up = time.monotonic() + 30
        while user.run_of(second)[1] < 0.3:
            assert time.monotonic() < give_up, user.run_of(second)
            time.sleep(0.1)
        time.sleep(3)
        (waiting,) = call(user.client, "GET", f"{user.path}/documents", params={"id": second})["docs"]
        assert waiting["run"] == "RUNNING"
        assert "is too full" in waiting["progress_msg"]
        assert user.found() == {first}
        block(None)
        assert {one["run"] for one in wait_ended(user.client, user.dataset)} == {"DONE"}
        assert user.found() == {first, second}
        user.client.close()


def test_login_and_certificate(tmp_path: Path, private_server: PrivateServer) -> None:
    server = private_server(lambda: Elasticsearch(secured=True))
    authority = str(server.authority)
    refused(tmp_path, "index.tls_ca", url=server.url)
    refused(tmp_path, "refuses the login", url=server.address, tls_ca=authority)
    refused(
        tmp_path, "refuses the login", url=server.address, tls_ca=authority, user="parley", password="not-the-password"
    )
    with serving(tmp_path, url=server.url, tls_ca=authority, prefix=fresh_prefix()) as running:
        wait_until(running, ready=True)
        user = User(running)
        document = user.parse("one.txt", b"The kiln was fired at 900 degrees.")
        wait_ended(user.client, user.dataset)
        assert user.found() == {document}
        user.client.close()
