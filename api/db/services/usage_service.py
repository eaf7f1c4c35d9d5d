"""Usage rows: one per model call. Metrics, cost and budgets read them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import structlog

from api.db.database import Database
from api.db.raw_sql import execute_many
from api.db.services.records import ModelCall
from api.db.services.usage_days import add_to_days
from api.db.services.usage_ledger import CallObserver
from api.db.tables import Usage, database_proxy
from rag.core.blocking import Lane, run_in
from rag.core.clock import Clock, now_ms
from rag.core.errors import OutcomeUnknown, RagError, StoreUnavailable
from rag.core.types import TokenUsage
from rag.llm.prices import Prices

GATHER_S = 0.2
"""How long a row waits for others of the same write: with one write to the disk a call, sixteen questions at once spend
more time on their usage rows than on the search."""

RETRY_S = 5.0
"""After this long, rows that could not be written are tried again, whether a call ends or not."""

_WIDTHS = {name: getattr(Usage, name).max_length for name in ("model", "provider", "purpose", "arm", "outcome")}

_FIELDS = tuple(field.name for field in fields(ModelCall))
_COLUMNS = (*_FIELDS, "create_time")
_COUNTS = (
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "tool_calls",
    "attempts",
)
_MOST_COUNTED = 2**31 - 1
"""What a column of 32 bits holds."""

log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class _Pending:
    """A call whose row is not written. `error` is what came of the last try."""

    call: ModelCall
    row: dict[str, object]
    error: RagError | None = None


class UsageService:
    """Prices calls and writes their rows; calls that end within `GATHER_S`, or while a write is under way, share a
    write."""

    def __init__(self, db: Database, clock: Clock, *, prices: Prices | None = None) -> None:
        """Without `prices`, rows keep what the calls bring."""
        self._db = db
        self._clock = clock
        self._prices = prices
        self._observers: list[CallObserver] = []
        self._pending: list[_Pending] = []
        self._turn = asyncio.Lock()
        self._gathering: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None

    def tell(self, observer: CallObserver) -> None:
        """Show every call from now on to `observer`."""
        self._observers.append(observer)

    async def record(self, call: ModelCall) -> None:
        """Price `call` and write its row; it is on the disk when this returns.

        Raises:
            StoreUnavailable: the rows cannot be written now; the row goes with the next call's, or in `RETRY_S`.
            OutcomeUnknown: nobody knows whether it was written. It is not written again: cost counted twice is worse
                than a row that is missing.
            StoreError, InvalidInput: no row can hold this call; it is given up, the rows of others are not.
        """
        call = await self._priced(call)
        for observer in self._observers:
            observer.ended(call)
        mine = _Pending(call, _row(call) | {"create_time": now_ms(self._clock)})
        self._pending.append(mine)
        await asyncio.shield(self._begun())
        if mine.error is not None:
            raise mine.error

    async def flush(self) -> None:
        """Write what waits to be written. Rows are gone with the process: call this before it ends.

        Raises:
            StoreUnavailable: they still cannot be written.
        """
        async with self._turn:
            # A write that is under way may put its rows back.
            waiting = tuple(self._pending)
        if not waiting:
            return
        await asyncio.shield(self._begun())
        left = [one for one in waiting if one.row]
        if left and left[0].error is not None:
            raise left[0].error

    async def _priced(self, call: ModelCall) -> ModelCall:
        """`call` with its cost and its provider, where they are missing and known."""
        provider = call.provider or call.model.rpartition("@")[2]
        cost = call.cost_usd
        if cost is None and self._prices is not None:
            if not self._prices.loaded:
                await run_in(Lane.FILES, self._prices.load)
            cost = self._prices.cost(call.model, _taken(call)) if _is_billed(call) else 0.0
        return replace(call, provider=provider, cost_usd=cost)

    def _begun(self) -> asyncio.Task[None]:
        """The task that writes what is pending."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._gathering is None or self._gathering.done():
            self._gathering = asyncio.create_task(self._write(), name="write-usage-rows")
        return self._gathering

    async def _write(self) -> None:
        """Write what is pending. All whose rows go with it wait for this one task: were they to wait for a turn of
        their own, they would pile up for as long as calls keep coming."""
        async with self._turn:
            await asyncio.sleep(GATHER_S)
            rows, self._pending, self._gathering = self._pending, [], None
            try:
                await self._put(rows)
            except StoreUnavailable as error:
                waiting = [one for one in rows if one.row]
                for one in waiting:
                    one.error = error
                self._pending = waiting + self._pending
                if self._again is None:
                    self._again = asyncio.get_running_loop().call_later(RETRY_S, self._begun)

    async def _put(self, rows: Sequence[_Pending]) -> None:
        """Write `rows` in one transaction, or each in its own if one of them cannot be written.

        Raises:
            StoreUnavailable: those that still have their `row` are to be written later.
        """
        try:
            await self._db.write(lambda: _insert([one.row for one in rows]))
        except OutcomeUnknown as error:
            log.warning("usage_rows_unknown", count=len(rows), reason=error.message)
            self._settle(rows, error)
        except StoreUnavailable:
            raise
        except RagError as error:
            if len(rows) == 1:
                call = rows[0].call
                log.error("usage_row_given_up", tenant=call.tenant_id, model=call.model, reason=error.message)
                self._settle(rows, error)
                return
            for one in rows:
                await self._put([one])
        else:
            self._settle(rows, None)

    def _settle(self, rows: Sequence[_Pending], error: RagError | None) -> None:
        """No more is done for `rows`. Until then budgets count the calls themselves."""
        for one in rows:
            one.row, one.error = {}, error
            for observer in self._observers:
                observer.settled(one.call)


def _taken(call: ModelCall) -> TokenUsage:
    return TokenUsage(
        prompt_tokens=call.prompt_tokens,
        completion_tokens=call.completion_tokens,
        cached_tokens=call.cached_tokens,
        cache_write_tokens=call.cache_write_tokens,
        reasoning_tokens=call.reasoning_tokens,
    )


def _is_billed(call: ModelCall) -> bool:
    """Whether the provider bills `call`: one that failed before it said a word it does not."""
    if call.outcome in ("ok", "cut_off", "cancelled"):
        return True
    return call.completion_tokens > 0 or (call.prompt_tokens > 0 and not call.estimated)


def _row(call: ModelCall) -> dict[str, object]:
    """The columns of `call`. What is too long or too large for its column is cut: one that is refused makes all rows
    of its write go one by one."""
    values: dict[str, object] = {name: getattr(call, name) for name in _FIELDS}
    for name, width in _WIDTHS.items():
        values[name] = str(values[name])[:width]
    for name in _COUNTS:
        values[name] = min(max(getattr(call, name), 0), _MOST_COUNTED)
    values["steps"] = Usage.steps.db_value(call.steps or None)
    return values


def _insert(rows: list[dict[str, object]]) -> None:
    """Write `rows` and count them in their days.

    Sent as text, one row a statement: SQLite keeps the last statements prepared, and one for each number of rows is
    long.
    """
    marks = ", ".join([database_proxy.param] * len(_COLUMNS))
    names = ", ".join(f"`{name}`" for name in _COLUMNS)
    values = ([row[name] for name in _COLUMNS] for row in rows)
    execute_many(database_proxy.obj, f"INSERT INTO `usage` ({names}) VALUES ({marks})", values)
    add_to_days(rows)
