"""Which models self-hosted servers have: asked at the start and now and then, never a reason to fail."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

import structlog

from rag.core.clock import Clock, SystemClock
from rag.core.errors import ModelBadOutput, ModelError
from rag.llm.models_file import Kind
from rag.llm.provider_table import Provider
from rag.llm.upstream import UpstreamPool

if TYPE_CHECKING:
    from rag.llm.upstream_call import UpstreamCall

log = structlog.get_logger()

TIMEOUT_S: Final = 5.0
_MAX_BYTES: Final = 4 << 20
_MOST_MODELS: Final = 1000
_LONGEST_NAME: Final = 200
_NAMES: Final[tuple[tuple[Kind, tuple[str, ...]], ...]] = (
    ("rerank", ("rerank",)),
    ("embedding", ("embed", "bge-", "/e5-", "minilm", "gte-")),
    ("speech2text", ("whisper", "transcribe")),
    ("tts", ("tts", "kokoro", "orpheus")),
)


class Discovery:
    """The models of servers by their provider's name, as they were last told. `version` rises with every answer."""

    def __init__(
        self, pool: UpstreamPool, *, every_s: float, timeout_s: float = TIMEOUT_S, clock: Clock | None = None
    ) -> None:
        self._pool = pool
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._clock = clock or SystemClock()
        self._found: dict[str, tuple[str, ...]] = {}
        self._asked_at: float | None = None
        self.version = 0
        self._asking = asyncio.Lock()

    def models_of(self, provider: str) -> tuple[str, ...]:
        """Names of the models that the provider's server told of."""
        return self._found.get(provider, ())

    async def refresh(self, providers: Sequence[Provider]) -> None:
        """Ask the servers of `providers`, all at a time, unless that was done less than `every_s` ago. One that does
        not answer keeps the models it told of before; that is logged."""
        async with self._asking:
            now = self._clock.monotonic()
            if self._asked_at is not None and now - self._asked_at < self._every_s:
                return
            self._asked_at = now
            asked = [one for one in providers if one.available and asks(one)]
            await asyncio.gather(*(self._ask(one) for one in asked))

    async def _ask(self, provider: Provider) -> None:
        try:
            self._found[provider.name] = await models_at(provider, self._pool, timeout_s=self._timeout_s)
            self.version += 1
        except ModelError as error:
            log.warning("models not discovered", provider=provider.name, reason=error.message)


def asks(provider: Provider) -> bool:
    """Whether the provider's server is asked for its models: those that say so, and any other address in the place
    of OpenAI's."""
    return bool(provider.entry.discover) or (provider.name == "OpenAI" and provider.open_names)


async def models_at(provider: Provider, pool: UpstreamPool, *, timeout_s: float = TIMEOUT_S) -> tuple[str, ...]:
    """Names of the models that the server of `provider` has now.

    Raises:
        ModelError: it does not answer, or says something else.
    """
    # Imported here, see `rag.llm.upstream`.
    from rag.llm.upstream_call import UpstreamCall

    await pool.open()
    call = UpstreamCall(provider.name, provider.endpoint, pool=pool, timeout_s=timeout_s)
    if provider.entry.discover == "ollama":
        parts = urlsplit(provider.endpoint.base_url)
        url = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/").removesuffix("/v1") + "/api/tags", "", ""))
        return await _names(call, url, "models", "name")
    return await _names(call, provider.endpoint.url("/models"), "data", "id")


def kind_by_name(model: str) -> Kind:
    """What a model probably is: servers do not tell."""
    name = model.lower()
    return next((kind for kind, parts in _NAMES if any(part in name for part in parts)), "chat")


async def _names(call: "UpstreamCall", url: str, field: str, name: str) -> tuple[str, ...]:
    reply = await call.get_json(url, most_bytes=_MAX_BYTES)
    items: Any = reply.get(field)
    if not isinstance(items, list):
        raise ModelBadOutput(f"The server of {call.name!r} gave no list of models.", model=call.name)
    names = [item.get(name) for item in items if isinstance(item, dict)]
    usable = [one for one in names if isinstance(one, str) and _is_name(one)]
    return tuple(dict.fromkeys(usable))[:_MOST_MODELS]


def _is_name(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_NAME and text.isprintable() and "@" not in text and text == text.strip()
