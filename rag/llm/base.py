"""Roles of models. Adapters may be synchronous or asynchronous; `LLMBundle` looks at the method itself."""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from rag.core.types import ChunkText, Matrix, TokenUsage, Turn


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
    prompt: passage i is cited as `[ID:i]`. The same text is also in the prompt."""

    question: str
    passages: tuple[ChunkText, ...]
    empty_response: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRequest:
    """One call. Identity and history travel here, never on a client object."""

    turns: tuple[Turn, ...]
    sampling: Sampling = field(default_factory=Sampling)
    grounding: Grounding | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """A piece of a streamed reply; `usage` and `finish` come with the last ones."""

    text: str = ""
    reasoning: str = ""
    usage: TokenUsage | None = None
    finish: Literal["stop", "length", "tool_calls", "content_filter", "cut_off"] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """`name` is `<model>@<provider>`; `context_tokens` holds prompt and reply together."""

    name: str
    context_tokens: int
    max_output_tokens: int
    local: bool = False


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
    """`vectors`: shape (n, dim), float32, rows of unit length."""

    vectors: Matrix
    tokens: int


class Embedder(Protocol):
    """`encode` may be a coroutine function or a plain function; so may `encode_query`."""

    name: str
    dim: int

    def encode(self, texts: Sequence[str]) -> Any:
        """Embedded, one row per text in order; an empty text gets a zero row. Long texts are windowed and pooled."""
        ...

    def encode_query(self, text: str) -> Any:
        """Embedded with one row, as questions are embedded."""
        ...
