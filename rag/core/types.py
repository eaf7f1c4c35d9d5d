"""The values that cross layers. Frozen, keyword-only; a change makes a copy (`dataclasses.replace`)."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
"""Shape (dim,), float32, unit length."""
Matrix = NDArray[np.float32]
"""Shape (n, dim), float32, rows of unit length."""


class Scope(StrEnum):
    """What a credential opens."""

    API = "api"
    WEB = "web"
    SHARE = "share"


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """Who asks. Every object is loaded by (principal, id); the tenant's id equals its owner's user id."""

    tenant_id: str
    user_id: str
    scope: Scope
    credential: Literal["api_key", "login_token", "share_token", "cookie"]
    key_id: str = ""
    """The row of the API key, or of the key a share token belongs to; empty for a login."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """A box on a page. `page` starts at 1; the rest are points from the top left corner of the page."""

    page: int
    left: float
    right: float
    top: float
    bottom: float

    def as_wire(self) -> list[int]:
        """`[page, left, right, top, bottom]`, whole numbers, as the contract has it."""
        return [self.page, round(self.left), round(self.right), round(self.top), round(self.bottom)]


class ElementKind(StrEnum):
    HEADING = "heading"
    PARAGRAPH = "paragraph"
    LIST_ITEM = "list_item"
    TABLE = "table"
    CODE = "code"
    QUOTE = "quote"
    FORMULA = "formula"


@dataclass(frozen=True, kw_only=True, slots=True)
class Element:
    """One block of a document, in reading order.

    `text` is never empty; for a table it is the Markdown form of `cells`. `level` is 1 to 6 for headings,
    else 0. `positions` is empty where the format has no pages.
    """

    kind: ElementKind
    text: str
    level: int = 0
    cells: tuple[tuple[str, ...], ...] = ()
    page: int | None = None
    positions: tuple[Position, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedDocument:
    """What a parser read. `pages` is 0 where the format has none."""

    elements: tuple[Element, ...]
    pages: int = 0
    title: str = ""
    media_type: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkDraft:
    """A chunk as a chunk method makes it, before it has an id.

    `content` is what is shown and cited; `heading_path` the headings above it, outermost first.
    """

    content: str
    token_count: int
    heading_path: tuple[str, ...] = ()
    positions: tuple[Position, ...] = ()
    page: int | None = None
    kind: Literal["text", "table", "image"] = "text"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkText:
    """A chunk as rows keep it and as answers cite it.

    `url` is set for a page that a web search found, which has no document; `metadata` are the fields of its document,
    where a search brought them.
    """

    chunk_id: str
    document_id: str
    version_id: str
    dataset_id: str
    document_name: str
    ordinal: int
    content: str
    heading_path: tuple[str, ...] = ()
    positions: tuple[Position, ...] = ()
    token_count: int = 0
    important_keywords: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    available: bool = True
    image_id: str = ""
    kind: str = "text"
    create_time: int = 0
    url: str = ""
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A chunk that a search found.

    `rank` starts at 1 in fused order. `vector_similarity` is the cosine (-1 to 1), `term_similarity` the
    share of the question's term weight that the chunk covers (0 to 1), `similarity` their weighted sum:
    the absolute score that thresholds use. `fused` ranks and means nothing outside its own result.
    """

    chunk: ChunkText
    rank: int
    similarity: float
    vector_similarity: float
    term_similarity: float
    fused: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrieved:
    """Hits above the threshold, best first, and what each stage took (milliseconds by stage name)."""

    hits: tuple[Hit, ...]
    total: int
    timings_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """An image in a user's message: its bytes, checked by whoever took them in. Never an address: no model call makes
    a provider fetch what a user names."""

    media_type: Literal["image/png", "image/jpeg", "image/webp", "image/gif"]
    data: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """A tool that a model wants to use. `arguments` is JSON as the model wrote it; `problem` says in words why it
    cannot be used, else empty. `signature` is what some providers want back unchanged with the call."""

    id: str
    name: str
    arguments: str
    problem: str = ""
    signature: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One message of a conversation as a model sees it.

    An assistant's turn may hold `tool_calls`; each is answered by a `tool` turn with its `tool_call_id`. `pictures`
    belong to user turns. `reasoning` is given back only to providers that ask for it within a tool round.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    pictures: tuple[Picture, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    reasoning: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenUsage:
    """Tokens of one model call. `estimated` where the provider did not say. `cached_tokens` is the part of
    `prompt_tokens` that the provider read from its cache, `cache_write_tokens` the part it stored there,
    `reasoning_tokens` the part of `completion_tokens` that was thinking."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class CitedChunk:
    """A numbered source of an answer, with its own copy of the text that was cited.

    `index` is the n of `[ID:n]`. It never changes after it was shown, even if the chunk is edited or deleted.
    """

    index: int
    chunk_id: str
    document_id: str
    document_name: str
    dataset_id: str
    content: str
    positions: tuple[Position, ...]
    similarity: float
    vector_similarity: float
    term_similarity: float
    image_id: str = ""
    url: str | None = None
    kind: str = "text"

    @property
    def page(self) -> int | None:
        """The first page of the passage, starting at 1; None where the format has no pages."""
        return self.positions[0].page if self.positions else None


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentCount:
    document_id: str
    document_name: str
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """The sources of one answer: retrieved chunks in rank order and the documents that were cited."""

    total: int = 0
    chunks: tuple[CitedChunk, ...] = ()
    documents: tuple[DocumentCount, ...] = ()
