"""Chat models behind any address that speaks OpenAI's chat completions, read by ourselves.

LiteLLM's wrapper costs about 500 µs of CPU per streamed token; this costs a tenth. All tokens that arrived in one
read leave as one delta.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import orjson

from rag.core.errors import InvalidInput, ModelBadOutput, ModelError, ModelOverloaded
from rag.llm.base import ChatRequest, Delta, ModelInfo
from rag.llm.chat_body import DeltaReader, messages, sampling_fields
from rag.llm.deadlines import Deadlines, Watch
from rag.llm.endpoint import Endpoint
from rag.llm.event_stream import EventParser
from rag.llm.token_estimate import estimate_tokens
from rag.llm.upstream import UpstreamPool
from rag.llm.upstream_errors import error_for, error_in_stream

_DONE = b"[DONE]"
_MAX_ERROR_BYTES = 64 << 10
_MAX_REPLY_BYTES = 32 << 20


class OpenAiLane:
    """ChatModel, asynchronous. Holds no more than address, key and the shared connections."""

    def __init__(self, info: ModelInfo, endpoint: Endpoint, *, pool: UpstreamPool, deadlines: Deadlines) -> None:
        self.info = info
        self._endpoint = endpoint
        self._pool = pool
        self._deadlines = deadlines
        self._url = endpoint.base_url.rstrip("/") + "/chat/completions"

    async def stream(self, request: ChatRequest) -> AsyncIterator[Delta]:
        """Yield the reply by arrival. The connection is closed when this is left before the end.

        Raises:
            ModelError: see `rag.llm.upstream_errors`; `facts["started"]` says whether text had come.
            InvalidInput: the request sets what it may not.
        """
        watch = Watch(self._deadlines, model=self.info.name)
        body = self._body(request)
        with self._translated(watch):
            response = await self._send(body, watch)
            try:
                if response.content_type == "application/json":
                    async for delta in self._whole(response, watch):
                        yield delta
                else:
                    async for delta in self._events(response, watch):
                        watch.started = True
                        yield delta
            finally:
                # Closing, not releasing: a reply that was left early must end at the provider too. A reply read to
                # its end has given its connection back already.
                response.close()

    def count_tokens(self, text: str) -> int:
        return estimate_tokens(text)

    def _body(self, request: ChatRequest) -> bytes:
        fields = sampling_fields(request, self._endpoint)
        body = {
            **fields,
            "model": self._endpoint.model,
            "messages": messages(request),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            return orjson.dumps(body)
        except TypeError as error:
            raise InvalidInput(f"The request cannot be sent to the model: {error}.") from error

    async def _send(self, body: bytes, watch: Watch) -> aiohttp.ClientResponse:
        headers = {
            "Authorization": f"Bearer {self._endpoint.api_key.get_secret_value()}",
            "Content-Type": "application/json",
            "Accept": "text/event-stream, application/json",
            "Accept-Encoding": "identity",
        }
        async with watch.limit():
            # No redirects: the key is for this address alone.
            response = await self._pool.session.post(self._url, data=body, headers=headers, allow_redirects=False)
            if response.status == 200:
                return response
            try:
                text = await response.content.read(_MAX_ERROR_BYTES)
            finally:
                response.close()
        raise error_for(
            response.status,
            text,
            model=self.info.name,
            retry_after=response.headers.get("Retry-After"),
            secret=self._endpoint.api_key.get_secret_value(),
        )

    async def _events(self, response: aiohttp.ClientResponse, watch: Watch) -> AsyncIterator[Delta]:
        if response.content_type not in ("text/event-stream", "application/octet-stream", "text/plain"):
            raise self._not_understood(f"it answered with {response.content_type!r}")
        parser, reader = EventParser(), DeltaReader()
        ended = False
        while not ended:
            async with watch.limit():
                chunk = await response.content.readany()
            events = parser.feed(chunk) if chunk else parser.finish()
            ended = not chunk
            thought, said = [], []
            for event in events:
                if event == _DONE:
                    ended = True
                    break
                reasoning, text = reader.read(self._piece(event))
                thought.append(reasoning)
                said.append(text)
            delta = Delta(reasoning="".join(thought), text="".join(said))
            if delta.reasoning or delta.text:
                yield delta
        if not watch.started and reader.finish is None and reader.usage is None:
            raise ModelOverloaded(
                f"The connection to {self.info.name!r} ended before an answer came. Try again.", model=self.info.name
            )
        for delta in reader.last():
            yield delta
        await self._drain(response, watch)

    async def _drain(self, response: aiohttp.ClientResponse, watch: Watch) -> None:
        """Read past the last event, so that the connection can serve the next call; a slow end is not waited for."""
        if response.content.at_eof():
            return
        try:
            async with asyncio.timeout(0.05):
                await response.content.readany()
                await response.content.readany()
        except TimeoutError:
            return

    async def _whole(self, response: aiohttp.ClientResponse, watch: Watch) -> AsyncIterator[Delta]:
        """A server that does not stream answers in one piece."""
        async with watch.limit():
            data = await response.content.read(_MAX_REPLY_BYTES)
            while not response.content.at_eof() and len(data) < _MAX_REPLY_BYTES:
                data += await response.content.readany()
        reader = DeltaReader()
        piece = self._piece(data)
        if not isinstance(piece.get("choices"), list):
            raise self._not_understood("its answer holds no `choices`")
        reasoning, text = reader.read(piece)
        if reasoning or text:
            yield Delta(reasoning=reasoning, text=text)
        for delta in reader.last():
            yield delta

    def _piece(self, event: bytes) -> dict[str, Any]:
        try:
            piece = orjson.loads(event)
        except orjson.JSONDecodeError as error:
            raise self._not_understood("it sent broken JSON") from error
        if not isinstance(piece, dict):
            raise self._not_understood("it sent JSON of another form")
        if piece.get("error"):
            raise error_in_stream(
                piece["error"], model=self.info.name, secret=self._endpoint.api_key.get_secret_value()
            )
        return piece

    def _not_understood(self, why: str) -> ModelBadOutput:
        return ModelBadOutput(
            f"The server of {self.info.name!r} does not speak OpenAI's protocol: {why}. Check its base address.",
            model=self.info.name,
        )

    @contextmanager
    def _translated(self, watch: Watch) -> Iterator[None]:
        try:
            yield
        except ModelError as error:
            error.facts.setdefault("started", watch.started)
            raise
        except (TimeoutError, aiohttp.ServerTimeoutError) as error:
            raise watch.late() from error
        except aiohttp.InvalidURL as error:
            raise self._not_understood("its address is not a URL") from error
        except aiohttp.ClientConnectorError as error:
            raise ModelOverloaded(
                f"The server of {self.info.name!r} cannot be reached. Check its base address and the network.",
                model=self.info.name,
                started=False,
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise ModelOverloaded(
                f"The connection to {self.info.name!r} was lost ({type(error).__name__}). Try again.",
                model=self.info.name,
                started=watch.started,
            ) from error
