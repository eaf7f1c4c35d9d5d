"""The providers of a process, as conf/models.yaml, the settings and a tenant's logins make them."""

import hashlib
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from pydantic import SecretStr

from rag.core.errors import InvalidInput
from rag.core.provider_keys import CompatibleServer, ProviderKeys, checked_address
from rag.core.settings import Settings
from rag.llm.base import ProviderLogin
from rag.llm.endpoint import Endpoint
from rag.llm.models_file import Kind, ModelEntry, ModelsFile, ProviderEntry

_FINGERPRINT_KEY: Final = secrets.token_bytes(32)
"""Of this process alone: a fingerprint tells nothing about a key to whoever sees it."""

SUFFIXES: Final = ("___OpenAI-API", "___VLLM", "___LocalAI", "___HuggingFace")
"""What the web contract puts behind the names of self-hosted models; their servers do not know it."""

_OTHER_SERVICES: Final = frozenset({"agent", "agentcore", "claude_platform", "mantle"})
"""Parts of a name by which LiteLLM's adapter for Bedrock calls something else, with keys of the environment."""

_REGION: Final = re.compile(r"[a-z0-9-]*")
"""It becomes a part of the address."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Provider:
    """A provider as one tenant sees it. `login` is the fingerprint of what the tenant set, empty for the server's own
    settings. `added` are the models beside those that the tenant named, each for one kind; `own` the names of all that
    it set something for, `off` what it switched off. `guarded`: see `ProviderLogin`."""

    name: str
    entry: ProviderEntry
    endpoint: Endpoint
    models: Mapping[str, ModelEntry]
    available: bool
    open_names: bool
    login: str = ""
    guarded: bool = False
    own: frozenset[str] = frozenset()
    added: Mapping[tuple[Kind, str], ModelEntry] = field(default_factory=dict)
    off: frozenset[tuple[Kind, str]] = field(default_factory=frozenset)

    def entry_of(self, model: str, kind: Kind = "chat") -> ModelEntry:
        """What is known of `model` where it serves as `kind`."""
        pictures = self.added.get(("image2text", model)) if kind == "chat" else None  # chats describe them
        return self.added.get((kind, model)) or self.models.get(model) or pictures or self.entry.unlisted

    def entries(self) -> list[tuple[str, ModelEntry]]:
        """All models by name, those that the tenant added last; one of several kinds is there for each."""
        return [*self.models.items(), *((name, entry) for (_, name), entry in self.added.items())]

    def has(self, model: str, kind: Kind) -> bool:
        """Whether `model` is there as `kind`, or sees where pictures are to be described."""
        if (kind, model) in self.off:
            return False
        if (kind, model) in self.added:
            return True
        found = [entry for entry in (self.models.get(model), self.added.get(("chat", model))) if entry is not None]
        return any(one.kind == kind or (kind == "image2text" and self.sees(model, one)) for one in found)

    def sees(self, model: str, entry: ModelEntry) -> bool:
        return entry.kind == "chat" and entry.capabilities(model, self.entry.strategy).vision

    def may_have(self, model: str, kind: Kind) -> bool:
        """Whether the server may know a model of that name, listed or not."""
        known = model in self.models or any(name == model for _, name in self.added)
        return self.open_names and not known and (kind, model) not in self.off

    def endpoint_of(self, model: str) -> Endpoint:
        """Where and how `model` is reached.

        Raises:
            InvalidInput: its name leads to something that is no model of the provider.
        """
        if self.entry.litellm_prefix == "bedrock" and not _OTHER_SERVICES.isdisjoint(model.split("/")):
            raise InvalidInput(f"{model!r} names no model of {self.name}.", field="llm_name")
        entry, family = self.entry_of(model), self.entry.strategy
        thinks = entry.can is None and family.fixed_sampling and family.capabilities_of(model).reasoning
        return self.endpoint.for_model(wire_name(model), reasoning=entry.fixed_sampling or thinks)


def wire_name(model: str) -> str:
    """`model` as its server knows it."""
    for suffix in SUFFIXES:
        model = model.removesuffix(suffix)
    return model


def server_providers(file: ModelsFile, settings: Settings) -> dict[str, Provider]:
    """All providers with the server's own settings, in the order that decides.

    Raises:
        InvalidInput: a name of `models.compatible` is that of a provider, or `models.order` names none.
    """
    found = {name: _of_server(name, entry, settings) for name, entry in file.providers.items()}
    row = file.compatible
    for name, server in settings.models.compatible.items():
        if name in found:
            raise InvalidInput(f"PARLEY_MODELS__COMPATIBLE: {name!r} is a provider already; choose another name.")
        found[name] = _of_compatible(name, row, server)
    unknown = [name for name in settings.models.order if name not in found]
    if unknown:
        raise InvalidInput(f"PARLEY_MODELS__ORDER: no provider {unknown[0]!r}; there are {', '.join(found)}.")
    return {name: found[name] for name in dict.fromkeys((*settings.models.order, *found))}


def with_login(provider: Provider, login: ProviderLogin) -> Provider:
    """`provider` as the tenant of `login` reaches it. The server's key is never used with a tenant's address.

    Raises:
        InvalidInput: the login's address or key cannot be used.
    """
    key = login.api_key.get_secret_value()
    entry = provider.entry
    changed = provider
    if key or login.base_url:
        changed = replace(
            provider,
            endpoint=_endpoint_of_login(provider, login),
            available=True,
            open_names=provider.open_names or bool(login.base_url and entry.transport != "litellm"),
            login=fingerprint(login),
            guarded=login.guarded and bool(login.base_url),
        )
    if not login.models:
        return changed
    added: dict[tuple[Kind, str], ModelEntry] = {}
    off: set[tuple[Kind, str]] = set()
    # On the server's key nobody but the operator says which models may be called: what is not listed has no price.
    own_way = bool(key or login.base_url) or provider.open_names
    for own in login.models:
        if not own.enabled:
            off.add((own.kind, own.name))
        elif own_way and not changed.has(own.name, own.kind):
            added[own.kind, own.name] = _own_entry(entry, own.kind, own.max_tokens)
    names = frozenset(own.name for own in login.models)
    return replace(changed, added=added, off=frozenset(off), own=names, login=fingerprint(login))


def unknown_provider(login: ProviderLogin, file: ModelsFile) -> Provider:
    """A provider that only the tenant knows: an OpenAI-compatible server under another name."""
    entry = file.compatible
    endpoint = Endpoint(base_url="", api_key=SecretStr(""), litellm_prefix=entry.litellm_prefix, family=entry.strategy)
    return Provider(name=login.provider, entry=entry, endpoint=endpoint, models={}, available=False, open_names=True)


def fingerprint(login: ProviderLogin) -> str:
    """A value that two logins share only if they are the same; it does not tell their keys."""
    models = [[own.name, own.kind, own.max_tokens, own.enabled] for own in login.models]
    data = [login.provider, login.api_key.get_secret_value(), login.base_url, login.guarded, models]
    return hashlib.blake2b(orjson.dumps(data), key=_FINGERPRINT_KEY, digest_size=16).hexdigest()


def _of_server(name: str, entry: ProviderEntry, settings: Settings) -> Provider:
    keys = settings.providers
    key, base_url = keys.text(entry.key), keys.text(entry.base_url)
    has_login = bool(base_url) if entry.keyless else bool(key) or bool(entry.needs)
    available = has_login and all(keys.text(one) for one in entry.needs) and _has_address(entry, base_url)
    elsewhere = bool(base_url) and base_url != entry.default_base_url and entry.transport != "litellm"
    models = dict(entry.models)
    for model in _named(name, settings) - models.keys():
        models[model] = entry.unlisted
    embedding, _, of = settings.models.embedding.rpartition("@")
    if of == name and embedding not in models:
        models[embedding] = ModelEntry(kind="embedding", context_tokens=entry.unlisted.context_tokens)
    return Provider(
        name=name,
        entry=entry,
        endpoint=Endpoint(
            base_url=_base(entry, base_url),
            api_key=SecretStr(key),
            litellm_prefix=entry.litellm_prefix,
            family=entry.strategy,
            api_version=_api_version(entry, keys),
            arguments=_arguments(entry, {name: keys.text(field) for name, field in entry.arguments.items()}),
        ),
        models=models,
        available=available,
        # A compatible server names its models itself.
        open_names=entry.open_names or (name == "OpenAI" and elsewhere),
    )


def _of_compatible(name: str, row: ProviderEntry, server: CompatibleServer) -> Provider:
    unlisted = row.unlisted.model_copy(
        update={"context_tokens": server.context_tokens, "max_output_tokens": server.max_output_tokens}
    )
    update = {"unlisted": unlisted, "discover": "" if server.models else row.discover}
    entry = row.model_copy(update=update)
    key = server.api_key or SecretStr("")
    endpoint = Endpoint(base_url=_base(entry, server.base_url), api_key=key, family=entry.strategy)
    models = dict.fromkeys(server.models, unlisted)
    return Provider(
        name=name, entry=entry, endpoint=endpoint, models=models, available=True, open_names=not server.models
    )


def _named(provider: str, settings: Settings) -> set[str]:
    """Chat models that the settings name, which count as listed."""
    model, _, of = settings.models.chat.rpartition("@")
    named = {settings.models.openai_chat} if provider == "OpenAI" else set()
    if of == provider:
        named.add(model)
    return named - {""}


def _endpoint_of_login(provider: Provider, login: ProviderLogin) -> Endpoint:
    """Where and how `login` reaches the provider. Its key may be a JSON object, for providers that want more than a
    key: `api_key`, `api_version` and what `arguments` of conf/models.yaml name."""
    entry = provider.entry
    try:
        base_url = checked_address(login.base_url)
    except ValueError as error:
        raise InvalidInput(f"The address for {login.provider!r} cannot be used: {error}.", field="base_url") from error
    if login.guarded and base_url and entry.transport == "litellm" and not _same_host(base_url, entry):
        # Its connections are LiteLLM's, which nothing guards.
        raise InvalidInput(f"{login.provider!r} may not have an address of its own here.", field="base_url")
    parts = _parts(login.api_key.get_secret_value())
    missing = [name for name in entry.needs if not parts.get(name)] if entry.needs else []
    if missing or (entry.transport == "litellm" and not entry.needs and not parts.get("api_key")):
        # Else LiteLLM would take the server's own from the environment.
        raise InvalidInput(f"{login.provider!r} needs {', '.join(missing) or 'a key'}.", field="api_key")
    if not base_url and not provider.endpoint.base_url and entry.transport == "lane":
        raise InvalidInput(f"{login.provider!r} needs the address of a server.", field="base_url")
    return Endpoint(
        base_url=_base(entry, base_url) if base_url else provider.endpoint.base_url,
        api_key=SecretStr(parts.get("api_key", "")),
        litellm_prefix=entry.litellm_prefix,
        family=entry.strategy,
        api_version=parts.get("api_version", "") or provider.endpoint.api_version,
        arguments=_arguments(entry, {name: parts.get(name, "") for name in entry.arguments}),
    )


def _parts(key: str) -> dict[str, str]:
    """What a login's key consists of, by name.

    Raises:
        InvalidInput: a part cannot stand in a header, or is no region. The message does not repeat it.
    """
    parts = {"api_key": key}
    if key.startswith("{"):
        with suppress(orjson.JSONDecodeError):  # Then it is a key that happens to begin so.
            loaded: dict[str, Any] = orjson.loads(key)
            parts = {name: value for name, value in loaded.items() if isinstance(value, str)}
    for name, value in parts.items():
        if not (value.isascii() and value.isprintable()):
            raise InvalidInput(f"{name[:80]!r} of the key must be printable ASCII.", field="api_key")
    if not _REGION.fullmatch(parts.get("aws_region_name", "-")):
        raise InvalidInput("'aws_region_name' of the key must look like eu-west-1.", field="api_key")
    return parts


def _own_entry(entry: ProviderEntry, kind: Kind, max_tokens: int) -> ModelEntry:
    context = max_tokens if max_tokens >= 256 else entry.unlisted.context_tokens
    output = min(entry.unlisted.max_output_tokens, context // 2)
    return entry.unlisted.model_copy(
        update={"kind": kind, "context_tokens": context, "max_output_tokens": output, "dim": 0}
    )


def _has_address(entry: ProviderEntry, base_url: str) -> bool:
    return bool(base_url or entry.default_base_url or entry.transport == "litellm")


def _base(entry: ProviderEntry, base_url: str) -> str:
    base = (base_url or entry.default_base_url).rstrip("/")
    return base + entry.path if base and entry.path and urlsplit(base).path in ("", "/") else base


def _same_host(base_url: str, entry: ProviderEntry) -> bool:
    return urlsplit(base_url).netloc == urlsplit(entry.default_base_url).netloc


def _api_version(entry: ProviderEntry, keys: ProviderKeys) -> str:
    return (keys.text(entry.api_version) or entry.default_api_version) if entry.api_version else ""


def _arguments(entry: ProviderEntry, values: Mapping[str, str]) -> tuple[tuple[str, SecretStr], ...]:
    return tuple((name, SecretStr(values[name])) for name in entry.arguments if values.get(name))
