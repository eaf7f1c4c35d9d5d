"""Parts of the server process that need no process of their own."""

import asyncio
from typing import Any

import pytest

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
