"""Roles of models. Adapters may be synchronous or asynchronous; `LLMBundle` looks at the method itself."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import SecretStr

from rag.core.types import ChunkText, Matrix, Picture, TokenUsage, ToolCall, Turn, Vector


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """What a request may set; None leaves the provider's default."""

    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Grounding:
    """The question and the numbered passages the answer must rest on, for models that take them apart from the
    prompt: passage i is cited as `[ID:i]`. The same text is also in the prompt. `evidence` is what the search says of
    its best hits in absolute terms (`rag.nlp.evidence`), 0 to 1; None where that is not known."""

    question: str
    passages: tuple[ChunkText, ...]
    empty_response: str = ""
    evidence: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolSpec:
    """A tool as a model is told of it. `parameters` is a JSON schema of type object; `name` fits
    `[a-zA-Z0-9_-]{1,64}`."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplySchema:
    """The JSON schema that a reply must fit; `name` fits `[a-zA-Z0-9_-]{1,64}`."""

    name: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRequest:
    """One call. Identity and history travel here, never on a client object.

    `tools` may be called unless `tool_choice` is "none"; a model without the capability is refused before the call.
    `cache_prefix` asks providers that want to be asked to cache the tools and system turns. `tool_fragments` asks for
    pieces of tool arguments as they come; whole calls come in any case.
    """

    turns: tuple[Turn, ...]
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: Literal["auto", "none", "required"] = "auto"
    parallel_tools: bool = True
    tool_fragments: bool = False
    reply_schema: ReplySchema | None = None
    cache_prefix: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    grounding: Grounding | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolFragment:
    """A piece of the call number `index` of this reply, from 0; `name` comes with its first piece."""

    index: int
    name: str = ""
    arguments: str = ""


Finish = Literal["stop", "length", "tool_calls", "content_filter", "cut_off"]


class Delta(NamedTuple):
    """A piece of a streamed reply. A tuple, because many are made: a frozen dataclass takes three times as long.

    `tool_calls` (whole, in the order the model began them), `usage` and `finish` come with the last ones. `finish` is
    "cut_off" where the provider gave no reason. `model` is the name of the model that answered, on the delta with
    usage; a bundle sets it, which may have gone on to a fallback."""

    text: str = ""
    reasoning: str = ""
    fragments: tuple[ToolFragment, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    usage: TokenUsage | None = None
    finish: Finish | None = None
    model: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """What a chat model can do. `prompt_caching`: "automatic" needs no word from us, "marked" wants marks."""

    tools: bool = False
    parallel_tools: bool = False
    json_schema: bool = False
    vision: bool = False
    reasoning: bool = False
    prompt_caching: Literal["none", "automatic", "marked"] = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """`name` is `<model>@<provider>`; `context_tokens` holds prompt and reply together."""

    name: str
    context_tokens: int
    max_output_tokens: int
    local: bool = False
    capabilities: Capabilities = field(default_factory=Capabilities)

    @property
    def provider(self) -> str:
        return self.name.rpartition("@")[2]


class ChatModel(Protocol):
    """`stream` is an async generator function, or a synchronous generator function."""

    info: ModelInfo

    def stream(self, request: ChatRequest) -> AsyncIterator[Delta] | Iterator[Delta]:
        """Yield the reply. Closing the iterator early ends the provider's request.

        Raises:
            ModelError: one of its subclasses; `facts["started"]` tells whether text had been yielded.
        """
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` for the budget; may be an estimate that is never too low by more than 10 %."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """`vectors`: shape (n, dim), float32, rows of unit length. `estimated`: nobody has counted all of `tokens`."""

    vectors: Matrix
    tokens: int
    estimated: bool = False


class Embedder(Protocol):
    """`encode` may be a coroutine function or a plain function; so may `encode_query`."""

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int:
        """Length of the vectors. Raises ModelBadOutput where that is not known before the first call; see
        `rag.llm.embedding.knows_dim`."""
        ...

    def encode(self, texts: Sequence[str]) -> Any:
        """Embedded, one row per text in order; an empty text gets a zero row. Long texts are windowed and pooled."""
        ...

    def encode_query(self, text: str) -> Any:
        """Embedded with one row, as questions are embedded."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Reranked:
    """`scores`: shape (n,), float32, one per passage in order, 0 (irrelevant) to 1. `estimated` as in `Embedded`."""

    scores: Vector
    tokens: int
    estimated: bool = False


class Reranker(Protocol):
    """`rerank` may be a coroutine function or a plain function."""

    name: str

    def rerank(self, question: str, passages: Sequence[str]) -> Any:
        """Reranked, one score per passage."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    text: str
    usage: TokenUsage


class Describer(Protocol):
    """`describe` may be a coroutine function or a plain function."""

    name: str

    def describe(self, picture: Picture, prompt: str) -> Any:
        """Described: what the picture shows, in words, as `prompt` asks; an empty prompt asks for everything."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcribed:
    """`seconds` is the length of the audio where the provider says it, else 0."""

    text: str
    seconds: float = 0.0


class Transcriber(Protocol):
    """`transcribe` may be a coroutine function or a plain function."""

    name: str

    def transcribe(self, audio: bytes, *, file_name: str) -> Any:
        """Transcribed; the ending of `file_name` tells the format."""
        ...


class Speaker(Protocol):
    """`speak` is an async generator function, or a synchronous generator function."""

    name: str

    def speak(self, text: str) -> AsyncIterator[bytes] | Iterator[bytes]:
        """Pieces of an MP3 file that says `text`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnModel:
    """A model that a tenant named; `kind` as in `ProviderLogin`."""

    name: str
    kind: Literal["chat", "embedding", "rerank", "image2text", "speech2text", "tts"]
    max_tokens: int = 0
    enabled: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class ProviderLogin:
    """How a tenant reaches a provider: what it set over the server's own settings. `models` are those it added or
    switched off by name; all others of the provider's list stay as they are. `guarded`: whoever set `base_url` may not
    reach this machine's own network."""

    provider: str
    api_key: SecretStr
    base_url: str = ""
    guarded: bool = False
    models: tuple[OwnModel, ...] = ()


class AsyncBundle(Protocol):
    """Models bound to a tenant and a purpose, each call metered; `api.db.services.llm_service.LLMBundle`."""

    @property
    def name(self) -> str: ...
    async def chat(self, request: ChatRequest) -> tuple[str, TokenUsage]: ...
    def chat_streamly(self, request: ChatRequest) -> AsyncIterator[Delta]: ...
    async def encode(self, texts: Sequence[str]) -> Embedded: ...
    async def encode_queries(self, texts: Sequence[str]) -> Embedded: ...
    async def similarity(self, question: str, passages: Sequence[str]) -> Reranked: ...
    async def describe(self, picture: Picture, prompt: str = "") -> Described: ...
    async def transcribe(self, audio: bytes, *, file_name: str) -> Transcribed: ...
    def tts(self, text: str) -> AsyncIterator[bytes]: ...


class SyncBundle(Protocol):
    """The same for synchronous code in threads, such as chunk methods and enrichment; never on a loop's own thread.
    `api.utils.api_utils.SyncLLMWrapper`."""

    @property
    def name(self) -> str: ...
    def chat(self, request: ChatRequest) -> tuple[str, TokenUsage]: ...
    def chat_streamly(self, request: ChatRequest) -> Iterator[Delta]: ...
    def encode(self, texts: Sequence[str]) -> Embedded: ...
    def encode_queries(self, texts: Sequence[str]) -> Embedded: ...
    def similarity(self, question: str, passages: Sequence[str]) -> Reranked: ...
    def describe(self, picture: Picture, prompt: str = "") -> Described: ...
    def transcribe(self, audio: bytes, *, file_name: str) -> Transcribed: ...
    def tts(self, text: str) -> Iterator[bytes]: ...
