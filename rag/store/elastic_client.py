"""The connection to Elasticsearch: built late, with deadlines; the server's version is checked before its first use."""

import asyncio
import re
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from rag.core.blocking import Lane, run_in
from rag.core.errors import InvalidInput, StoreError, StoreUnavailable
from rag.core.settings import IndexSettings
from rag.store.elastic_errors import Overloaded, Unreachable, translated

MAJOR, LEAST_MINOR = 8, 18
"""8.18 is the first to rescore quantised vectors by itself."""
JSON, LINES = "application/json", "application/x-ndjson"
_CONNECTIONS = 16
_RETRIES = 2
_FIRST_WAIT_S = 0.05
_VERSION = re.compile(r"(\d+)\.(\d+)\.")

_LOOKING: ContextVar[bool] = ContextVar("looking", default=False)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: tuple[str, ...]
    query: Mapping[str, str] | None = None
    body: bytes | None = None
    kind: str = JSON

    @property
    def target(self) -> str:
        return "/" + "/".join(quote(part, safe="*,") for part in self.path)


_VERSION_REQUEST = _Request("GET", ("_nodes", "_local"), {"filter_path": "nodes.*.version"})


class ElasticConnection:
    """One client for one event loop. `where` is the address for messages.

    Args:
        watched: Whether somebody looks at the server again and again (see `looking`). A call that finds it away then
            speaks for all others, which fail at once, until it was seen again: those that wait for their turn would
            else wait for the deadline one after the other.
    """

    def __init__(self, settings: IndexSettings, *, watched: bool = False) -> None:
        self.where = settings.url
        self._settings = settings
        self._timeout_s = settings.timeout_s
        self._client: Any = None
        self._lock = asyncio.Lock()
        self._version = ""
        self._watched = watched
        self._away: str | None = None

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Let the calls of this context through, also to a server that was found away."""
        token = _LOOKING.set(True)
        try:
            yield
        finally:
            _LOOKING.reset(token)

    async def open(self) -> None:
        """Import the driver; waits for no server.

        Raises:
            InvalidInput: the file of `index.tls_ca` cannot be read.
        """
        async with self._lock:
            if self._client is None:
                self._client = await run_in(Lane.INDEX, _client, self._settings)

    async def close(self) -> None:
        client, self._client, self._version = self._client, None, ""
        if client is not None:
            await client.close()

    async def call(
        self,
        method: str,
        *path: str,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        kind: str = JSON,
    ) -> Any:
        """The reply of one call. `path` is quoted part by part; a body is encoded already.

        Raises:
            StoreUnavailable: no reply within `index.timeout_s`.
            StoreError: see `rag.store.elastic_errors`.
        """
        request = _Request(method, path, query, body, kind)
        if self._watched:
            # A call may be too dear for its deadline. Whether the server is away is known in the same time.
            return await self._while_alive(request, self._timeout_s)
        return await self._call(request, self._timeout_s)

    async def slow_call(
        self,
        method: str,
        *path: str,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        kind: str = JSON,
        at_most_s: float = 120.0,
    ) -> Any:
        """`call` for what may rightly take longer: it goes on for as long as the server answers something else
        meanwhile."""
        return await self._while_alive(_Request(method, path, query, body, kind), at_most_s)

    async def when_ready(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` returns; asked again, for half the deadline, while the server has no room or is just making the
        index."""
        wait_s, left_s = _FIRST_WAIT_S, self._timeout_s / 2
        while True:
            try:
                return await ask()
            except Overloaded:
                if left_s <= 0:
                    raise
            await asyncio.sleep(wait_s)
            left_s -= wait_s
            wait_s *= 2

    async def version(self) -> str:
        """The version of the server that answers.

        Raises:
            StoreError: it is one this adapter does not work with.
        """
        reply = await self._call(_VERSION_REQUEST, self._timeout_s)
        nodes = reply.get("nodes") if isinstance(reply, dict) else None
        found = str(next(iter(nodes.values())).get("version", "")) if nodes else ""
        parts = _VERSION.match(found)
        if parts is None:
            raise StoreError(f"The server at {self.where} does not tell its version: check index.url.")
        major, minor = int(parts[1]), int(parts[2])
        if (major, minor) < (MAJOR, LEAST_MINOR) or major != MAJOR:
            raise StoreError(
                f"The server at {self.where} is Elasticsearch {found}; this version of Parley works with {MAJOR}."
                f"{LEAST_MINOR} and later releases of {MAJOR}: "
                + ("upgrade Parley, or name another server." if major > MAJOR else "upgrade the server.")
            )
        self._version = found
        return found

    async def checked(self) -> None:
        """Check the version, unless it was checked since the server was last unreachable."""
        if not self._version:
            await self.version()

    async def _call(self, request: _Request, timeout_s: float) -> Any:
        if self._away is not None and not _LOOKING.get():
            raise StoreUnavailable(self._away)
        await self.open()
        headers = {"accept": JSON} if request.body is None else {"accept": JSON, "content-type": request.kind}
        try:
            with translated(self.where, timeout_s):
                # The client's own limit marks the node as dead; this one also bounds its repetitions.
                async with asyncio.timeout(timeout_s + 0.25):
                    client = self._client.options(request_timeout=timeout_s)
                    reply = await client.perform_request(
                        request.method, request.target, params=request.query, headers=headers, body=request.body
                    )
        except StoreUnavailable as error:
            self._version = ""
            if self._watched and (request is _VERSION_REQUEST or isinstance(error, Unreachable)):
                self._away = error.message
            raise
        self._away = None
        return reply.body

    async def _while_alive(self, request: _Request, at_most_s: float) -> Any:
        running = asyncio.ensure_future(self._call(request, at_most_s))
        pause_s = self._timeout_s / 2
        try:
            while True:
                done, _ = await asyncio.wait([running], timeout=pause_s)
                if done:
                    return running.result()
                await self._call(_VERSION_REQUEST, pause_s)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def _client(settings: IndexSettings) -> Any:
    # Imported here: 1 s and 60 MB that only those pay who chose this index.
    import elasticsearch
    from elasticsearch.serializer import OrjsonSerializer, TextSerializer

    # Deprecations and the like are for the operator's own log of the server.
    warnings.simplefilter("ignore", elasticsearch.ElasticsearchWarning)
    # The driver hands over whole bodies; one of 4 MB is copied to the socket's buffer in a millisecond.
    warnings.filterwarnings("ignore", message="Sending a large body", category=ResourceWarning)
    parser = OrjsonSerializer()
    options: dict[str, Any] = {}
    if settings.api_key is not None:
        options["api_key"] = settings.api_key.get_secret_value()
    elif settings.user:
        password = settings.password.get_secret_value() if settings.password else ""
        options["basic_auth"] = (settings.user, password)
    if settings.tls_ca:
        if not Path(settings.tls_ca).is_file():
            raise InvalidInput(f"index.tls_ca: there is no file {settings.tls_ca!r}.")
        options["ca_certs"] = settings.tls_ca
    hosts = [_with_port(one.strip()) for one in settings.url.split(",")]
    try:
        return elasticsearch.AsyncElasticsearch(
            hosts,
            connections_per_node=_CONNECTIONS,
            max_retries=_RETRIES,
            retry_on_status=(),
            retry_on_timeout=False,
            # Text: what a gateway says when the server behind it is down.
            serializers={JSON: parser, "application/vnd.elasticsearch+json": parser, "text/*": TextSerializer()},
            **options,
        )
    except (ValueError, OSError) as error:
        raise InvalidInput(f"index.url and index.tls_ca cannot be used: {error}") from error


def _with_port(url: str) -> str:
    """The driver wants a port in every address."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    named = re.search(r":\d+$", host)
    return f"{scheme}://{host}{'' if named else ':443' if scheme == 'https' else ':9200'}{slash}{path}".rstrip("/")
