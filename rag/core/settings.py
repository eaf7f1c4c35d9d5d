"""All settings, in one frozen tree.

Sources, strongest first: arguments of the command line, environment (`PARLEY_` prefix, two underscores nest:
`PARLEY_SERVER__PORT`), `.env` in the working directory, a YAML file named by `PARLEY_CONFIG`, the defaults here.
Provider keys keep their usual names (`OPENAI_API_KEY`). Nobody else reads the environment.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

import yaml
from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from rag.core.errors import InvalidInput
from rag.core.flags import parse_rule
from rag.core.provider_keys import CompatibleServer, ProviderKeys, keys_in, names_set
from rag.core.tool_settings import ResearchSettings, ToolSettings, WebSearchSettings

PREFIX = "PARLEY_"


class Area(BaseModel):
    """One frozen area of settings; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


CompatibleName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Port = Annotated[int, Field(ge=0, le=65535)]


class ServerSettings(Area):
    host: str = Field("127.0.0.1", description="Address to listen on. Anything but loopback needs a password.")
    port: Port = Field(9380, description="Port to listen on; 0 takes a free one.")
    public_url: str = Field(
        "", description="Address clients reach the server at, for links; empty: made from host and port."
    )
    max_upload_bytes: int = Field(1 << 30, ge=1, description="Largest request body of an upload, in bytes.")
    max_body_bytes: int = Field(2 << 20, ge=1024, description="Largest body of any other request, in bytes.")
    shutdown_s: float = Field(10.0, ge=0.1, le=300, description="Seconds to end running answers at a stop.")


class AuthSettings(Area):
    register_enabled: bool = Field(False, description="Whether anyone may register with /v1/user/register.")
    login_max_age_s: int = Field(30 * 86400, ge=60, description="Seconds a login token or cookie stays valid.")
    secret: SecretStr | None = Field(
        None,
        min_length=32,
        description="Signs logins and seals the tenants' provider keys, at least 32 random characters; processes that "
        "share rows on a server need the same one. Empty: the file `secret` of the data folder. Shown by nothing.",
    )
    former_secret: SecretStr | None = Field(
        None,
        min_length=32,
        description="The secret before the present one: it still opens the provider keys it sealed. Shown by nothing.",
    )
    allowed_hosts: tuple[str, ...] = Field((), description="Further Host headers accepted on a loopback address.")
    allow_non_loopback: bool = Field(
        False,
        description="Set to true to listen on a non-loopback address with keys and passwords as the only gate.",
    )


class IngestSettings(Area):
    worker: Literal["embedded", "external"] = Field(
        "embedded",
        description="embedded: `serve` starts and watches a worker; external: you run `parley worker`.",
    )
    nice: int = Field(10, ge=0, le=19, description="Niceness of the embedded worker.")
    concurrency: int = Field(4, ge=1, le=64, description="Documents in work at the same time, per worker.")
    parse_children: int = Field(1, ge=1, le=32, description="Parser processes per worker.")
    parse_memory_bytes: int = Field(
        1 << 30, ge=64 << 20, description="Memory one parser process may take for a file, in bytes."
    )
    parse_timeout_s: float = Field(300.0, ge=1, le=7200, description="Seconds one file may take to parse.")
    parse_output_chars: int = Field(64_000_000, ge=1000, description="Most characters read out of one file.")
    parse_recycle_files: int = Field(200, ge=1, description="Files after which a parser process is replaced.")
    max_file_bytes: int = Field(128 << 20, ge=1, description="Largest file that is parsed, in bytes.")
    lease_s: float = Field(30.0, ge=1, description="Seconds a claimed task is safe without a heartbeat.")
    heartbeat_s: float = Field(10.0, ge=0.1, description="Seconds between heartbeats of a claimed task.")
    attempts: int = Field(3, ge=1, le=20, description="How often a task is tried.")
    poll_s: float = Field(1.0, ge=0.05, description="Seconds between looks at the task rows without a wake-up.")
    embed_batch_tokens: int = Field(
        0, ge=0, description="Padded tokens in one batch of the built-in embedding model; 0: each window alone."
    )
    index_group_chunks: int = Field(500, ge=1, description="Chunks gathered into one index write.")
    index_group_s: float = Field(1.0, ge=0.0, description="Seconds a chunk waits at the most for such a group.")
    optimise_s: float = Field(30.0, ge=1, description="Seconds between looks at whether the index wants compacting.")


class RetrievalSettings(Area):
    fusion: Literal["standout", "rrf"] = Field("standout", description="How the lexical and the vector list are fused.")
    candidates: int = Field(128, ge=8, le=1024, description="Candidates each list gives before fusing.")
    sample_size: int = Field(1000, ge=100, le=10000, description="Chunks sampled per dataset for score statistics.")
    rerank_s: float = Field(
        5.0, ge=0.1, le=60, description="Seconds a reranking model may take; after them the order stays as it was."
    )


class DialogSettings(Area):
    first_token_s: float = Field(60.0, ge=0.1, description="Seconds to wait for a model's first token.")
    next_token_s: float = Field(60.0, ge=0.1, description="Seconds to wait for each further token.")
    answer_s: float = Field(600.0, ge=1, description="Seconds for a whole answer.")
    attempts: int = Field(3, ge=1, le=10, description="How often a model is asked before its first token.")
    save_s: float = Field(0.8, ge=0.05, description="Seconds between saves of a partial answer.")
    event_retention_s: float = Field(600.0, ge=1, description="Seconds the events of a finished answer stay readable.")


class ModelSettings(Area):
    chat: str = Field(
        "",
        description="Default chat model `<model>@<provider>`; empty: a provider with a key, else extractive@Builtin.",
    )
    embedding: str = Field("minilm@Builtin", description="Default embedding model `<model>@<provider>`.")
    embed_threads: int = Field(2, ge=1, le=64, description="Threads of the built-in embedding model in the worker.")
    openai_chat: str = Field(
        "gpt-4o-mini", description="Chat model used when OPENAI_API_KEY is set and `chat` is empty."
    )
    private_addresses: bool = Field(
        False,
        description="Whether every user may set model servers on loopback and private addresses; the first user of a "
        "data folder and other superusers may always. Link-local and metadata addresses are refused to all.",
    )
    tenants_refresh_s: float = Field(
        5.0, ge=0.2, le=300, description="Seconds between looks at what other processes changed in tenants' models."
    )
    order: tuple[str, ...] = Field(
        (),
        description="Providers that are asked first for a model named without `@provider`; then the order of "
        "conf/models.yaml.",
    )
    compatible: dict[CompatibleName, CompatibleServer] = Field(
        default_factory=dict,
        description="OpenAI-compatible servers by names of your own, used as `<model>@<name>`: `base_url`, and if need "
        "be `api_key`, `models` (else asked for), `context_tokens`, `max_output_tokens`. As variables: "
        "`PARLEY_MODELS__COMPATIBLE__<NAME>__BASE_URL`.",
    )
    discover_s: float = Field(
        300.0, ge=0.05, description="Seconds between looks at which models self-hosted servers have."
    )


_RULE = "on, off, tenants:<id>,<id> or share:<percent of the sessions>."


class FeatureSettings(Area):
    """Switches; see `rag/core/flags.py`. Usage rows tell which side a call was on."""

    partial_tool_streaming: str = Field("off", description=f"Show tool arguments while they come: {_RULE}")
    fallback: str = Field("on", description=f"Ask a chat's fallback models when its own fails: {_RULE}")
    summaries: str = Field("on", description=f"Summarise a history beyond 15 messages: {_RULE}")
    prompt_caching: str = Field("on", description=f"Ask providers to cache the start of prompts: {_RULE}")

    @field_validator("*", mode="before")
    @classmethod
    def _readable(cls, value: object) -> object:
        parse_rule(value)
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class BudgetSettings(Area):
    """What may be spent in one day (UTC). 0 sets no limit."""

    tenant_usd: float = Field(0.0, ge=0, le=1e9, description="US dollars a day that the models of a tenant may cost.")
    tenant_tokens: int = Field(
        0, ge=0, le=10**15, description="Tokens a day, in and out, that a tenant's calls may take."
    )
    key_usd: float = Field(0.0, ge=0, le=1e9, description="US dollars a day that the calls with one API key may cost.")
    key_tokens: int = Field(0, ge=0, le=10**15, description="Tokens a day, in and out, that one API key may take.")
    call_usd: float = Field(
        0.01, ge=0, le=1e6, description="US dollars set aside for a call that is under way, until its row is written."
    )
    call_tokens: int = Field(4000, ge=0, le=10**9, description="Tokens set aside for a call that is under way.")
    reread_s: float = Field(
        5.0, ge=0, le=60, description="Seconds after which what other processes spent is read again."
    )


class PriceSettings(Area):
    """Prices over those that come with the program."""

    usd_per_million: dict[str, dict[str, Annotated[float, Field(ge=0, le=1e6)]]] = Field(
        default_factory=dict,
        description="By `<model>@<provider>` or `*@<provider>`: US dollars for a million tokens, as `input`, `output`, "
        "`cached`, `cache_write` and `reasoning`.",
    )


class RowsSettings(Area):
    """Where the rows live. A password in `url` moves to `password`: the address can be shown."""

    url: str = Field(
        "", description="`mysql://user@host:3306/database` for MySQL or MariaDB; empty: SQLite in the data folder."
    )
    password: SecretStr | None = Field(None, description="Password of the user in `url`; shown by nothing.")
    tls_ca: str = Field(
        "",
        description="File of the authority that signed the server's certificate: TLS with a check of the host, always. "
        "Empty: encrypted if the server can, without a check.",
    )
    pool: int = Field(16, ge=1, le=256, description="Most connections that one process keeps to a server.")
    connect_timeout_s: float = Field(3.0, ge=0.1, le=60, description="Seconds for a server to accept a connection.")
    busy_timeout_s: float = Field(10.0, ge=0.1, description="Seconds to wait for other writers.")

    @model_validator(mode="before")
    @classmethod
    def _part_password(cls, data: Any) -> Any:
        """Check the address, and take the password out of it."""
        if not isinstance(data, Mapping) or not data.get("url"):
            return data
        parts = _split_url(str(data["url"]), ("mysql",))
        if not parts.username or len(parts.path) < 2 or "/" in parts.path[1:] or parts.query or parts.fragment:
            raise ValueError("write it like mysql://user@host:3306/database")
        return _without_password(data, [parts])


class IndexSettings(Area):
    """Where the search index lives. A user and a password in `url` move to fields of their own."""

    url: str = Field(
        "",
        description="`http(s)://host:9200` of Elasticsearch 8, several with commas; empty: LanceDB in the data folder.",
    )
    user: str = Field("", description="User name for Elasticsearch; empty: no login, or `api_key`.")
    password: SecretStr | None = Field(None, description="Password of `user`; shown by nothing.")
    api_key: SecretStr | None = Field(
        None, description="API key for Elasticsearch, instead of a user; shown by nothing."
    )
    tls_ca: str = Field(
        "", description="File of the authority that signed the server's certificate; empty: the system's."
    )
    prefix: str = Field(
        "parley",
        pattern=r"^[a-z][a-z0-9_-]{0,62}$",
        description="Start of the name of every index, so that several installations can share a server.",
    )
    timeout_s: float = Field(4.0, ge=0.1, le=600, description="Seconds to wait for Elasticsearch's reply.")
    shards: int = Field(1, ge=1, le=1024, description="Parts of each new index.")
    replicas: int = Field(0, ge=0, le=16, description="Copies of each part on further nodes; 0 suits a single node.")
    pooled: bool = Field(
        False,
        description="Whether all new places share one index; word statistics are then those of all tenants together.",
    )

    @model_validator(mode="before")
    @classmethod
    def _part_login(cls, data: Any) -> Any:
        """Check the addresses, and take user and password out of them."""
        if not isinstance(data, Mapping) or not data.get("url"):
            return data
        parts = [_split_url(one.strip(), ("http", "https")) for one in str(data["url"]).split(",")]
        if any(one.query or one.fragment for one in parts):
            raise ValueError("write it like https://host:9200, several with commas")
        users = [unquote(one.username) for one in parts if one.username]
        return _without_password({"user": users[0], **data} if users else data, parts, keep_user=False)

    @model_validator(mode="after")
    def _one_login(self) -> "IndexSettings":
        if self.api_key is not None and (self.user or self.password is not None):
            raise ValueError("give either api_key or user and password")
        return self


def _split_url(text: str, schemes: tuple[str, ...]) -> SplitResult:
    """The parts of an address. Errors do not repeat it: there may be a password in it."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("the address or its port cannot be read") from None
    if parts.scheme not in schemes or not parts.hostname or port == 0:
        raise ValueError(f"the address must start with {' or '.join(f'{one}://' for one in schemes)} and name a host")
    return parts


def _without_password(data: Mapping[str, Any], parts: list[SplitResult], *, keep_user: bool = True) -> dict[str, Any]:
    """`data` with what was before the `@` of its addresses as fields of their own; a field that is given wins."""
    passwords = [unquote(one.password) for one in parts if one.password]
    bare = []
    for one in parts:
        login, _, host = one.netloc.rpartition("@")
        user = login.partition(":")[0]
        bare.append(urlunsplit(one._replace(netloc=f"{user}@{host}" if keep_user and user else host)))
    given = dict(data) | {"url": ",".join(bare)}
    if passwords and given.get("password") is None:
        given["password"] = passwords[0]
    return given


class LogSettings(Area):
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    format: Literal["console", "json"] = Field("console", description="How log lines look.")


class Settings(Area):
    """The whole tree. Passed down in slices."""

    data_dir: Path = Field(Path("parley-data"), description="Folder that holds everything: rows, files, index, keys.")
    server: ServerSettings = Field(default_factory=ServerSettings)
    auth: AuthSettings = Field(default_factory=AuthSettings)
    ingest: IngestSettings = Field(default_factory=IngestSettings)
    retrieval: RetrievalSettings = Field(default_factory=RetrievalSettings)
    dialog: DialogSettings = Field(default_factory=DialogSettings)
    models: ModelSettings = Field(default_factory=ModelSettings)
    features: FeatureSettings = Field(default_factory=FeatureSettings)
    budget: BudgetSettings = Field(default_factory=BudgetSettings)
    prices: PriceSettings = Field(default_factory=PriceSettings)
    tools: ToolSettings = Field(default_factory=ToolSettings)
    research: ResearchSettings = Field(default_factory=ResearchSettings)
    web_search: WebSearchSettings = Field(default_factory=WebSearchSettings)
    rows: RowsSettings = Field(default_factory=RowsSettings)
    index: IndexSettings = Field(default_factory=IndexSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    providers: ProviderKeys = Field(default_factory=ProviderKeys)


_NOT_SETTINGS = ("PARLEY_CONFIG", "PARLEY_TEST_")


def load_settings(
    overrides: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    env_file: Path | None = None,
) -> Settings:
    """Build the settings once.

    Args:
        overrides: Nested values from the command line; None values are left out.
        environ: The environment; the process's own by default.
        env_file: A `.env` file; `.env` in the working directory by default.
    Raises:
        InvalidInput: a key is unknown or a value does not fit; the message names each.
    """
    values = dict(dotenv_values(env_file or Path(".env")))
    variables = {k: v for k, v in values.items() if v is not None} | dict(os.environ if environ is None else environ)
    tree: dict[str, Any] = {}
    config = variables.get(PREFIX + "CONFIG")
    if config:
        tree = _read_yaml(Path(config))
    for name, text in variables.items():
        if name.startswith(PREFIX) and not name.startswith(_NOT_SETTINGS):
            _put(tree, name.removeprefix(PREFIX).lower().split("__"), text)
    _merge(tree, {"providers": keys_in(variables)})
    _merge(tree, overrides or {})
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        lines = [f"{_variable(e['loc'])}: {e['msg']}" for e in error.errors()]
        raise InvalidInput("Settings cannot be used. " + "; ".join(lines)) from error


def provider_environment(settings: Settings) -> dict[str, str]:
    """The provider variables that are set, for `doctor` (names only are shown)."""
    return dict.fromkeys(names_set(settings.providers), "set")


def _variable(location: tuple[int | str, ...]) -> str:
    """The variable that sets the field at `location`."""
    prefix, parts = ("", location[1:]) if location[:1] == ("providers",) else (PREFIX, location)
    return prefix + "__".join(str(part) for part in parts).upper()


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InvalidInput(f"PARLEY_CONFIG: cannot read {str(path)!r}: {error}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise InvalidInput(f"PARLEY_CONFIG: {str(path)!r} must hold a mapping of settings.")
    return loaded


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    if isinstance(value, str) and value.startswith(("[", "{")):
        value = yaml.safe_load(value)
    for part in path[:-1]:
        below = tree.setdefault(part, {})
        if not isinstance(below, dict):
            raise InvalidInput(f"Settings: {part!r} is given both as a value and as an area.")
        tree = below
    tree[path[-1]] = value


def _merge(tree: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    for key, value in overrides.items():
        if value is None:
            continue
        if isinstance(value, Mapping):
            _merge(tree.setdefault(key, {}), value)
        else:
            tree[key] = value
