"""The rows: the truth about everything but file contents.

Portable between SQLite and MySQL: names compare through `*_norm` columns (NFKC, casefold), never through a
collation; JSON is text of ours; times are Unix milliseconds. Imported only under `api/db`.
"""

from typing import Any

import orjson
from peewee import (
    AutoField,
    BigIntegerField,
    BooleanField,
    CharField,
    CompositeKey,
    DatabaseProxy,
    DoubleField,
    IntegerField,
    Model,
    TextField,
)

from rag.core.errors import InvalidInput

database_proxy = DatabaseProxy()
"""Bound once per process by `database.Database.open`."""


class LongTextField(TextField):
    """Text of any length."""

    field_type = "TEXT"


class JsonField(LongTextField):
    """A JSON value, kept as text."""

    def db_value(self, value: Any) -> str | None:
        if value is None:
            return None
        try:
            return orjson.dumps(value).decode()
        except orjson.JSONEncodeError as error:
            raise InvalidInput(f"A value cannot be kept as JSON: {error}.") from error

    def python_value(self, value: Any) -> Any:
        return None if value is None else orjson.loads(value)


class Row(Model):
    class Meta:
        database = database_proxy
        legacy_table_names = False


class Timed(Row):
    create_time = BigIntegerField(index=True)
    update_time = BigIntegerField()


def _id(**options: Any) -> CharField:
    return CharField(max_length=32, **options)


class SchemaMigration(Row):
    number = IntegerField(primary_key=True)
    applied_at = BigIntegerField()


class Tenant(Timed):
    """`id` equals the id of the user who owns it."""

    id = _id(primary_key=True)
    name = CharField(max_length=255)
    llm_id = CharField(max_length=255, default="")
    embd_id = CharField(max_length=255, default="")
    rerank_id = CharField(max_length=255, default="")
    asr_id = CharField(max_length=255, default="")
    img2txt_id = CharField(max_length=255, default="")
    tts_id = CharField(max_length=255, default="")


class TenantLlm(Timed):
    """How a tenant reaches a provider (`model` empty), and the models it added or switched off there.

    `sealed_key` and `base_url` of a model's row, where not empty, go over those of the provider's. `*_norm` are NFKC
    and case folded.
    """

    id = _id(primary_key=True)
    tenant_id = _id()
    provider = CharField(max_length=64)
    provider_norm = CharField(max_length=64)
    model = CharField(max_length=255, default="")
    model_norm = CharField(max_length=255, default="")
    kind = CharField(max_length=16, default="")
    sealed_key = LongTextField(default="")
    base_url = CharField(max_length=1024, default="")
    max_tokens = IntegerField(default=0)
    enabled = BooleanField(default=True)

    class Meta:
        indexes = ((("tenant_id", "provider_norm", "model_norm", "kind"), True),)


class TenantLlmChange(Row):
    """One row: `number` goes up with each change of `tenant_llm`, so that other processes see by one look that they
    must read it again."""

    id = IntegerField(primary_key=True)
    number = BigIntegerField()


class User(Timed):
    id = _id(primary_key=True)
    email = CharField(max_length=255)
    email_norm = CharField(max_length=255, unique=True)
    nickname = CharField(max_length=255)
    password_hash = CharField(max_length=255, default="")
    login_secret_hash = CharField(max_length=64, null=True)
    avatar = LongTextField(null=True)
    language = CharField(max_length=32, default="English")
    color_schema = CharField(max_length=32, default="Bright")
    timezone = CharField(max_length=64, default="UTC")
    last_login_time = BigIntegerField(null=True)
    is_active = BooleanField(default=True)
    is_superuser = BooleanField(default=False)


class ApiToken(Timed):
    """An API key and its share ("beta") token, stored as sha256 hex; `hint` is what lists show."""

    id = _id(primary_key=True)
    tenant_id = _id(index=True)
    token_hash = CharField(max_length=64, unique=True)
    share_hash = CharField(max_length=64, unique=True, null=True)
    hint = CharField(max_length=32)
    name = CharField(max_length=255, default="")
    revoked_at = BigIntegerField(null=True)


class IndexPlace(Timed):
    """A tenant's index of one embedding generation."""

    name = CharField(max_length=96, primary_key=True)
    tenant_id = _id(index=True)
    embedding_model = CharField(max_length=255)
    dim = IntegerField()


class Dataset(Timed):
    id = _id(primary_key=True)
    tenant_id = _id(index=True)
    created_by = _id()
    name = CharField(max_length=255)
    name_norm = CharField(max_length=255)
    avatar = LongTextField(null=True)
    description = LongTextField(null=True)
    language = CharField(max_length=32, default="English")
    embedding_model = CharField(max_length=255)
    permission = CharField(max_length=16, default="me")
    chunk_method = CharField(max_length=32, default="naive")
    parser_config = JsonField()
    pagerank = IntegerField(default=0)
    similarity_threshold = DoubleField(default=0.2)
    vector_similarity_weight = DoubleField(default=0.3)
    document_count = IntegerField(default=0)
    chunk_count = IntegerField(default=0)
    token_count = BigIntegerField(default=0)
    place = CharField(max_length=96)

    class Meta:
        indexes = ((("tenant_id", "name_norm"), True),)


class Document(Timed):
    """`live_version` names the version whose chunks are readable; null before the first ingestion ended.

    `name_fold` is the name case folded: searches by words look there.
    """

    id = _id(primary_key=True)
    dataset_id = _id(index=True)
    tenant_id = _id()
    created_by = _id()
    name = CharField(max_length=255)
    location = CharField(max_length=768)
    suffix = CharField(max_length=255, default="")
    type = CharField(max_length=16)
    size = BigIntegerField()
    sha256 = CharField(max_length=64)
    blob_key = CharField(max_length=128, index=True)
    chunk_method = CharField(max_length=32)
    parser_config = JsonField()
    source_type = CharField(max_length=32, default="local")
    run = CharField(max_length=16, default="UNSTART")
    progress = DoubleField(default=0.0)
    progress_msg = LongTextField(default="")
    process_begin_at = BigIntegerField(null=True)
    process_duration = DoubleField(default=0.0)
    chunk_count = IntegerField(default=0)
    token_count = BigIntegerField(default=0)
    meta_fields = JsonField()
    enabled = BooleanField(default=True)
    live_version = _id(null=True)
    name_fold = CharField(max_length=512, default="")

    class Meta:
        indexes = (
            (("dataset_id", "name"), True),
            (("dataset_id", "create_time"), False),
            (("dataset_id", "enabled", "live_version"), False),
        )


class DocumentVersion(Timed):
    """Versions that are being written (`writing`) or wait to be swept (`dead`); searches leave both out.

    A live version has no row here: `Document.live_version` names it.
    """

    id = _id(primary_key=True)
    document_id = _id(index=True)
    dataset_id = _id()
    place = CharField(max_length=96, index=True)
    state = CharField(max_length=16)


class Chunk(Row):
    document_id = _id()
    version_id = _id()
    chunk_id = CharField(max_length=16)
    dataset_id = _id(index=True)
    ordinal = IntegerField()
    content = LongTextField()
    heading_path = JsonField()
    positions = JsonField()
    page = IntegerField(null=True)
    top = DoubleField(default=0.0)
    token_count = IntegerField(default=0)
    important_keywords = JsonField()
    questions = JsonField()
    available = BooleanField(default=True)
    image_id = CharField(max_length=128, default="")
    kind = CharField(max_length=16, default="text")
    create_time = BigIntegerField()

    class Meta:
        primary_key = CompositeKey("version_id", "chunk_id")
        indexes = ((("document_id", "version_id", "ordinal"), False),)


class Task(Timed):
    """One ingestion of one document. `state`: queued, running, done, failed, cancelled.

    The claim is the pair (lease_owner, lease_until); `parser_deaths` counts parsers this file killed.
    """

    id = _id(primary_key=True)
    document_id = _id(index=True)
    dataset_id = _id()
    tenant_id = _id()
    version_id = _id()
    state = CharField(max_length=16)
    priority = IntegerField(default=0)
    attempts = IntegerField(default=0)
    parser_deaths = IntegerField(default=0)
    lease_owner = CharField(max_length=64, null=True)
    lease_until = BigIntegerField(default=0)
    not_before = BigIntegerField(default=0)
    stage = CharField(max_length=16, default="queued")
    pages_done = IntegerField(default=0)
    pages_total = IntegerField(default=0)
    chunks_done = IntegerField(default=0)
    chunks_total = IntegerField(default=0)
    last_error = LongTextField(default="")

    class Meta:
        indexes = ((("state", "not_before", "priority", "create_time"), False),)


class Outbox(Row):
    """Index changes outside ingestion, written with the row they follow; the index catches up from here.

    One that failed is tried again from `not_before` on.
    """

    id = AutoField()
    place = CharField(max_length=96)
    action = CharField(max_length=32)
    payload = JsonField()
    create_time = BigIntegerField()
    attempts = IntegerField(default=0)
    not_before = BigIntegerField(default=0)


class IndexRebuild(Timed):
    """A place whose entries are made again from the rows, in a new place beside it.

    `state`: filling; closing (no ingestion into the old place begins any more); dropping (the datasets have moved,
    the old place goes at `drop_at`). `made_for` names the index and the revision of the entries in the new place.
    The claim is the pair (lease_owner, lease_until).
    """

    id = _id(primary_key=True)
    tenant_id = _id(index=True)
    old_place = CharField(max_length=96)
    new_place = CharField(max_length=96)
    embedding_model = CharField(max_length=255)
    dim = IntegerField()
    made_for = CharField(max_length=255)
    state = CharField(max_length=16)
    lease_owner = CharField(max_length=64, null=True)
    lease_until = BigIntegerField(default=0)
    drop_at = BigIntegerField(default=0)


class RebuiltVersion(Row):
    """How far a version's chunks are in the new place: all up to `chunk_cursor`, `chunks` of them.

    `state`: filling, filled, stale (the rows changed since: all its entries are made again).
    """

    rebuild_id = _id()
    version_id = _id()
    document_id = _id(index=True)
    chunk_cursor = CharField(max_length=16, default="")
    chunks = IntegerField(default=0)
    state = CharField(max_length=16)

    class Meta:
        primary_key = CompositeKey("rebuild_id", "version_id")


class BlobGarbage(Row):
    """Files no row names any more, to be removed."""

    blob_key = CharField(max_length=128, primary_key=True)
    create_time = BigIntegerField()


class Dialog(Timed):
    """A chat assistant. `live_name` is the normalised name while it is live, else null: the name can be reused."""

    id = _id(primary_key=True)
    tenant_id = _id(index=True)
    name = CharField(max_length=255)
    live_name = CharField(max_length=255, null=True)
    description = LongTextField(default="A helpful Assistant")
    icon = LongTextField(default="")
    language = CharField(max_length=32, default="English")
    llm_id = CharField(max_length=255)
    llm_setting = JsonField()
    prompt_type = CharField(max_length=16, default="simple")
    prompt_config = JsonField()
    meta_data_filter = JsonField()
    similarity_threshold = DoubleField(default=0.2)
    vector_similarity_weight = DoubleField(default=0.3)
    top_n = IntegerField(default=6)
    top_k = IntegerField(default=1024)
    do_refer = CharField(max_length=1, default="1")
    rerank_id = CharField(max_length=255, default="")
    dataset_ids = JsonField()
    status = CharField(max_length=1, default="1")

    class Meta:
        indexes = ((("tenant_id", "live_name"), True),)


class Conversation(Timed):
    """`llm_id` goes over the chat's model where it is not empty. `source`: `api`, or `share` for those of share tokens.
    `auto_title`: the first answer gives it a name."""

    id = _id(primary_key=True)
    dialog_id = _id(index=True)
    tenant_id = _id()
    name = CharField(max_length=255, default="New session")
    user_id = CharField(max_length=255, default="")
    llm_id = CharField(max_length=255, default="")
    source = CharField(max_length=16, default="api")
    auto_title = BooleanField(default=False)


class Message(Row):
    """One side of a turn, keyed (conversation, turn, role); the opener is turn 0.

    `status`: done, generating, failed, stopped, interrupted. `reference`, `model`, `timings` (ms by step) and
    `server_id` (`AnswerServer.id` of the server that makes it) belong to the answer's row, `asked_with` (what the call
    set, see `turn_options`) to the question's.
    """

    id = AutoField()
    conversation_id = _id()
    turn = IntegerField()
    role = CharField(max_length=16)
    message_id = CharField(max_length=36, null=True, index=True)
    content = LongTextField(default="")
    status = CharField(max_length=16, default="done", index=True)
    reference = JsonField(null=True)
    prompt = LongTextField(default="")
    error = LongTextField(default="")
    thumbup = BooleanField(null=True)
    feedback = LongTextField(null=True)
    created_at = DoubleField()
    model = CharField(max_length=255, default="")
    timings = JsonField(null=True)
    asked_with = JsonField(null=True)
    server_id = CharField(max_length=96, default="")

    class Meta:
        indexes = ((("conversation_id", "turn", "role"), True),)


class ConversationSummary(Row):
    """What was said up to `turn`, whose messages have the id `message_id`; older ones are kept for a turn that is
    answered anew."""

    id = AutoField()
    conversation_id = _id()
    turn = IntegerField()
    message_id = CharField(max_length=36)
    content = LongTextField()
    create_time = BigIntegerField()

    class Meta:
        indexes = ((("conversation_id", "turn"), True),)


class AnswerServer(Row):
    """A server that makes answers: those of one whose lease ran out are nobody's. `id` is `<data folder>:<run>`."""

    id = CharField(max_length=96, primary_key=True)
    lease_until = BigIntegerField()


class Usage(Row):
    """One model call; `records.ModelCall` tells the columns."""

    id = AutoField()
    tenant_id = _id()
    dialog_id = _id(null=True)
    conversation_id = _id(null=True)
    message_id = CharField(max_length=36, null=True, index=True)
    model = CharField(max_length=255)
    purpose = CharField(max_length=32)
    prompt_tokens = IntegerField()
    completion_tokens = IntegerField()
    estimated = BooleanField()
    first_token_ms = DoubleField(null=True)
    duration_ms = DoubleField()
    attempts = IntegerField()
    outcome = CharField(max_length=32)
    create_time = BigIntegerField(index=True)
    provider = CharField(max_length=64, default="")
    cached_tokens = IntegerField(default=0)
    cache_write_tokens = IntegerField(default=0)
    reasoning_tokens = IntegerField(default=0)
    tool_calls = IntegerField(default=0)
    cost_usd = DoubleField(null=True)
    arm = CharField(max_length=255, default="")
    key_id = _id(default="")
    steps = JsonField(null=True)

    class Meta:
        indexes = ((("tenant_id", "create_time"), False),)


class UsageDay(Row):
    """What the calls of one day (UTC, from `day` on, in ms) came to; written in the transaction of their rows.

    `billed_tokens` leaves out calls that cost nothing, `failures` those that were cancelled. `durations` and
    `first_tokens` count calls that went well by the steps of `usage_days.step_of`.
    """

    id = AutoField()
    tenant_id = _id()
    day = BigIntegerField()
    provider = CharField(max_length=64)
    model = CharField(max_length=255)
    key_id = _id()
    arm = CharField(max_length=255)
    calls = IntegerField()
    failures = IntegerField()
    cancelled = IntegerField()
    retries = IntegerField()
    tool_calls = IntegerField()
    estimated = IntegerField()
    unpriced = IntegerField()
    prompt_tokens = BigIntegerField()
    completion_tokens = BigIntegerField()
    cached_tokens = BigIntegerField()
    reasoning_tokens = BigIntegerField()
    billed_tokens = BigIntegerField()
    cost_usd = DoubleField()
    durations = JsonField()
    first_tokens = JsonField()

    class Meta:
        indexes = ((("tenant_id", "day", "model", "key_id", "arm"), True),)


ALL_TABLES: tuple[type[Row], ...] = (
    SchemaMigration,
    Tenant,
    TenantLlm,
    TenantLlmChange,
    User,
    ApiToken,
    IndexPlace,
    Dataset,
    Document,
    DocumentVersion,
    Chunk,
    Task,
    Outbox,
    IndexRebuild,
    RebuiltVersion,
    BlobGarbage,
    Dialog,
    Conversation,
    Message,
    ConversationSummary,
    AnswerServer,
    Usage,
    UsageDay,
)
