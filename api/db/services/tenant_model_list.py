"""What lists of models are made of: what the registry offers, what a tenant added, and what it used."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from peewee import fn

from api.db.services.tenant_logins import Kind, TenantLogins, norm
from api.db.tables import TenantLlm, UsageDay
from rag.core.errors import NotFound
from rag.core.types import TokenUsage
from rag.llm.base import ProviderLogin


class Factory(Protocol):
    """A provider as it is offered to tenants."""

    @property
    def name(self) -> str: ...
    @property
    def tags(self) -> str: ...
    @property
    def kinds(self) -> Sequence[str]: ...
    @property
    def rank(self) -> int: ...
    @property
    def needs_key(self) -> bool: ...
    @property
    def open_names(self) -> bool: ...


class Listed(Protocol):
    """A model that can be named; `available`: its provider has a key, or needs none."""

    @property
    def name(self) -> str: ...
    @property
    def provider(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def tools(self) -> bool: ...
    @property
    def available(self) -> bool: ...


class Providers(Protocol):
    """What is needed of the registry."""

    def factories(self) -> Sequence[Factory]: ...
    def listed(self, logins: Sequence[ProviderLogin] = ()) -> Sequence[Listed]: ...
    def offers(self, name: str, kind: Kind, logins: Sequence[ProviderLogin] = ()) -> bool: ...
    async def probe(self, login: ProviderLogin, kind: Kind, model: str) -> TokenUsage: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelAtProvider:
    """A model of a tenant. `own`: the tenant named it. `base_url` and `max_tokens` where known, else empty and 0."""

    provider: str
    name: str
    kind: str
    own: bool = False
    enabled: bool = True
    available: bool = True
    tools: bool = False
    max_tokens: int = 0
    base_url: str = ""
    used_tokens: int = 0
    update_time: int = 0


def listed(
    providers: Providers, logins: TenantLogins, tenant_id: str, rows: Sequence[TenantLlm]
) -> list[ModelAtProvider]:
    """All models that the tenant with these `rows` can name: the registry's, then those that it added."""
    set_before = logins.logins(tenant_id)
    set_url = {norm(login.provider): login.base_url for login in set_before}
    by_name = {(row.provider_norm, row.model_norm, row.kind): row for row in rows if row.model_norm}
    offered = {_key(one) for one in providers.listed()}
    found: list[ModelAtProvider] = []
    for one in providers.listed(set_before):
        row = by_name.pop(_key(one), None)
        own = row is not None and _key(one) not in offered
        found.append(_offered(one, row, set_url.get(norm(one.provider), ""), own=own))
    for row in by_name.values():
        available = _can_be_called(row, providers, logins, tenant_id)
        found.append(_added(row, set_url.get(row.provider_norm, ""), available=available))
    return found


def _can_be_called(row: TenantLlm, providers: Providers, logins: TenantLogins, tenant_id: str) -> bool:
    """Whether a call of the model would find it: as calls look for models, not as lists do."""
    name, kind = f"{row.model}@{row.provider}", cast(Kind, row.kind)
    try:
        return providers.offers(name, kind, logins.for_model(tenant_id, name, kind))
    except NotFound:
        return False


def _key(one: Listed) -> tuple[str, str, str]:
    return norm(one.provider), norm(bare_name(one)), one.kind


def _offered(one: Listed, row: TenantLlm | None, base_url: str, *, own: bool) -> ModelAtProvider:
    return ModelAtProvider(
        provider=one.provider,
        name=bare_name(one),
        kind=one.kind,
        own=own,
        enabled=row is None or bool(row.enabled),
        available=one.available,
        tools=one.tools,
        max_tokens=(row.max_tokens if row is not None else 0) or one.max_tokens,
        base_url=(row.base_url if row is not None else "") or base_url,
        update_time=row.update_time if row is not None else 0,
    )


def _added(row: TenantLlm, base_url: str, *, available: bool) -> ModelAtProvider:
    return ModelAtProvider(
        provider=row.provider,
        name=row.model,
        kind=row.kind,
        own=True,
        enabled=bool(row.enabled),
        available=available,
        max_tokens=row.max_tokens,
        base_url=row.base_url or base_url,
        update_time=row.update_time,
    )


def bare_name(one: Listed) -> str:
    """The model's name without its `@provider`."""
    return one.name.removesuffix(f"@{one.provider}")


def rows_of(tenant_id: str) -> list[TenantLlm]:
    return list(TenantLlm.select().where(TenantLlm.tenant_id == tenant_id))


def used_tokens(tenant_id: str) -> dict[str, int]:
    """Tokens of all calls so far, by the normalised name of the model."""
    tokens = fn.SUM(UsageDay.prompt_tokens + UsageDay.completion_tokens)
    days = UsageDay.select(UsageDay.model, tokens).where(UsageDay.tenant_id == tenant_id).group_by(UsageDay.model)
    return {norm(model): int(count or 0) for model, count in cast(Iterable[tuple[str, int | None]], days.tuples())}
