"""Parts of the server process that need no process of their own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from api import serve as serving
from api.serve import OpenReplies, _check_address, _is_loopback, _url
from rag.core.errors import InvalidInput
from rag.core.settings import Settings, load_settings


def settings_with(**tree: Any) -> Settings:
    return load_settings(tree, environ={})


async def test_open_replies_are_ended_before_the_server_stops() -> None:
    ended: list[str] = []

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def short(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.05)
        ended.append("done")

    for app, result in ((endless, "cancelled"), (short, "done")):
        replies = OpenReplies(app)
        task = asyncio.ensure_future(replies({"type": "http"}, None, None))
        await asyncio.sleep(0)
        await replies.end(0.5)
        assert ended[-1] == result
        assert task.done()


async def test_the_worker_ends_after_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Child:
        def __init__(self, command: list[str], **_: object) -> None:
            order.append("worker made")

        def start(self) -> None:
            order.append("worker started")

        async def stop(self, timeout_s: float) -> None:
            assert timeout_s + 2 * serving._REPLIES_END_S < serving._WATCHDOG_EXTRA_S
            order.append("worker stopped")

    @asynccontextmanager
    async def answering(*_: object) -> AsyncIterator[None]:
        order.append("answering")
        yield
        order.append("answers ended")

    @asynccontextmanager
    async def opened(*_: object, **__: object) -> AsyncIterator[None]:
        yield

    monkeypatch.setattr(serving, "WatchedChild", Child)
    monkeypatch.setattr(serving, "_answering", answering)
    monkeypatch.setattr(serving, "opened_services", opened)
    async with serving._serving(settings_with(data_dir=tmp_path, server={"port": 0}), asyncio.Event(), noted=False):
        order.append("serving")
    assert order == [
        "worker made",
        "answering",
        "worker started",
        "serving",
        "answers ended",
        "worker stopped",
    ]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.org", False),
    ],
)
def test_addresses(host: str, loopback: bool) -> None:
    assert _is_loopback(host) is loopback
    if loopback:
        assert _check_address(settings_with(server={"host": host}))
    else:
        with pytest.raises(InvalidInput):
            _check_address(settings_with(server={"host": host}))
        assert not _check_address(settings_with(server={"host": host}, auth={"allow_non_loopback": True}))


def test_urls() -> None:
    assert _url(settings_with(server={"host": "0.0.0.0"}), 1) == "http://127.0.0.1:1"
    assert _url(settings_with(server={"host": "::1"}), 1) == "http://[::1]:1"
    assert _url(settings_with(server={"public_url": "https://x.example/"}), 1) == "https://x.example"


async def test_websockets_are_refused_in_words() -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("no route serves them")

    async def send(message: Any) -> None:
        sent.append(message)

    await OpenReplies(app)({"type": "websocket"}, None, send)
    assert sent[0]["status"] == 404
    assert b"No WebSocket" in sent[1]["body"]
