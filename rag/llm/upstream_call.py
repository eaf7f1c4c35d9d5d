"""One call to an address that speaks OpenAI's protocol and answers in one piece, or with a file.

Chats have clients of their own; this one serves embeddings, reranking, speech and the lists of models.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import aiohttp
import orjson

from rag.core.blocking import Lane, run_in
from rag.core.errors import InvalidInput, ModelBadOutput, ModelOverloaded, ModelTimeout
from rag.llm.endpoint import Endpoint
from rag.llm.upstream import UpstreamPool
from rag.llm.upstream_errors import MAX_ERROR_BYTES, error_for, error_of, without_begun

MAX_REPLY_BYTES: Final = 64 << 20
MAX_FILE_BYTES: Final = 64 << 20
"""Of a file that is streamed: six minutes of sound without any compression."""
_BIG_BYTES: Final = 64 << 10
"""JSON from this size on is made and parsed in a thread."""


class UpstreamCall:
    """Calls of one model. Holds no more than address, key and the shared connections.

    Args:
        timeout_s: Seconds for a reply in one piece, or for each piece of a file.
        answer_s: Seconds for a whole file.
    """

    def __init__(
        self, name: str, endpoint: Endpoint, *, pool: UpstreamPool, timeout_s: float, answer_s: float = 600.0
    ) -> None:
        self.name = name
        self.endpoint = endpoint
        self._pool = pool
        self._timeout_s = timeout_s
        self._answer_s = answer_s

    async def post_json(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object that `path` answers with.

        Raises:
            ModelError: see `rag.llm.upstream_errors`; so for all methods.
            InvalidInput: `body` is no JSON.
        """
        data = await self._written(body)
        with self._translated():
            async with asyncio.timeout(self._timeout_s):
                return await self._parsed(await self._whole("POST", path, data=data, type_="application/json"))

    async def post_form(self, path: str, form: aiohttp.FormData) -> dict[str, Any]:
        """The JSON object that `path` answers a form with."""
        with self._translated():
            async with asyncio.timeout(self._timeout_s):
                return await self._parsed(await self._whole("POST", path, data=form))

    async def get_json(self, url: str, *, most_bytes: int) -> dict[str, Any]:
        """The JSON object at `url`, of `most_bytes` at the most."""
        with self._translated():
            async with asyncio.timeout(self._timeout_s):
                return await self._parsed(await self._whole("GET", url, most_bytes=most_bytes))

    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[bytes]:
        """The pieces of the file that `path` answers with, `MAX_FILE_BYTES` in all at the most. Each is waited for
        `timeout_s`, and the whole has `answer_s`, the time that the caller takes included.
        """
        data = await self._written(body)
        loop = asyncio.get_running_loop()
        end, size = loop.time() + self._answer_s, 0
        with self._translated(end):
            async with asyncio.timeout_at(min(end, loop.time() + self._timeout_s)):
                response = await self._send("POST", path, data=data, type_="application/json")
            try:
                if response.content_type in ("application/json", "text/html"):
                    raise self._not_understood(f"it answered with {response.content_type!r}")
                while True:
                    async with asyncio.timeout_at(min(end, loop.time() + self._timeout_s)):
                        piece = await response.content.readany()
                    if not piece:
                        break
                    size += len(piece)
                    if size > MAX_FILE_BYTES:
                        raise ModelBadOutput(
                            f"The file of {self.name!r} is longer than {MAX_FILE_BYTES} bytes.", model=self.name
                        )
                    yield piece
            finally:
                # Closing, not releasing: what was left early must end at the provider too.
                response.close()

    def not_understood(self, why: str) -> ModelBadOutput:
        """The error of a reply of another form."""
        return self._not_understood(why)

    async def _written(self, body: Mapping[str, Any]) -> bytes:
        try:
            return await run_in(Lane.TEXT, orjson.dumps, body)
        except TypeError as error:
            raise InvalidInput(f"The request cannot be sent to the model: {error}.") from error

    async def _send(self, method: str, path: str, *, data: Any = None, type_: str = "") -> aiohttp.ClientResponse:
        headers = {**self.endpoint.headers(), "Accept-Encoding": "identity"}
        if type_:
            headers["Content-Type"] = type_
        url = path if path.startswith("http") else self.endpoint.url(path)
        # No redirects: the key is for this address alone.
        response = await self._pool.session.request(method, url, data=data, headers=headers, allow_redirects=False)
        if response.status == 200:
            return response
        try:
            raise await error_of(response, model=self.name, secret=self.endpoint.secret)
        finally:
            response.close()

    async def _whole(
        self, method: str, path: str, *, data: Any = None, type_: str = "", most_bytes: int = MAX_REPLY_BYTES
    ) -> bytes:
        response = await self._send(method, path, data=data, type_=type_)
        pieces, size = [], 0
        try:
            async for piece in response.content.iter_any():
                size += len(piece)
                if size > most_bytes:
                    raise self._not_understood(f"its answer is longer than {most_bytes} bytes")
                pieces.append(piece)
        finally:
            response.close()
        return b"".join(pieces)

    async def _parsed(self, data: bytes) -> dict[str, Any]:
        try:
            loaded = await run_in(Lane.TEXT, orjson.loads, data) if len(data) > _BIG_BYTES else orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise self._not_understood("it sent broken JSON") from error
        if not isinstance(loaded, dict):
            raise self._not_understood("it sent JSON of another form")
        if loaded.get("error"):
            secret = self.endpoint.secret
            text = without_begun(orjson.dumps(loaded)[:MAX_ERROR_BYTES], secret)
            raise error_for(400, text, model=self.name, secret=secret)
        return loaded

    def _not_understood(self, why: str) -> ModelBadOutput:
        return ModelBadOutput(
            f"The server of {self.name!r} does not speak OpenAI's protocol: {why}. Check its base address.",
            model=self.name,
        )

    @contextmanager
    def _translated(self, end: float | None = None) -> Iterator[None]:
        """Raise what goes wrong as ModelError; `end` is the deadline of a whole file, in the loop's time."""
        try:
            yield
        except (TimeoutError, aiohttp.ServerTimeoutError) as error:
            late = f"did not answer within {self._timeout_s:g} s"
            if end is not None and asyncio.get_running_loop().time() >= end:
                late = f"did not finish within {self._answer_s:g} s"
            raise ModelTimeout(f"{self.name!r} {late}.", model=self.name) from error
        except (aiohttp.InvalidURL, UnicodeError) as error:
            raise self._not_understood("its address is not a URL") from error
        except aiohttp.ClientConnectorError as error:
            raise ModelOverloaded(
                f"The server of {self.name!r} cannot be reached. Check its base address and the network.",
                model=self.name,
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise ModelOverloaded(
                f"The connection to {self.name!r} was lost ({type(error).__name__}). Try again.", model=self.name
            ) from error
