"""Daily totals of model calls, kept up in the transaction that writes their rows.

Durations are counted in steps of 5 %, so that percentiles of any number of calls take a few hundred counters a
model and day, and are at most 2.5 % off. For use inside `Database.write` and `Database.run`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from api.db.tables import UsageDay
from rag.core.clock import from_ms

DAY_MS = 86_400_000
WENT_WELL = frozenset(("ok", "cut_off"))
_GROWTH = math.log(1.05)
_LAST_STEP = 400
"""Of 1.05 ** 400 ms, ten years."""

_Key = tuple[str, int, str, str, str]
_SUMS = (
    "calls",
    "failures",
    "cancelled",
    "retries",
    "tool_calls",
    "estimated",
    "unpriced",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "billed_tokens",
    "cost_usd",
)
_SPREADS = {"durations": "duration_ms", "first_tokens": "first_token_ms"}


def day_of(ms: int) -> int:
    """The first millisecond of the day (UTC) of `ms`."""
    return ms - ms % DAY_MS


def day_name(day: int) -> str:
    """`2026-11-21`."""
    return from_ms(day).date().isoformat()


def step_of(ms: float) -> int:
    """The step of a duration in ms: 0 below 1 ms, then one for each 5 % more."""
    return 0 if ms < 1 else min(1 + int(math.log(ms) / _GROWTH), _LAST_STEP)


def middle_of(step: int) -> float:
    """The duration in ms in the middle of a step."""
    return math.exp((step - 0.5) * _GROWTH) if step else 0.5


def percentile(steps: Mapping[int, int], share: float) -> float | None:
    """The duration in ms that `share` (0 to 1) of those counted in `steps` stay under, at most 2.5 % off; None of
    none."""
    total = sum(steps.values())
    wanted = max(math.ceil(total * share), 1)
    for step in sorted(steps):
        wanted -= steps[step]
        if total and wanted <= 0:
            return round(middle_of(step), 1)
    return None


def add_spread(into: dict[int, int], counted: Mapping[Any, int]) -> None:
    """Add one day's counters, whose steps are text once they have been JSON."""
    for step, count in counted.items():
        into[int(step)] = into.get(int(step), 0) + count


def add_to_days(rows: Sequence[Mapping[str, Any]]) -> None:
    """Count `rows`, columns of `Usage`, in the totals of their days."""
    groups: dict[_Key, list[Mapping[str, Any]]] = {}
    for row in rows:
        key = (row["tenant_id"], day_of(row["create_time"]), row["model"], row["key_id"], row["arm"])
        groups.setdefault(key, []).append(row)
    # In order, so that writers of several processes wait for each other in a line.
    for key in sorted(groups):
        _add(key, groups[key])


def _add(key: _Key, rows: Sequence[Mapping[str, Any]]) -> None:
    tenant_id, day, model, key_id, arm = key
    kept = UsageDay.get_or_none(
        (UsageDay.tenant_id == tenant_id)
        & (UsageDay.day == day)
        & (UsageDay.model == model)
        & (UsageDay.key_id == key_id)
        & (UsageDay.arm == arm)
    )
    sums = _sums(rows)
    if kept is None:
        spreads = {column: _spread({}, (row[taken] for row in _well(rows))) for column, taken in _SPREADS.items()}
        UsageDay.create(
            tenant_id=tenant_id,
            day=day,
            model=model,
            key_id=key_id,
            arm=arm,
            provider=rows[0]["provider"],
            **sums,
            **spreads,
        )
        return
    for column, taken in _SPREADS.items():
        setattr(kept, column, _spread(getattr(kept, column), (row[taken] for row in _well(rows))))
    for column in _SUMS:
        setattr(kept, column, getattr(kept, column) + sums[column])
    kept.save()


def _sums(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = dict.fromkeys(_SUMS, 0)
    for row in rows:
        tokens = row["prompt_tokens"] + row["completion_tokens"]
        found["calls"] += 1
        found["failures"] += row["outcome"] not in WENT_WELL and row["outcome"] != "cancelled"
        found["cancelled"] += row["outcome"] == "cancelled"
        found["retries"] += max(row["attempts"] - 1, 0)
        found["estimated"] += bool(row["estimated"])
        found["unpriced"] += row["cost_usd"] is None
        found["billed_tokens"] += 0 if row["cost_usd"] == 0 else tokens
        found["cost_usd"] += row["cost_usd"] or 0.0
        for column in ("tool_calls", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens"):
            found[column] += row[column]
    return found


def _well(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["outcome"] in WENT_WELL]


def _spread(counted: Mapping[str, int], durations: Iterable[float | None]) -> dict[str, int]:
    found = dict(counted)
    for ms in durations:
        if ms is not None:
            step = str(step_of(ms))
            found[step] = found.get(step, 0) + 1
    return found
