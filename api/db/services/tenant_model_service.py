"""The models of tenants: keys they set for providers, models they add, switch off and list.

A key is tried with a small real call before it is kept, is kept sealed, and never leaves this service again.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args
from weakref import WeakValueDictionary

from pydantic import SecretStr

from api.db.database import Database
from api.db.services.model_calls import Books, CallMeter
from api.db.services.secret_box import SecretBox
from api.db.services.tenant_logins import Kind, TenantLogins, norm, note_change, owner_of, parted
from api.db.services.tenant_model_list import (
    Factory,
    ModelAtProvider,
    Providers,
    bare_name,
    listed,
    rows_of,
    used_tokens,
)
from api.db.services.usage_ledger import CallContext
from api.db.tables import TenantLlm, User
from rag.core.clock import Clock, now_ms
from rag.core.errors import InvalidInput, LimitExceeded, ModelError, ModelTimeout, NotFound
from rag.core.ids import new_id
from rag.core.types import Principal
from rag.llm.addresses import check_url
from rag.llm.base import OwnModel, ProviderLogin

T = TypeVar("T")
KINDS: tuple[Kind, ...] = get_args(Kind)
PROBE_S = 30.0
"""How long the call that tries a key may take, the wait for its turn included."""
_PROBES_AT_ONCE = 8
_PROBED: tuple[Kind, ...] = ("chat", "embedding", "rerank")
_MOST_ROWS = 1000
_LONGEST_KEY = 8192
_MOST_TOKENS = 100_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class NewModel:
    """A model that a tenant adds; `kind` is one of `KINDS`. An empty key and address mean those that are set for its
    provider."""

    name: str
    kind: str
    max_tokens: int = 0
    api_key: str = field(default="", repr=False)
    base_url: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Called:
    """What the books know of a model."""

    name: str


class ProbeFailed(InvalidInput):
    """No call that tried a key went through; `failures` are (provider, model, reason)."""

    def __init__(self, failures: Sequence[tuple[str, str, str]]) -> None:
        self.failures = tuple(failures)
        super().__init__("; ".join(f"{model}@{provider}: {reason}" for provider, model, reason in failures))


class NothingToProbe(InvalidInput):
    """The provider lists no model that a key could be tried with, and none was named."""


class TenantModelService:
    """What the principal's tenant may call, and how. Every change is seen by this process at once, by others within
    `models.tenants_refresh_s`."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        box: SecretBox,
        *,
        logins: TenantLogins,
        providers: Providers,
        books: Callable[[CallContext], Books],
        private_addresses: bool = False,
    ) -> None:
        """`books`: where the calls that try keys are noted."""
        self._db = db
        self._clock = clock
        self._box = box
        self._logins = logins
        self._providers = providers
        self._books = books
        self._private = private_addresses
        self._probes = asyncio.Semaphore(_PROBES_AT_ONCE)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def factories(self) -> list[Factory]:
        """All providers, the highest rank first."""
        return sorted(self._providers.factories(), key=lambda one: (-one.rank, one.name))

    def factory(self, name: str) -> Factory:
        """The provider `name`, in any case.

        Raises:
            NotFound: there is none; names of providers are a closed list.
        """
        for one in self._providers.factories():
            if norm(one.name) == norm(name):
                return one
        raise NotFound("provider", name, f"No model provider {name!r}.")

    async def set_key(
        self, principal: Principal, provider: str, *, api_key: str, base_url: str = "", kind: str = "", model: str = ""
    ) -> None:
        """Keep the tenant's key of `provider` once a call with it went through: of `model`, or of one that is listed.

        Raises:
            NotFound: no such provider.
            InvalidInput: the key or the address cannot be used.
            NothingToProbe: there is no model to try the key with.
            ProbeFailed: the provider did not answer as it should.
            LimitExceeded: a budget is spent, or the tenant has too many models.
        """
        factory = self.factory(provider)
        name = factory.name
        if factory.needs_key and not (api_key or base_url):
            raise InvalidInput(f"{name} needs an API key, or the address of a server.", field="api_key")
        login = await self._login(principal, name, api_key=api_key, base_url=base_url)
        await self._probe(
            principal, login, self._candidates(login, kind, parted(f"{model}@{name}")[0] if model else "")
        )
        await self._keep(principal, name, sealed=True, api_key=api_key, base_url=base_url)

    async def add(self, principal: Principal, provider: str, new: NewModel) -> None:
        """Add a model of `provider` once a call of it went through.

        Raises:
            NotFound: no such provider.
            InvalidInput: a name, number, key or address that cannot be used.
            LimitExceeded: a budget is spent, or the tenant has too many models.
            ProbeFailed: the provider did not answer as it should.
        """
        factory = self.factory(provider)
        name = factory.name
        own = OwnModel(name=parted(f"{new.name}@{name}")[0], kind=_kind(new.kind), max_tokens=new.max_tokens)
        if not own.name.strip() or max(len(own.name), len(norm(own.name))) > 255 or not own.name.isprintable():
            raise InvalidInput("A model's name must have 1 to 255 printable characters.", field="llm_name")
        if not 0 <= own.max_tokens <= _MOST_TOKENS:
            raise InvalidInput(f"max_tokens must be 0 to {_MOST_TOKENS}.", field="max_tokens")
        login = dataclasses.replace(await self._login_of(principal, factory, new), models=(own,))
        await self._probe(principal, login, [(own.kind, own.name)])
        await self._keep(principal, name, own=own, sealed=True, api_key=new.api_key, base_url=new.base_url)

    async def delete(self, principal: Principal, provider: str, model: str) -> None:
        """Forget a model that the tenant added; it is no error if there is none.

        Raises:
            NotFound: no such provider.
        """
        name = self.factory(provider).name
        wanted = norm(parted(f"{model}@{name}")[0])
        await self._drop(principal, name, (TenantLlm.model_norm == wanted) & (TenantLlm.model_norm != ""))

    async def delete_provider(self, principal: Principal, provider: str) -> None:
        """Forget the tenant's key of `provider` and all its models there; it is no error if there are none.

        Raises:
            NotFound: no such provider.
        """
        await self._drop(principal, self.factory(provider).name, TenantLlm.id != "")

    async def enable(self, principal: Principal, provider: str, model: str, *, on: bool) -> None:
        """Switch a model on or off for the tenant, in all its kinds.

        Raises:
            NotFound: no such provider, or no such model there.
        """
        name = self.factory(provider).name
        wanted = parted(f"{model}@{name}")[0]
        found = [
            one
            for one in await self.listed(principal)
            if norm(one.provider) == norm(name) and norm(one.name) == norm(wanted)
        ]
        if not found:
            raise NotFound("model", model, f"{name} has no model {model!r}.")
        for one in found:
            own = OwnModel(name=one.name, kind=_kind(one.kind), enabled=on)
            if on and not one.own:
                await self._as_listed(principal, name, own)
            else:
                await self._keep(principal, name, own=own, sealed=False)

    async def mine(self, principal: Principal) -> list[ModelAtProvider]:
        """The models of the providers that the tenant set something for, with the tokens it used of each."""
        own = await self._db.run(lambda: rows_of(principal.tenant_id))
        used = await self._db.run(lambda: used_tokens(principal.tenant_id))
        providers = {row.provider_norm for row in own}
        return [
            dataclasses.replace(one, used_tokens=used.get(norm(f"{one.name}@{one.provider}"), 0))
            for one in listed(self._providers, self._logins, principal.tenant_id, own)
            if norm(one.provider) in providers
        ]

    async def listed(self, principal: Principal) -> list[ModelAtProvider]:
        """All models that can be named, those that lack a key included."""
        own = await self._db.run(lambda: rows_of(principal.tenant_id))
        return listed(self._providers, self._logins, principal.tenant_id, own)

    async def _login_of(self, principal: Principal, factory: Factory, new: NewModel) -> ProviderLogin:
        """How `new` is reached: by what it brings, else by what is set for its provider."""
        if new.api_key or new.base_url:
            return await self._login(principal, factory.name, api_key=new.api_key, base_url=new.base_url)
        login = ProviderLogin(provider=factory.name, api_key=SecretStr(""))
        for one in self._logins.logins(principal.tenant_id):
            if norm(one.provider) == norm(factory.name):
                login = one
        if not (login.api_key.get_secret_value() or login.base_url or factory.open_names):
            # With the server's key it would be a call that the operator did not list and that has no price.
            raise InvalidInput(f"{factory.name} needs a key or an address of yours for this model.", field="api_key")
        return login

    async def _login(self, principal: Principal, provider: str, *, api_key: str, base_url: str) -> ProviderLogin:
        if len(api_key) > _LONGEST_KEY or not api_key.isprintable():
            raise InvalidInput(f"An API key must be printable, of at most {_LONGEST_KEY} characters.", field="api_key")
        private = self._private
        if base_url:
            private = private or await self._db.run(
                lambda: User.select().where((User.id == principal.user_id) & (User.is_superuser == True)).exists()  # noqa: E712
            )
            await check_url(base_url, private=private)
        return ProviderLogin(
            provider=provider,
            api_key=SecretStr(api_key),
            base_url=base_url,
            guarded=bool(base_url) and not private,
        )

    def _candidates(self, login: ProviderLogin, kind: str, model: str) -> list[tuple[Kind, str]]:
        """What may be called to try a key: the model that was named, else the first of each kind."""
        if model:
            return [(_kind(kind or "chat"), model)]
        found: dict[Kind, str] = {}
        for one in self._providers.listed((login,)):
            if norm(one.provider) == norm(login.provider) and one.kind in KINDS:
                found.setdefault(_kind(one.kind), bare_name(one))
        wanted = [_kind(kind)] if kind else [one for one in _PROBED if one in found] or list(found)
        candidates = [(one, found[one]) for one in wanted if one in found]
        if not candidates:
            raise NothingToProbe(
                f"{kind or 'chat'} model from {login.provider} is not supported yet; name one as llm_name.",
                field="llm_name",
            )
        return candidates

    async def _probe(self, principal: Principal, login: ProviderLogin, candidates: Sequence[tuple[Kind, str]]) -> None:
        turn = self._turns.setdefault(principal.tenant_id, asyncio.Lock())
        failures: list[tuple[str, str, str]] = []
        key = login.api_key.get_secret_value()
        for kind, model in candidates:
            try:
                await self._probe_one(principal, login, (kind, model), turn=turn)
            except (ModelError, NotFound, InvalidInput) as error:
                reason = error.message.replace(key, "***") if len(key) > 3 else error.message
                failures.append((login.provider, model, reason))
            else:
                return
        raise ProbeFailed(failures)

    async def _probe_one(
        self, principal: Principal, login: ProviderLogin, candidate: tuple[Kind, str], *, turn: asyncio.Lock
    ) -> None:
        """One at a time for each tenant, so that those of one who names slow servers leave slots to all others."""
        model = candidate[1]
        try:
            async with asyncio.timeout(PROBE_S), turn, self._probes:
                await self._call(principal, login, *candidate)
        except TimeoutError as error:
            raise ModelTimeout(f"{model!r}: no answer within {PROBE_S:.0f} s.", model=model) from error

    async def _call(self, principal: Principal, login: ProviderLogin, kind: Kind, model: str) -> None:
        """The call that tries a key, on the books of the tenant."""
        books = self._books(CallContext(tenant_id=principal.tenant_id, purpose="probe", key_id=principal.key_id))
        called = _Called(name=f"{model}@{login.provider}")
        await books.check(called)
        with CallMeter(books, called) as meter:
            meter.usage = await self._providers.probe(login, kind, model)

    async def _keep(
        self,
        principal: Principal,
        provider: str,
        *,
        own: OwnModel | None = None,
        sealed: bool,
        api_key: str = "",
        base_url: str = "",
    ) -> None:
        """Write the row of a login, or of the model `own`; without `sealed` only whether it is switched on."""

        def write() -> None:
            now = now_ms(self._clock)
            key = self._box.seal(api_key, owner=owner_of(principal.tenant_id, provider)) if api_key else ""
            values: dict[str, object] = {"update_time": now}
            if sealed:
                values |= {"provider": provider, "sealed_key": key, "base_url": base_url}
            if own is not None:
                values |= {"model": own.name, "enabled": own.enabled}
                values |= {"max_tokens": own.max_tokens} if sealed else {}
            same = _place(principal, provider, own)
            if not TenantLlm.update(**values).where(same).execute():
                if TenantLlm.select().where(TenantLlm.tenant_id == principal.tenant_id).count() >= _MOST_ROWS:
                    raise LimitExceeded(f"A tenant can have at most {_MOST_ROWS} models of its own.")
                TenantLlm.create(
                    id=new_id(),
                    tenant_id=principal.tenant_id,
                    provider_norm=norm(provider),
                    model_norm=norm(own.name) if own is not None else "",
                    kind=own.kind if own is not None else "",
                    create_time=now,
                    **({"provider": provider} | values),
                )
            note_change()

        await self._changed(write)

    async def _as_listed(self, principal: Principal, provider: str, own: OwnModel) -> None:
        """Switch a listed model on. A row that said nothing but that it was off goes: it must not outlive the list."""

        def write() -> None:
            same = _place(principal, provider, own)
            nothing = (TenantLlm.sealed_key == "") & (TenantLlm.base_url == "") & (TenantLlm.max_tokens == 0)
            if not TenantLlm.delete().where(same & nothing).execute():
                TenantLlm.update(enabled=True, update_time=now_ms(self._clock)).where(same).execute()
            note_change()

        await self._changed(write)

    async def _drop(self, principal: Principal, provider: str, which: object) -> None:
        def write() -> None:
            own = (TenantLlm.tenant_id == principal.tenant_id) & (TenantLlm.provider_norm == norm(provider))
            if TenantLlm.delete().where(own & which).execute():
                note_change()

        await self._changed(write)

    async def _changed(self, write: Callable[[], T]) -> T:
        result = await self._db.write(write)
        await self._logins.refresh()
        return result


def _kind(kind: str) -> Kind:
    for one in KINDS:
        if one == kind:
            return one
    raise InvalidInput(f"A model's type must be one of: {', '.join(KINDS)}.", field="model_type")


def _place(principal: Principal, provider: str, own: OwnModel | None) -> Any:
    return (
        (TenantLlm.tenant_id == principal.tenant_id)
        & (TenantLlm.provider_norm == norm(provider))
        & (TenantLlm.model_norm == (norm(own.name) if own is not None else ""))
        & (TenantLlm.kind == (own.kind if own is not None else ""))
    )
