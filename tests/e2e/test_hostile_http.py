"""Bytes that no client sends, on real sockets: a clean refusal each, and nothing in the server's output."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.serving import Serving, call

HOST = b"Host: 127.0.0.1\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
REQUESTS = {
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /healthz HTTP/1.1\r\n" + HOST + b"Host: evil.example\r\n\r\n", 400),
    "rebound": (b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
    "user in host": (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:80@evil.example\r\n\r\n", 403),
    "huge header": (b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 200_000 + b"\r\n\r\n", 431),
    "length of nonsense": (b"POST /v1/user/login HTTP/1.1\r\n" + HOST + b"Content-Length: abc\r\n\r\n", 400),
    "chunk of nonsense": (
        b"POST /v1/user/info HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
        400,
    ),
    "websocket": (b"GET /healthz HTTP/1.1\r\n" + HOST + UPGRADE + b"Sec-WebSocket-Version: 13\r\n\r\n", 404),
}


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    running = Serving(tmp_path_factory.mktemp("http") / "data")
    running.client().close()
    yield running
    code, output = running.stop()
    assert code == 0, output[-3000:]
    assert "Traceback" not in output, output[-3000:]


def connect(serving: Serving) -> socket.socket:
    return socket.create_connection(("127.0.0.1", httpx.URL(serving.url).port or 0), timeout=10)


@pytest.mark.parametrize("name", REQUESTS)
def test_nonsense_is_refused(serving: Serving, name: str) -> None:
    sent, status = REQUESTS[name]
    with connect(serving) as client:
        client.sendall(sent)
        assert client.recv(65536).startswith(f"HTTP/1.1 {status} ".encode())


def test_uploads_that_are_cut_leave_nothing(serving: Serving) -> None:
    with serving.client() as client:
        dataset = call(client, "POST", "/api/v1/datasets", json={"name": "cut"})["id"]
        path = f"/api/v1/datasets/{dataset}/documents"
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {serving.key}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 90000000\r\n\r\n"
            '--b\r\nContent-Disposition: form-data; name="file"; filename="cut.txt"\r\n\r\n'
        )
        for _ in range(20):
            with connect(serving) as cut:
                cut.sendall(head.encode() + b"x" * (2 << 20))
        call(client, "POST", "/api/v1/datasets", json={"name": "after"})
        assert call(client, "GET", path)["total"] == 0
        assert not wait_for_uploads(serving.data_dir / "tmp")


def wait_for_uploads(folder: Path) -> list[str]:
    """The names of staged uploads that are still there after a while."""
    for _ in range(100):
        left = [path.name for path in folder.glob("upload-*")]
        if not left:
            return []
        time.sleep(0.05)
    return left
