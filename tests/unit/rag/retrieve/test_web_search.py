"""The web search against a real socket: what it sends where, and what it makes of any reply."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr, ValidationError
from structlog.testing import capture_logs

from rag.core.tool_settings import WebSearchSettings
from rag.retrieve.web_search import MOST_BYTES, WebSearch, WebSearchFailed

KEY = SecretStr("tvly-s3cret")
PAGES = [
    {"title": "Rain\nin spring", "url": "https://weather.example/rain", "content": " It rained. ", "score": 0.9},
    {"title": None, "url": "https://other.example/a", "content": "Dry.", "score": 7},
]


class Service:
    """Keeps what it was sent; answers as told."""

    def __init__(self, answer: Callable[[web.Request], Any]) -> None:
        self.answer = answer
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.path, dict(request.headers), json.loads(await request.read() or b"null")))
        reply = self.answer(request)
        return await reply if asyncio.iscoroutine(reply) else reply


@asynccontextmanager
async def serving(answer: Callable[[web.Request], Any]) -> AsyncIterator[Service]:
    service = Service(answer)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", service.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    service.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield service
    finally:
        await runner.cleanup()


def searching(service: Service, **more: Any) -> WebSearch:
    return WebSearch(WebSearchSettings(base_url=service.url + "/", **more))


async def test_pages_become_passages_with_an_address() -> None:
    async with serving(lambda _: web.json_response({"results": PAGES})) as service:
        hits = await searching(service, results=3).search(" How was the rain? ", KEY)
    ((path, headers, body),) = service.seen
    assert path == "/search"
    assert headers["Authorization"] == "Bearer tvly-s3cret"
    assert body == {"query": "How was the rain?", "max_results": 3, "search_depth": "basic"}
    rain, dry = hits
    assert (rain.chunk.url, rain.chunk.document_name, rain.chunk.content, rain.similarity) == (
        "https://weather.example/rain", "Rain in spring", "It rained.", 0.9,
    )  # fmt: skip
    assert (rain.chunk.document_id, rain.chunk.dataset_id) == ("", "")
    assert (dry.chunk.document_name, dry.similarity, dry.rank) == ("other.example", 1.0, 2)


@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", "file:///etc/passwd", "http://u:p@h/", "https://h/ x", 'https://h/"><b', "http://[", 5, ""],
)
async def test_what_a_browser_must_not_open_is_left_out(url: Any) -> None:
    page = {"title": "t", "url": url, "content": "c", "score": 1}
    async with serving(lambda _: web.json_response({"results": [page, "x", None, {}, *PAGES, PAGES[0]]})) as service:
        hits = await searching(service).search("q", KEY)
    assert [hit.chunk.url for hit in hits] == [page["url"] for page in PAGES]


async def test_no_redirect_is_followed_and_the_key_stays_there() -> None:
    async with serving(lambda _: web.json_response({"results": PAGES})) as other:
        async with serving(lambda _: web.Response(status=307, headers={"Location": f"{other.url}/search"})) as service:
            with pytest.raises(WebSearchFailed, match="answered 307"):
                await searching(service).search("q", KEY)
        assert other.seen == []


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (lambda _: web.Response(status=401), "refuses the key"),
        (lambda _: web.Response(status=429), "too often"),
        (lambda _: web.Response(status=500), "answered 500"),
        (lambda _: web.Response(text="<html>"), "not JSON"),
        (lambda _: web.json_response([]), "no results"),
        (lambda _: web.json_response({"results": {}}), "no results"),
        (lambda _: web.Response(body=b" " * (MOST_BYTES + 1)), "more than 2 MiB"),
        (lambda _: web.Response(body=gzip.compress(b" " * 1000), headers={"Content-Encoding": "gzip"}), "compressed"),
    ],
)
async def test_any_other_reply_is_a_failure_in_words(reply: Callable[[web.Request], Any], says: str) -> None:
    async with serving(reply) as service:
        with pytest.raises(WebSearchFailed, match=says):
            await searching(service).search("q", KEY)


async def test_a_service_that_says_nothing_is_left_at_the_deadline() -> None:
    async with serving(lambda _: asyncio.sleep(30)) as service:
        began = asyncio.get_running_loop().time()
        with pytest.raises(WebSearchFailed, match="no reply within"):
            await searching(service, timeout_s=0.2).search("q", KEY)
        assert asyncio.get_running_loop().time() - began < 5


async def broken_off(request: web.Request) -> web.StreamResponse:
    reply = web.StreamResponse(headers={"Content-Length": "1000"})
    await reply.prepare(request)
    await reply.write(b'{"results": [')
    assert request.transport is not None
    request.transport.close()
    return reply


async def dripping(request: web.Request) -> web.StreamResponse:
    reply = web.StreamResponse()
    await reply.prepare(request)
    while True:
        await reply.write(b" ")
        await asyncio.sleep(0.01)


async def test_a_reply_that_breaks_off_is_a_failure() -> None:
    async with serving(broken_off) as service:
        with pytest.raises(WebSearchFailed, match="cannot be reached"):
            await searching(service).search("q", KEY)


async def test_a_reply_that_never_ends_is_left_at_the_deadline() -> None:
    async with serving(dripping) as service:
        with pytest.raises(WebSearchFailed, match="no reply within"):
            await searching(service, timeout_s=0.3).search("q", KEY)


async def test_a_service_that_is_not_there_is_a_failure_without_secrets() -> None:
    async with serving(lambda _: web.Response()) as service:
        gone = searching(service)
    with capture_logs() as logs, pytest.raises(WebSearchFailed) as failed:
        await gone.search("a private question", KEY)
    told = f"{failed.value!r} {failed.value.facts} {logs}"
    assert "s3cret" not in told
    assert "private question" not in told


@pytest.mark.parametrize("key", ["a\r\nHost: evil", "schlüssel", "x" * 600])
async def test_a_key_that_no_header_takes_is_not_sent(key: str) -> None:
    async with serving(lambda _: web.json_response({"results": []})) as service:
        with pytest.raises(WebSearchFailed, match="cannot be sent"):
            await searching(service).search("q", SecretStr(key))
        assert service.seen == []


async def test_odd_questions_are_sent_cut_and_empty_ones_not_at_all() -> None:
    async with serving(lambda _: web.json_response({"results": []})) as service:
        web_search = searching(service)
        assert await web_search.search("  ", KEY) == ()
        assert await web_search.search("\ud800" + "x" * 10_000, KEY) == ()
    ((_, _, body),) = service.seen
    assert len(body["query"]) == 400


@pytest.mark.parametrize("url", ["ftp://h", "https://u:p@h", "h", "https://"])
def test_the_address_is_an_operators_and_checked(url: str) -> None:
    with pytest.raises(ValidationError):
        WebSearchSettings(base_url=url)
