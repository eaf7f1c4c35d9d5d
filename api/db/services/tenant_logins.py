"""What tenants set about model providers, in memory: models are chosen without waiting for a row.

Read at the start, after every own change, and every few seconds where another process changed something, which one
number tells. Keys are opened in the thread that reads, each once.
"""

import asyncio
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, cast

import structlog
from pydantic import SecretStr

from api.db.database import Database
from api.db.services.secret_box import SecretBox
from api.db.tables import Tenant, TenantLlm, TenantLlmChange, User
from rag.core.errors import NotFound, RagError, StoreError
from rag.llm.base import OwnModel, ProviderLogin

DEFAULTS = ("llm_id", "embd_id", "rerank_id", "asr_id", "img2txt_id", "tts_id")
Kind = Literal["chat", "embedding", "rerank", "image2text", "speech2text", "tts"]
_SUFFIX = "___"
_CHANGE = 1

log = structlog.get_logger(__name__)


def norm(text: str) -> str:
    """How names of providers and models compare."""
    return unicodedata.normalize("NFKC", text).strip().casefold()


def parted(name: str) -> tuple[str, str]:
    """Model and provider of `<model>@<provider>`, without the suffix that the contract puts behind names of models on
    own servers; the provider is empty where none is named."""
    model, at, provider = name.rpartition("@")
    if not at:
        return name, ""
    bare, mark, suffix = model.rpartition(_SUFFIX)
    known = mark and norm(suffix) in (norm(provider), norm(provider).removesuffix("-compatible"))
    return (bare if known else model), provider


@dataclass(frozen=True, kw_only=True, slots=True)
class AtProvider:
    """A tenant's settings of one provider. `base`: the login of the provider itself, if there is one; `further`: those
    of models with an address or key of their own. `off` are (normalised name, kind). `broken` says why a key cannot be
    used."""

    base: ProviderLogin | None = None
    further: tuple[ProviderLogin, ...] = ()
    off: frozenset[tuple[str, str]] = frozenset()
    broken: str = ""

    def login_of(self, model: str, kind: str) -> tuple[ProviderLogin, ...]:
        """The login of that model, else the provider's; empty where the server's own settings count. Pictures are
        described by chat models, too."""
        base = () if self.base is None else (self.base,)
        for wanted in (kind, "chat") if kind == "image2text" else (kind,):
            for one in (*base, *self.further):
                if any(norm(own.name) == norm(model) and own.kind == wanted for own in one.models):
                    return (one,)
        return base


@dataclass(frozen=True, kw_only=True, slots=True)
class OfTenant:
    providers: Mapping[str, AtProvider] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)


_NOTHING = OfTenant()


class TenantLogins:
    """The logins, own models and default models of all tenants, as they were read last.

    Args:
        private: Whether every tenant may reach private addresses; superusers may always.
    """

    def __init__(self, db: Database, box: SecretBox, *, private: bool = False) -> None:
        self._db = db
        self._box = box
        self._private = private
        self._number: int | None = None
        self._tenants: Mapping[str, OfTenant] = MappingProxyType({})
        self._opened: dict[tuple[str, str], SecretStr] = {}
        self._turn = asyncio.Lock()

    def default(self, tenant_id: str, column: str) -> str:
        """The tenant's default model, one of `DEFAULTS`; empty means the server's."""
        return self._of(tenant_id).defaults.get(column, "")

    def logins(self, tenant_id: str) -> tuple[ProviderLogin, ...]:
        """The login of each provider that the tenant set as a whole."""
        return tuple(one.base for one in self._of(tenant_id).providers.values() if one.base is not None)

    def further(self, tenant_id: str) -> tuple[ProviderLogin, ...]:
        """Logins beside those: of single models at another address or with another key."""
        return tuple(login for one in self._of(tenant_id).providers.values() for login in one.further)

    def for_model(self, tenant_id: str, name: str, kind: str) -> tuple[ProviderLogin, ...]:
        """The logins that count for the model `name` (`<model>` or `<model>@<provider>`).

        Raises:
            NotFound: the tenant switched the model off, or its key of that provider cannot be opened.
        """
        model, provider = parted(name)
        if not provider:
            return tuple(login for one in self._of(tenant_id).providers.values() for login in one.login_of(model, kind))
        found = self._of(tenant_id).providers.get(norm(provider))
        if found is None:
            return ()
        if found.broken:
            raise NotFound("model", name, f"The model {name!r} cannot be used. {found.broken}")
        if (norm(model), kind) in found.off:
            raise NotFound("model", name, f"The model {name!r} is switched off. Switch it on, or use another one.")
        return found.login_of(model, kind)

    def is_off(self, tenant_id: str, name: str, kind: str) -> bool:
        """Whether the tenant switched the model `<model>@<provider>` off."""
        model, provider = parted(name)
        found = self._of(tenant_id).providers.get(norm(provider))
        return found is not None and (norm(model), kind) in found.off

    async def refresh(self) -> None:
        """Read what changed since the last look, if anything did.

        Raises:
            StoreUnavailable: the rows cannot be read; what was read before stays.
        """
        async with self._turn:
            read = await self._db.run(self._read)
            if read is not None:
                self._number, self._tenants, self._opened = read

    async def watch(self, every_s: float) -> None:
        """Refresh for ever. Rows that cannot be read are tried again."""
        told = ""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.refresh()
            except RagError as error:
                if error.message != told:
                    log.warning("tenant_models_not_read", code=error.code, reason=error.message)
                told = error.message
            else:
                told = ""

    def _of(self, tenant_id: str) -> OfTenant:
        return self._tenants.get(tenant_id, _NOTHING)

    def _read(self) -> tuple[int, Mapping[str, OfTenant], dict[tuple[str, str], SecretStr]] | None:
        change = TenantLlmChange.get_or_none(TenantLlmChange.id == _CHANGE)
        number = int(change.number) if change is not None else 0
        if number == self._number:
            return None
        rows: dict[str, list[TenantLlm]] = {}
        for row in TenantLlm.select().order_by(TenantLlm.create_time, TenantLlm.id):
            rows.setdefault(row.tenant_id, []).append(row)
        defaults = _defaults()
        trusted = {row.id for row in User.select(User.id).where(User.is_superuser == True)}  # noqa: E712
        opened: dict[tuple[str, str], SecretStr] = {}
        tenants = {
            tenant_id: OfTenant(
                providers=self._providers(
                    rows.get(tenant_id, []), opened, guarded=not self._private and tenant_id not in trusted
                ),
                defaults=defaults.get(tenant_id, {}),
            )
            for tenant_id in rows.keys() | defaults.keys()
        }
        return number, MappingProxyType(tenants), opened

    def _providers(
        self, rows: Iterable[TenantLlm], opened: dict[tuple[str, str], SecretStr], *, guarded: bool
    ) -> dict[str, AtProvider]:
        by_provider: dict[str, list[TenantLlm]] = {}
        for row in rows:
            by_provider.setdefault(row.provider_norm, []).append(row)
        found: dict[str, AtProvider] = {}
        for provider, own in by_provider.items():
            off = frozenset((row.model_norm, row.kind) for row in own if row.model_norm and not row.enabled)
            try:
                base, further = _logins(own, [self._key(row, opened) for row in own], guarded=guarded)
            except StoreError as error:
                log.warning("tenant_key_not_opened", tenant=own[0].tenant_id, provider=provider, reason=error.message)
                found[provider] = AtProvider(off=off, broken=error.message)
            else:
                found[provider] = AtProvider(base=base, further=further, off=off)
        return found

    def _key(self, row: TenantLlm, opened: dict[tuple[str, str], SecretStr]) -> SecretStr:
        if not row.sealed_key:
            return SecretStr("")
        owner = owner_of(row.tenant_id, row.provider)
        key = self._opened.get((owner, row.sealed_key))
        opened[(owner, row.sealed_key)] = key if key is not None else self._box.open(row.sealed_key, owner=owner)
        return opened[(owner, row.sealed_key)]


def owner_of(tenant_id: str, provider: str) -> str:
    """Whose a sealed key is: it opens for no other tenant and no other provider."""
    return f"{tenant_id}/{norm(provider)}"


def note_change() -> None:
    """Tell all processes that they must read again; within the write that changes something."""
    if not TenantLlmChange.update(number=TenantLlmChange.number + 1).where(TenantLlmChange.id == _CHANGE).execute():
        TenantLlmChange.create(id=_CHANGE, number=1)


def _logins(
    rows: list[TenantLlm], keys: list[SecretStr], *, guarded: bool
) -> tuple[ProviderLogin | None, tuple[ProviderLogin, ...]]:
    """The provider's own login, if it has a row, and one for each further pair of address and key."""
    base: tuple[str, str] | None = None
    for row, key in zip(rows, keys, strict=True):
        if not row.model_norm:
            base = (row.base_url, key.get_secret_value())
    groups: dict[tuple[str, str], list[OwnModel]] = {} if base is None else {base: []}
    for row, key in zip(rows, keys, strict=True):
        own_way = bool(row.base_url or row.sealed_key)
        way = (row.base_url, key.get_secret_value()) if own_way else base
        if not row.model_norm or way is None:
            continue
        kind = cast(Kind, row.kind)
        own = OwnModel(name=row.model, kind=kind, max_tokens=row.max_tokens, enabled=bool(row.enabled))
        groups.setdefault(way, []).append(own)
    logins = tuple(
        ProviderLogin(
            provider=rows[0].provider,
            api_key=SecretStr(key),
            base_url=url,
            guarded=guarded and bool(url),
            models=tuple(models),
        )
        for (url, key), models in groups.items()
    )
    return (None, logins) if base is None else (logins[0], logins[1:])


def _defaults() -> dict[str, dict[str, str]]:
    some = Tenant.llm_id != ""
    for column in DEFAULTS[1:]:
        some |= getattr(Tenant, column) != ""
    return {
        row.id: {column: getattr(row, column) for column in DEFAULTS if getattr(row, column)}
        for row in Tenant.select().where(some)
    }
