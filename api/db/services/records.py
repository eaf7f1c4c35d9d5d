"""What leaves `api/db`: frozen copies of rows, and the arguments of the services."""

from dataclasses import dataclass, field
from typing import Any, Literal

from rag.core.types import ChunkText, Reference

RunState = Literal["UNSTART", "RUNNING", "CANCEL", "DONE", "FAIL"]
MessageStatus = Literal["done", "generating", "failed", "stopped", "interrupted"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """`number` from 1; `size` 0 gives nothing. `order_by` is a column of the record, checked by the service
    (InvalidInput with fact `field="orderby"`)."""

    number: int = 1
    size: int = 30
    order_by: str = "create_time"
    descending: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class UserRecord:
    id: str
    email: str
    nickname: str
    avatar: str | None
    language: str
    color_schema: str
    timezone: str
    last_login_time: int | None
    is_active: bool
    is_superuser: bool
    create_time: int
    update_time: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TenantRecord:
    id: str
    name: str
    llm_id: str
    embd_id: str
    rerank_id: str
    asr_id: str
    img2txt_id: str
    tts_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRecord:
    id: str
    tenant_id: str
    hint: str
    name: str
    has_share: bool
    create_time: int
    update_time: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NewToken:
    """The only time key and share token are readable."""

    record: TokenRecord
    key: str
    share: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetRecord:
    id: str
    tenant_id: str
    created_by: str
    name: str
    avatar: str | None
    description: str | None
    language: str
    embedding_model: str
    permission: str
    chunk_method: str
    parser_config: dict[str, Any]
    pagerank: int
    similarity_threshold: float
    vector_similarity_weight: float
    document_count: int
    chunk_count: int
    token_count: int
    place: str
    create_time: int
    update_time: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentRecord:
    """`stage`, pages and chunks come from its task while it runs."""

    id: str
    dataset_id: str
    tenant_id: str
    created_by: str
    name: str
    location: str
    suffix: str
    type: str
    size: int
    sha256: str
    blob_key: str
    chunk_method: str
    parser_config: dict[str, Any]
    source_type: str
    run: RunState
    progress: float
    progress_msg: str
    process_begin_at: int | None
    process_duration: float
    chunk_count: int
    token_count: int
    meta_fields: dict[str, Any]
    enabled: bool
    create_time: int
    update_time: int
    stage: str = ""
    pages_done: int = 0
    pages_total: int = 0
    chunks_done: int = 0
    chunks_total: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentQuery:
    """`id` and `name` must exist (NotFound); the others only narrow the list, empty means any."""

    page: Page = field(default_factory=Page)
    keywords: str = ""
    id: str = ""
    ids: tuple[str, ...] = ()
    name: str = ""
    suffixes: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    created_from_ms: int = 0
    created_to_ms: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchResult:
    """What a request over several ids did. `unknown` and `duplicates` in the order they were sent."""

    done: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkPage:
    total: int
    chunks: tuple[ChunkText, ...]
    document: DocumentRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalRequest:
    """`similarity_threshold` on the absolute score; `vector_similarity_weight` is w of
    `w * cosine + (1 - w) * term share`. `document_ids` empty means all. `rerank_id` names a reranking model, whose
    score then takes the cosine's place."""

    question: str
    dataset_ids: tuple[str, ...]
    document_ids: tuple[str, ...] = ()
    page: int = 1
    page_size: int = 30
    similarity_threshold: float = 0.2
    vector_similarity_weight: float = 0.3
    top_k: int = 1024
    highlight: bool = False
    rerank_id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class DialogRecord:
    id: str
    tenant_id: str
    name: str
    description: str
    icon: str
    language: str
    llm_id: str
    llm_setting: dict[str, Any]
    prompt_type: str
    prompt_config: dict[str, Any]
    meta_data_filter: dict[str, Any]
    similarity_threshold: float
    vector_similarity_weight: float
    top_n: int
    top_k: int
    do_refer: str
    rerank_id: str
    dataset_ids: tuple[str, ...]
    status: str
    create_time: int
    update_time: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MessageRecord:
    role: str
    content: str
    turn: int
    status: MessageStatus
    message_id: str | None
    created_at: float
    reference: Reference | None
    error: str = ""
    thumbup: bool | None = None
    feedback: str | None = None
    model: str = ""
    timings_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenMessage:
    """A message as a client sends it: `message_id` is its own, empty where it has none."""

    role: Literal["user", "assistant"]
    content: str
    message_id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversationRecord:
    """`llm_id` is empty where the chat's model answers. `source` is `api` or `share`."""

    id: str
    dialog_id: str
    tenant_id: str
    name: str
    user_id: str
    messages: tuple[MessageRecord, ...]
    create_time: int
    update_time: int
    llm_id: str = ""
    source: str = "api"
    auto_title: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCall:
    """One call of a model, as usage rows keep it. `outcome` is `ok`, `cut_off`, `cancelled` or an error's code;
    `first_token_ms` is None where nothing was streamed.

    `cached_tokens` (read from the provider's prompt cache) and `cache_write_tokens` (written to it) are part of
    `prompt_tokens`, `reasoning_tokens` of `completion_tokens`. `cost_usd` is None where no price is known; it is
    priced when the row is written, if the call does not bring it. `arm` says which switched features took part
    (`fallback=on,prompt_caching=off`), `key_id` whose API key asked; empty for a login or the server itself.
    `steps` is what the steps of the answer took until then, in ms by name.
    """

    tenant_id: str
    model: str
    purpose: str
    prompt_tokens: int
    completion_tokens: int
    estimated: bool
    duration_ms: float
    first_token_ms: float | None = None
    attempts: int = 1
    outcome: str = "ok"
    dialog_id: str | None = None
    conversation_id: str | None = None
    message_id: str | None = None
    provider: str = ""
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    tool_calls: int = 0
    cost_usd: float | None = None
    arm: str = ""
    key_id: str = ""
    steps: dict[str, float] | None = None
