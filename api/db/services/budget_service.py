"""A hard budget for each day (UTC), per tenant and per API key.

What was spent is read from the daily totals, so it survives restarts and counts all processes; it is read again when
it is older than `reread_s`. Between two reads each process adds what it spent itself. A call that is under way has a
part of the budget set aside: what calls of today cost on average, and `call_usd` or `call_tokens` at the least.

A call begins only while spent and set aside together are below the limit. So the calls of one process that run at
the same time are at most what was left, divided by the part set aside for one, plus one; and the day ends over its
limit by no more than these calls cost beyond their parts. Each further process can add what it spends in `reread_s`.

Models that cost nothing count towards nothing. Calls without a known price count by their tokens only.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog
from peewee import fn

from api.db.database import Database
from api.db.services.records import ModelCall
from api.db.services.usage_days import DAY_MS, day_of
from api.db.services.usage_ledger import CallContext
from api.db.tables import UsageDay
from rag.core.blocking import Lane, run_in
from rag.core.clock import Clock, now_ms
from rag.core.errors import BudgetSpent
from rag.core.settings import BudgetSettings
from rag.llm.prices import Prices

Scope = Literal["tenant", "key"]
_Key = tuple[Scope, str, str]
_MOST_REMEMBERED = 10_000
_ROUNDING_USD = 1e-9
"""Sums of many small costs are this far off."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Limits:
    usd: float
    tokens: int

    @property
    def any(self) -> bool:
        return self.usd > 0 or self.tokens > 0


@dataclass(slots=True)
class _Taken:
    """What calls cost that this process has made; `settled_at` is when their row was written, on the own clock."""

    usd: float
    tokens: int
    settled_at: float | None = None


@dataclass(slots=True)
class _Purse:
    """One tenant's or key's day. `held` are the times at which calls under way began."""

    day: int = -1
    read_at: float = float("-inf")
    usd: float = 0.0
    tokens: int = 0
    calls: int = 0
    own: dict[int, _Taken] = field(default_factory=dict)
    held: list[float] = field(default_factory=list)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def begin(self, day: int) -> None:
        """Forget yesterday; what is under way counts for the new day."""
        self.day, self.read_at = day, float("-inf")
        self.usd, self.tokens, self.calls = 0.0, 0, 0
        self.own.clear()

    def spent(self) -> tuple[float, int, int]:
        """US dollars, tokens and calls so far."""
        usd = self.usd + sum(one.usd for one in self.own.values())
        tokens = self.tokens + sum(one.tokens for one in self.own.values())
        return usd, tokens, self.calls + len(self.own)

    @property
    def is_idle(self) -> bool:
        """Whether the rows tell all there is: nothing is under way or waits to be written."""
        if self.held or self.lock.locked():
            return False
        return all(one.settled_at is not None for one in self.own.values())


class BudgetService:
    """Implements `usage_ledger.BudgetGate`, and looks at ended calls as a `usage_ledger.CallObserver`."""

    def __init__(
        self, db: Database, clock: Clock, settings: BudgetSettings, *, prices: Prices, longest_call_s: float
    ) -> None:
        """`longest_call_s`: after this a call that was never heard of again holds nothing any more."""
        self._db = db
        self._clock = clock
        self._settings = settings
        self._prices = prices
        self._longest_call_s = longest_call_s
        self._limits: dict[Scope, _Limits] = {
            "tenant": _Limits(settings.tenant_usd, settings.tenant_tokens),
            "key": _Limits(settings.key_usd, settings.key_tokens),
        }
        self._purses: OrderedDict[_Key, _Purse] = OrderedDict()

    @property
    def is_set(self) -> bool:
        """Whether there is any limit."""
        return any(limits.any for limits in self._limits.values())

    async def check(self, context: CallContext) -> None:
        """Set a part of the budget aside for a call of `context`, which ends when its row is recorded.

        Raises:
            BudgetSpent: the day's budget of the tenant or of the key is spent, or set aside for calls under way.
            StoreUnavailable: what was spent cannot be read.
        """
        keys = list(self._scopes(context.tenant_id, context.key_id))
        if not keys or await self._is_free(context.model):
            return
        async with AsyncExitStack() as stack:
            purses = [self._purse(key) for key in keys]
            for purse in purses:
                await stack.enter_async_context(purse.lock)
            for key, purse in zip(keys, purses, strict=True):
                await self._refresh(key, purse)
            for key, purse in zip(keys, purses, strict=True):
                self._refuse_if_spent(key, purse)
            for purse in purses:
                purse.held.append(self._clock.monotonic())

    def ended(self, call: ModelCall) -> None:
        """Give back what was set aside for `call`, and count what it took."""
        for purse in self._touched(call):
            if purse.held:
                purse.held.pop(0)
            purse.own[id(call)] = _Taken(usd=call.cost_usd or 0.0, tokens=_billed_tokens(call))

    def settled(self, call: ModelCall) -> None:
        """From now on the rows tell of `call`."""
        for purse in self._touched(call):
            taken = purse.own.pop(id(call), None)
            if taken is not None:
                taken.settled_at = self._clock.monotonic()
                # Under a key of its own: the id of a call that is gone may come again.
                purse.own[id(taken)] = taken

    def _touched(self, call: ModelCall) -> Iterator[_Purse]:
        """The purses that `call` was paid from. Free models have none set aside."""
        if call.cost_usd == 0 and self._prices.loaded and self._prices.is_free(call.model):
            return
        for key in self._scopes(call.tenant_id, call.key_id):
            purse = self._purses.get(key)
            if purse is not None:
                yield purse

    def _scopes(self, tenant_id: str, key_id: str) -> Iterator[_Key]:
        if tenant_id and self._limits["tenant"].any:
            yield "tenant", tenant_id, ""
        if tenant_id and key_id and self._limits["key"].any:
            yield "key", tenant_id, key_id

    async def _is_free(self, model: str) -> bool:
        if not model:
            return False
        if not self._prices.loaded:
            await run_in(Lane.FILES, self._prices.load)
        return self._prices.is_free(model)

    def _purse(self, key: _Key) -> _Purse:
        purse = self._purses.setdefault(key, _Purse())
        self._purses.move_to_end(key)
        while len(self._purses) > _MOST_REMEMBERED:
            idle = next((one for one, old in self._purses.items() if old.is_idle), None)
            if idle is None or idle == key:
                break
            del self._purses[idle]
        return purse

    async def _refresh(self, key: _Key, purse: _Purse) -> None:
        """Read what was spent, if that is not known or too old."""
        day = day_of(now_ms(self._clock))
        if purse.day != day:
            purse.begin(day)
        now = self._clock.monotonic()
        purse.held = [began for began in purse.held if now - began < self._longest_call_s]
        if now - purse.read_at < self._settings.reread_s:
            return
        _, tenant_id, key_id = key
        purse.usd, purse.tokens, purse.calls = await self._db.run(lambda: _spent(tenant_id, key_id, day))
        purse.read_at = now
        # What was written before the read began is in it; the rest may be, and is counted twice until the next.
        purse.own = {
            one: taken for one, taken in purse.own.items() if taken.settled_at is None or taken.settled_at >= now
        }

    def _refuse_if_spent(self, key: _Key, purse: _Purse) -> None:
        limits, settings = self._limits[key[0]], self._settings
        usd, tokens, calls = purse.spent()
        held = len(purse.held)
        held_usd = held * max(settings.call_usd, usd / calls if calls else 0.0)
        held_tokens = held * max(settings.call_tokens, tokens / calls if calls else 0.0)
        if limits.usd and usd + held_usd >= limits.usd - _ROUNDING_USD:
            raise self._spent(key[0], "usd", f"${usd:.2f} of ${limits.usd:.2f}", under_way=usd < limits.usd)
        if limits.tokens and tokens + held_tokens >= limits.tokens:
            told = f"{tokens:,} of {limits.tokens:,} tokens"
            raise self._spent(key[0], "tokens", told, under_way=tokens < limits.tokens)

    def _spent(self, scope: Scope, unit: str, told: str, *, under_way: bool) -> BudgetSpent:
        left_s = (DAY_MS - now_ms(self._clock) % DAY_MS) // 1000 + 1
        whose = "this API key" if scope == "key" else "this account"
        setting = f"PARLEY_BUDGET__{scope.upper()}_{unit.upper()}"
        if under_way:
            message = (
                f"What is left of the day's model budget of {whose} (spent: {told}) is set aside for calls under way. "
                f"Ask again when they have ended, or raise {setting}."
            )
        else:
            message = (
                f"The day's model budget of {whose} is spent ({told}). Wait {left_s // 3600} h {left_s % 3600 // 60} "
                f"min until the next day (UTC) begins, or raise {setting}."
            )
        log.info("budget_spent", scope=scope, unit=unit, under_way=under_way)
        return BudgetSpent(message, scope=scope, unit=unit, retry_after_s=1 if under_way else left_s)


def _billed_tokens(call: ModelCall) -> int:
    return 0 if call.cost_usd == 0 else call.prompt_tokens + call.completion_tokens


def _spent(tenant_id: str, key_id: str, day: int) -> tuple[float, int, int]:
    """What the calls that are billed came to, of a tenant's day or of one of its keys: US dollars, tokens and calls.

    For use inside `Database.run`.
    """
    own: Any = (UsageDay.tenant_id == tenant_id) & (UsageDay.day == day)
    own &= (UsageDay.billed_tokens > 0) | (UsageDay.cost_usd > 0)
    if key_id:
        own &= UsageDay.key_id == key_id
    sums: Callable[[Any], Any] = fn.SUM
    row = (
        UsageDay.select(sums(UsageDay.cost_usd), sums(UsageDay.billed_tokens), sums(UsageDay.calls))
        .where(own)
        .scalar(as_tuple=True)
    )
    return float(row[0] or 0.0), int(row[1] or 0), int(row[2] or 0)
