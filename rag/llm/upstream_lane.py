"""What our own clients of model servers share: one request over the pool's connections, and its stream of events.

A subclass says how a request looks and reads the events of its format.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from io import BytesIO
from typing import Any, ClassVar, Protocol

import aiohttp
import orjson

from rag.core.blocking import Lane, run_in
from rag.core.errors import ModelBadOutput, ModelError, ModelOverloaded
from rag.llm.base import ChatRequest, Delta, ModelInfo, ToolFragment
from rag.llm.deadlines import Deadlines, Watch
from rag.llm.endpoint import Endpoint
from rag.llm.event_stream import EventParser
from rag.llm.reply_bounds import MAX_TEXT_CHARS, too_long
from rag.llm.token_estimate import estimate_tokens
from rag.llm.upstream import UpstreamPool
from rag.llm.upstream_errors import error_in_stream, error_of

_DONE = b"[DONE]"
_MAX_REPLY_BYTES = 32 << 20
_STREAM_TYPES = ("text/event-stream", "application/octet-stream", "text/plain")
_BIG_BYTES = 256 << 10
"""JSON from this size on is parsed in a thread, and requests are written in pieces."""


class ReplyReader(Protocol):
    """Reads the parsed events of one reply."""

    @property
    def done(self) -> bool:
        """Whether the reply has said that nothing follows."""
        ...

    @property
    def is_empty(self) -> bool:
        """Whether it has said nothing of an end, of usage or of tool calls."""
        ...

    def read(self, piece: dict[str, Any]) -> tuple[str, str]:
        """(reasoning, text) that an event adds."""
        ...

    def read_whole(self, piece: dict[str, Any]) -> tuple[str, str] | None:
        """(reasoning, text) of a reply that was not streamed; None if `piece` is no reply."""
        ...

    def take_fragments(self) -> tuple[ToolFragment, ...]: ...

    def last(self) -> list[Delta]: ...


class UpstreamLane(ABC):
    """Base of the lanes: a ChatModel, asynchronous. Holds no more than address, key and the shared connections."""

    path: ClassVar[str]
    protocol: ClassVar[str]

    def __init__(self, info: ModelInfo, endpoint: Endpoint, *, pool: UpstreamPool, deadlines: Deadlines) -> None:
        self.info = info
        self._endpoint = endpoint
        self._pool = pool
        self._deadlines = deadlines
        self._url = endpoint.url(self.path)

    async def stream(self, request: ChatRequest) -> AsyncIterator[Delta]:
        """Yield the reply by arrival. The connection is closed when this is left before the end.

        Raises:
            ModelError: see `rag.llm.upstream_errors`; `facts["started"]` says whether anything had come.
            InvalidInput: the request sets what it may not, or asks for what the model cannot do.
        """
        body = await self._body(request)
        watch = Watch(self._deadlines, model=self.info.name)
        with self._translated(watch):
            response = await self._send(body, watch)
            try:
                reader = self._reader()
                if response.content_type == "application/json":
                    deltas = self._whole(response, reader, watch)
                else:
                    deltas = self._events(response, reader, watch)
                fragments, chars = request.tool_fragments, 0
                async with aclosing(deltas):
                    async for delta in deltas:
                        watch.started = True
                        chars += len(delta.text) + len(delta.reasoning)
                        if chars > MAX_TEXT_CHARS:
                            raise too_long(self.info.name, MAX_TEXT_CHARS)
                        if fragments or not delta.fragments:
                            yield delta
                        elif delta.text or delta.reasoning:
                            yield Delta(text=delta.text, reasoning=delta.reasoning)
            finally:
                # Closing, not releasing: a reply that was left early must end at the provider too. A reply read to
                # its end has given its connection back already.
                response.close()

    def count_tokens(self, text: str) -> int:
        return estimate_tokens(text)

    @abstractmethod
    async def _body(self, request: ChatRequest) -> bytes:
        """What is sent."""

    @abstractmethod
    def _reader(self) -> ReplyReader:
        """A new reader of the replies of this format."""

    def _login(self) -> dict[str, str]:
        """The headers that log in."""
        return self._endpoint.headers()

    def _failure(self, piece: dict[str, Any]) -> Any:
        """What a piece says of an error; something false if it tells of none."""
        return piece.get("error")

    async def _send(self, body: bytes, watch: Watch) -> aiohttp.ClientResponse:
        headers = {
            **self._login(),
            "Content-Type": "application/json",
            "Accept": "text/event-stream, application/json",
            "Accept-Encoding": "identity",
        }
        # In pieces, where it is long: written in one go it would hold the event loop.
        data = BytesIO(body) if len(body) >= _BIG_BYTES else body
        with watch.limit():
            # No redirects: the key is for this address alone.
            response = await self._pool.session.post(self._url, data=data, headers=headers, allow_redirects=False)
            if response.status == 200:
                return response
            try:
                raise await error_of(response, model=self.info.name, secret=self._endpoint.secret)
            finally:
                response.close()

    async def _events(
        self, response: aiohttp.ClientResponse, reader: ReplyReader, watch: Watch
    ) -> AsyncGenerator[Delta, None]:
        parser = self._parser(response)
        last: list[Delta] = []
        ended = quiet = False
        while not ended:
            try:
                with watch.limit(again=quiet):
                    chunk = await response.content.readany()
            except (aiohttp.ClientError, OSError):  # TimeoutError is an OSError.
                last = reader.last()
                if last[-1].finish == "cut_off":
                    raise
                # The model had finished: only `[DONE]` or the end of the connection is missing.
                response.close()
                break
            events = parser.feed(chunk) if chunk else _whole_ones(parser.finish())
            ended = not chunk
            thought = said = ""
            for event in events:
                if event == _DONE:
                    ended = True
                    break
                reasoning, text = reader.read(
                    self._piece(event) if len(event) < _BIG_BYTES else await run_in(Lane.TEXT, self._piece, event)
                )
                thought += reasoning
                said += text
            ended = ended or reader.done
            delta = Delta(reasoning=thought, text=said, fragments=reader.take_fragments())
            # Comments that keep a connection alive are no tokens: the deadline for the next one goes on.
            quiet = not (delta.text or delta.reasoning or delta.fragments)
            if not quiet:
                yield delta
        if not watch.started and reader.is_empty:
            raise self._nothing_came()
        for delta in last or reader.last():
            yield delta
        await self._drain(response)

    def _parser(self, response: aiohttp.ClientResponse) -> EventParser:
        if response.content_type not in _STREAM_TYPES:
            raise self._not_understood(f"it answered with {response.content_type!r}")
        return EventParser()

    async def _drain(self, response: aiohttp.ClientResponse) -> None:
        """Read past the last event, so that the connection can serve the next call; a slow end is not waited for, and
        an unclean one is no failure of the answer."""
        if response.closed or response.content.at_eof():
            return
        try:
            async with asyncio.timeout(0.05):
                await response.content.readany()
                await response.content.readany()
        except (aiohttp.ClientError, OSError):
            response.close()

    async def _whole(
        self, response: aiohttp.ClientResponse, reader: ReplyReader, watch: Watch
    ) -> AsyncGenerator[Delta, None]:
        """A server that does not stream answers in one piece."""
        parts: list[bytes] = []
        with watch.limit():
            while not response.content.at_eof() and sum(map(len, parts)) <= _MAX_REPLY_BYTES:
                parts.append(await response.content.readany())
        data = b"".join(parts)
        if len(data) > _MAX_REPLY_BYTES:
            raise self._not_understood(f"its answer is longer than {_MAX_REPLY_BYTES} bytes")
        piece = self._piece(data) if len(data) < _BIG_BYTES else await run_in(Lane.TEXT, self._piece, data)
        found = reader.read_whole(piece)
        if found is None:
            raise self._not_understood("its answer is of another form")
        delta = Delta(reasoning=found[0], text=found[1], fragments=reader.take_fragments())
        if delta.text or delta.reasoning or delta.fragments:
            yield delta
        for delta in reader.last():
            yield delta

    def _piece(self, event: bytes) -> dict[str, Any]:
        try:
            piece = orjson.loads(event)
        except orjson.JSONDecodeError as error:
            raise self._not_understood("it sent broken JSON") from error
        if not isinstance(piece, dict):
            raise self._not_understood("it sent JSON of another form")
        if failure := self._failure(piece):
            raise error_in_stream(failure, model=self.info.name, secret=self._endpoint.secret)
        return piece

    def _nothing_came(self) -> ModelOverloaded:
        return ModelOverloaded(
            f"The connection to {self.info.name!r} ended before an answer came. Try again.", model=self.info.name
        )

    def _not_understood(self, why: str) -> ModelBadOutput:
        return ModelBadOutput(
            f"The server of {self.info.name!r} does not speak {self.protocol}: {why}. Check its base address.",
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
        except (aiohttp.InvalidURL, UnicodeError) as error:
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
        finally:
            watch.close()


def _whole_ones(events: list[bytes]) -> list[bytes]:
    """The events that the end of a connection left, without one that it cut in two."""
    return [event for event in events if event == _DONE or event.rstrip().endswith(b"}")]
