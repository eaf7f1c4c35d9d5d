"""Figures of a tenant's model calls and conversations. Everything is read by tenant: others' rows are never seen.

Totals, models and percentiles come from the daily totals, a few rows a day whatever the number of calls. Chats and
sessions are added up from the calls themselves, over the index of (tenant, time).
"""

import datetime
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import peewee
from peewee import fn

from api.db.database import Database
from api.db.services.owned import in_groups
from api.db.services.usage_days import DAY_MS, add_spread, day_name, day_of, middle_of, percentile
from api.db.tables import Conversation, Dialog, Message, Usage, UsageDay
from rag.core.clock import Clock, now_ms
from rag.core.errors import InvalidInput
from rag.core.types import Principal

LONGEST_DAYS = 366
DEFAULT_DAYS = 7
MOST_LISTED = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Days:
    """From the first millisecond of the first day on, before that of the day after the last (UTC)."""

    start: int
    end: int

    @property
    def all(self) -> range:
        return range(self.start, self.end, DAY_MS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """`failures` are calls that ended in an error; `unpriced` those whose cost nobody knows, which `cost_usd` lacks;
    `estimated` those whose tokens were counted here."""

    calls: int = 0
    failures: int = 0
    cancelled: int = 0
    retries: int = 0
    tool_calls: int = 0
    estimated: int = 0
    unpriced: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: float = 0.0

    def plus(self, other: Any) -> "Totals":
        """With what `other`, which has the same attributes, came to."""
        return replace(self, **{one: getattr(self, one) + getattr(other, one) for one in _TOTALS})


_TOTALS = tuple(one.name for one in fields(Totals))


@dataclass(frozen=True, kw_only=True, slots=True)
class Percentiles:
    """In ms, at most 2.5 % off, of calls that went well; None where there were none."""

    p50: float | None = None
    p95: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFigures:
    """A model's calls. `arms`: the same by the sides of the switched features."""

    provider: str
    model: str
    totals: Totals
    first_token_ms: Percentiles
    duration_ms: Percentiles
    arms: "tuple[tuple[str, ModelFigures], ...]" = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """A tenant's calls in some days; `days` has each of them, in order."""

    totals: Totals
    days: tuple[tuple[str, Totals], ...]
    models: tuple[ModelFigures, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """What one chat or one session took; `name` is empty where it was deleted since."""

    id: str
    name: str
    totals: Totals


@dataclass(frozen=True, kw_only=True, slots=True)
class Activity:
    """Per day: sessions begun, people who asked, tokens a second, tokens, questions, and answers that were liked."""

    day: str
    sessions: int = 0
    users: int = 0
    tokens_per_s: float = 0.0
    tokens: int = 0
    questions: int = 0
    liked: int = 0


@dataclass(slots=True)
class _Sum:
    """What is being added up for one model or arm."""

    totals: Totals = field(default_factory=Totals)
    first: dict[int, int] = field(default_factory=dict)
    whole: dict[int, int] = field(default_factory=dict)

    def add(self, row: UsageDay) -> None:
        self.totals = self.totals.plus(row)
        add_spread(self.first, row.first_tokens)
        add_spread(self.whole, row.durations)

    def figures(self, provider: str, model: str, arms: "tuple[tuple[str, ModelFigures], ...]" = ()) -> ModelFigures:
        return ModelFigures(
            provider=provider,
            model=model,
            totals=self.totals,
            first_token_ms=Percentiles(p50=percentile(self.first, 0.5), p95=percentile(self.first, 0.95)),
            duration_ms=Percentiles(p50=percentile(self.whole, 0.5), p95=percentile(self.whole, 0.95)),
            arms=arms,
        )


class UsageStats:
    """Reads only."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    def days(self, from_date: str = "", to_date: str = "") -> Days:
        """The days from `from_date` to `to_date`, both of them included, as `2026-11-21`; a time after it is left out.

        Without `to_date` up to today (UTC), without `from_date` the week up to the end.

        Raises:
            InvalidInput: no date, an end before the start, or more than `LONGEST_DAYS` days.
        """
        last = _day(to_date, "to_date") if to_date else day_of(now_ms(self._clock))
        first = _day(from_date, "from_date") if from_date else last - (DEFAULT_DAYS - 1) * DAY_MS
        if first > last:
            raise InvalidInput(
                f"The days end ({day_name(last)}) before they begin ({day_name(first)}).", field="to_date"
            )
        if last - first >= LONGEST_DAYS * DAY_MS:
            raise InvalidInput(f"Ask for at most {LONGEST_DAYS} days at once.", field="from_date")
        return Days(start=first, end=last + DAY_MS)

    async def figures(self, principal: Principal, days: Days) -> Figures:
        """Totals, days and models of the principal's tenant; models by name."""
        return await self._db.run(lambda: _figures(_rows(principal, days), days))

    async def spent(
        self, principal: Principal, days: Days, by: Literal["chat", "session"], *, chat_id: str = "", limit: int = 100
    ) -> list[Spent]:
        """The chats or sessions that took most, dearest first, then by tokens.

        Args:
            chat_id: Only of this chat; empty: of all.
            limit: Most that are listed, 1 to `MOST_LISTED`.
        Raises:
            InvalidInput: `limit` does not fit.
        """
        if not 1 <= limit <= MOST_LISTED:
            raise InvalidInput(f"limit must be 1 to {MOST_LISTED}.", field="limit")
        column, table = (Usage.dialog_id, Dialog) if by == "chat" else (Usage.conversation_id, Conversation)

        def read() -> list[Spent]:
            own = _own_calls(principal, days) & column.is_null(False)
            if chat_id:
                own &= Usage.dialog_id == chat_id
            found = list(_dearest(column, own, limit))
            names = _names(table, principal, [spender for spender, _ in found])
            return [Spent(id=one, name=names.get(one, ""), totals=totals) for one, totals in found]

        return await self._db.run(read)

    async def activity(self, principal: Principal, days: Days) -> list[Activity]:
        """What went on in each of the days, in order; days without anything have zeros."""
        return await self._db.run(lambda: _activity(principal, days))


def _day(text: str, name: str) -> int:
    try:
        date = datetime.date.fromisoformat(text.strip()[:10])
    except ValueError as error:
        raise InvalidInput(f"{name} must be a date such as 2026-11-21, got {text[:40]!r}.", field=name) from error
    return (date - datetime.date(1970, 1, 1)).days * DAY_MS


def _rows(principal: Principal, days: Days) -> Iterable[UsageDay]:
    own = (UsageDay.tenant_id == principal.tenant_id) & (UsageDay.day >= days.start) & (UsageDay.day < days.end)
    return UsageDay.select().where(own).iterator()


def _figures(rows: Iterable[UsageDay], days: Days) -> Figures:
    by_day = {day: Totals() for day in days.all}
    models: dict[tuple[str, str], _Sum] = {}
    arms: dict[tuple[str, str], dict[str, _Sum]] = {}
    whole = Totals()
    for row in rows:
        by_day[row.day] = by_day[row.day].plus(row)
        whole = whole.plus(row)
        key = (row.provider, row.model)
        models.setdefault(key, _Sum()).add(row)
        arms.setdefault(key, {}).setdefault(row.arm, _Sum()).add(row)
    return Figures(
        totals=whole,
        days=tuple((day_name(day), totals) for day, totals in by_day.items()),
        models=tuple(
            models[key].figures(*key, tuple((arm, one.figures(*key)) for arm, one in sorted(arms[key].items())))
            for key in sorted(models)
        ),
    )


def _own_calls(principal: Principal, days: Days) -> Any:
    return (Usage.tenant_id == principal.tenant_id) & (Usage.create_time >= days.start) & (Usage.create_time < days.end)


def _when(condition: Any) -> Any:
    return fn.SUM(peewee.Case(None, ((condition, 1),), 0))


_SUMS: dict[str, Any] = {
    "calls": fn.COUNT(Usage.id),
    "failures": _when(Usage.outcome.not_in(("ok", "cut_off", "cancelled"))),
    "cancelled": _when(Usage.outcome == "cancelled"),
    "retries": fn.SUM(Usage.attempts - 1),
    "tool_calls": fn.SUM(Usage.tool_calls),
    "estimated": _when(Usage.estimated == True),  # noqa: E712
    "unpriced": _when(Usage.cost_usd.is_null()),
    "prompt_tokens": fn.SUM(Usage.prompt_tokens),
    "completion_tokens": fn.SUM(Usage.completion_tokens),
    "cached_tokens": fn.SUM(Usage.cached_tokens),
    "reasoning_tokens": fn.SUM(Usage.reasoning_tokens),
    "cost_usd": fn.COALESCE(fn.SUM(Usage.cost_usd), 0.0),
}


def _dearest(column: Any, own: Any, limit: int) -> Iterator[tuple[str, Totals]]:
    sums = [expression.alias(name) for name, expression in _SUMS.items()]
    query = Usage.select(column.alias("spender"), *sums).where(own).group_by(column)
    rows: Iterable[Any] = (
        query.order_by(_SUMS["cost_usd"].desc(), _SUMS["prompt_tokens"].desc(), column).limit(limit).dicts()
    )
    for row in rows:
        yield row["spender"], _totals(row)


def _totals(row: dict[str, Any]) -> Totals:
    """Sums come as decimals from some engines."""
    numbers: dict[str, Any] = {name: int(row[name]) for name in _TOTALS if name != "cost_usd"}
    return Totals(**numbers, cost_usd=float(row["cost_usd"]))


def _names(table: Any, principal: Principal, ids: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for group in in_groups(ids):
        own = table.id.in_(group) & (table.tenant_id == principal.tenant_id)
        found.update(table.select(table.id, table.name).where(own).tuples())
    return found


def _activity(principal: Principal, days: Days) -> list[Activity]:
    """One range after the other: engines share no way to make a day of a time."""
    well = _speeds(principal, days)
    return [_activity_of(principal, day, *well.get(day, (0, 0.0))) for day in days.all]


def _activity_of(principal: Principal, day: int, tokens: int, speed: float) -> Activity:
    end = day + DAY_MS
    own = Conversation.tenant_id == principal.tenant_id
    begun = own & (Conversation.create_time >= day) & (Conversation.create_time < end)
    sessions, users = (
        Conversation.select(fn.COUNT(Conversation.id), fn.COUNT(Conversation.user_id.distinct()))
        .where(begun)
        .scalar(as_tuple=True)
    )
    # A session is as old as its first message, and changes with each: the others need not be looked at.
    open_then = own & (Conversation.create_time < end) & (Conversation.update_time >= day)
    said = (
        Message.select(_when(Message.role == "user"), _when(Message.thumbup == True))  # noqa: E712
        .join(Conversation, on=(Message.conversation_id == Conversation.id))
        .where(open_then & (Message.created_at >= day / 1000) & (Message.created_at < end / 1000))
    )
    questions, liked = said.scalar(as_tuple=True)
    return Activity(
        day=day_name(day),
        sessions=sessions,
        users=users,
        tokens_per_s=speed,
        tokens=tokens,
        questions=int(questions or 0),
        liked=int(liked or 0),
    )


def _speeds(principal: Principal, days: Days) -> dict[int, tuple[int, float]]:
    """Per day: tokens in and out, and tokens out for each second of the calls that went well."""
    tokens: dict[int, int] = {}
    said: dict[int, int] = {}
    taken_ms: dict[int, float] = {}
    for row in _rows(principal, days):
        tokens[row.day] = tokens.get(row.day, 0) + row.prompt_tokens + row.completion_tokens
        if row.completion_tokens:
            said[row.day] = said.get(row.day, 0) + row.completion_tokens
            spent = sum(middle_of(int(step)) * count for step, count in row.durations.items())
            taken_ms[row.day] = taken_ms.get(row.day, 0.0) + spent
    return {
        day: (count, round(said.get(day, 0) / taken_ms[day] * 1000, 1) if taken_ms.get(day) else 0.0)
        for day, count in tokens.items()
    }
