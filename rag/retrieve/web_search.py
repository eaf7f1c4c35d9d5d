"""Pages of the web as passages, from a search service with Tavily's interface.

The address comes from the settings alone. The key goes to it and nowhere else: no redirect is followed, no proxy of the
environment is used, and neither the key nor the question is logged. A reply is read within a deadline and up to a size.
"""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson
from pydantic import SecretStr

from rag.core.blocking import Lane, run_in
from rag.core.errors import RagError
from rag.core.ids import chunk_id
from rag.core.tool_settings import WebSearchSettings
from rag.core.types import ChunkText, Hit

if TYPE_CHECKING:
    import aiohttp

MOST_BYTES = 2 << 20
_LONGEST_QUESTION_CHARS = 400
_LONGEST_CONTENT_CHARS = 6000
_LONGEST_TITLE_CHARS = 255
_LONGEST_URL_CHARS = 2048
_CONNECT_S = 3.0
_LONGEST_KEY_CHARS = 512


class WebSearchFailed(RagError):
    """There are no pages; the message says why, without the key and the question."""

    code = "web_search_failed"


class WebSearch:
    """One for all; holds nothing of a request."""

    def __init__(self, settings: WebSearchSettings) -> None:
        self._settings = settings

    async def search(self, question: str, key: SecretStr) -> tuple[Hit, ...]:
        """The pages that answer `question`, best first: passages with `url` and without a document. Their score, 0 to
        1, is the service's own.

        Raises:
            WebSearchFailed: the service cannot be reached, refuses, is late, or says what cannot be read.
        """
        asked = question.strip()[:_LONGEST_QUESTION_CHARS]
        if not asked:
            return ()
        secret = key.get_secret_value()
        if not secret.isascii() or not secret.isprintable() or len(secret) > _LONGEST_KEY_CHARS:
            raise WebSearchFailed("The key of the web search cannot be sent: it must be one line of ASCII characters.")
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                body = await self._asked(asked, secret)
                return await run_in(Lane.TEXT, _pages, body, self._settings.results)
        except TimeoutError as error:
            raise WebSearchFailed(f"The web search gave no reply within {self._settings.timeout_s:g} s.") from error

    async def _asked(self, question: str, secret: str) -> bytes:
        import aiohttp  # imported here: it takes 15 MB, which a process without this or a provider does not pay

        body = {"query": question, "max_results": self._settings.results, "search_depth": "basic"}
        # A lone surrogate cannot be written as UTF-8.
        sent = orjson.dumps({**body, "query": question.encode("utf-8", "replace").decode()})
        headers = {
            "Authorization": f"Bearer {secret}",
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
        }
        try:
            async with (
                aiohttp.ClientSession(
                    cookie_jar=aiohttp.DummyCookieJar(),
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
                    trust_env=False,
                    # What is small on the wire may be huge in memory.
                    auto_decompress=False,
                ) as session,
                session.post(
                    f"{self._settings.base_url}/search", data=sent, headers=headers, allow_redirects=False
                ) as reply,
            ):
                if reply.status != 200:
                    raise WebSearchFailed(_REFUSALS.get(reply.status, f"The web search answered {reply.status}."))
                if reply.headers.get("Content-Encoding", "identity") != "identity":
                    raise WebSearchFailed("The web search sent a compressed reply, though asked not to.")
                return await _bounded(reply)
        except aiohttp.ClientError as error:
            # Its text may hold the address with what is in it; the kind of the error says enough.
            raise WebSearchFailed(f"The web search cannot be reached ({type(error).__name__}).") from error


async def _bounded(reply: "aiohttp.ClientResponse") -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in reply.content.iter_any():
        size += len(part)
        if size > MOST_BYTES:
            raise WebSearchFailed(f"The web search said more than {MOST_BYTES >> 20} MiB.")
        parts.append(part)
    return b"".join(parts)


_REFUSALS: Mapping[int, str] = {
    401: "The web search refuses the key of this chat.",
    403: "The web search refuses the key of this chat.",
    429: "The web search is asked too often with the key of this chat.",
    432: "The plan of this chat's key for the web search is used up.",
}


def _pages(body: bytes, most: int) -> tuple[Hit, ...]:
    try:
        reply = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise WebSearchFailed("The web search said what is not JSON.") from error
    listed = reply.get("results") if isinstance(reply, dict) else None
    if not isinstance(listed, list):
        raise WebSearchFailed("The web search named no results.")
    found: dict[str, Hit] = {}
    for each in listed:
        hit = _page(each, len(found) + 1) if isinstance(each, dict) and len(found) < most else None
        if hit is not None:
            found.setdefault(hit.chunk.chunk_id, hit)
    return tuple(found.values())


def _page(told: Mapping[str, Any], rank: int) -> Hit | None:
    """The page as a passage; None where it has no address that a browser may open, or no text."""
    url, content, score = told.get("url"), told.get("content"), told.get("score")
    if not isinstance(url, str) or not _is_link(url) or not isinstance(content, str) or not content.strip():
        return None
    text = content.strip()[:_LONGEST_CONTENT_CHARS]
    title = told.get("title")
    named = " ".join(title.split())[:_LONGEST_TITLE_CHARS] if isinstance(title, str) else ""
    number = min(1.0, max(0.0, float(score))) if isinstance(score, int | float) else 0.0
    chunk = ChunkText(
        chunk_id=chunk_id(text, url),
        document_id="",
        version_id="",
        dataset_id="",
        document_name=named or urlsplit(url).hostname or url,
        ordinal=0,
        content=text,
        url=url,
    )
    return Hit(chunk=chunk, rank=rank, similarity=number, vector_similarity=number, term_similarity=0.0, fused=number)


def _is_link(url: str) -> bool:
    """Whether it is an http(s) address without a login, in one line."""
    if len(url) > _LONGEST_URL_CHARS or not url.isprintable() or set(url) & set(' "<>\\'):
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        return False
