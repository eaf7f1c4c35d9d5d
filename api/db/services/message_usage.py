"""What the model calls of one message took. For use inside `Database.run`."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from peewee import fn

from api.db.tables import Usage

_SUMS = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "tool_calls", "cost_usd")


@dataclass(frozen=True, kw_only=True, slots=True)
class Calls:
    """The calls of one purpose, or all together. `cost_usd` lacks the `unpriced` ones, whose cost nobody knows;
    `estimated` are those whose tokens were counted here."""

    purpose: str = ""
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    tool_calls: int = 0
    cost_usd: float = 0.0
    estimated: int = 0
    unpriced: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class MessageUsage:
    """`by_purpose` is in the order of the names: answer, embed, refine, summary, title and so on."""

    total: Calls
    by_purpose: tuple[Calls, ...]


def usage_of(tenant_id: str, session_id: str, message_id: str) -> MessageUsage:
    """What the calls for a message took. A call's row is written a moment after its end."""
    own = (Usage.message_id == message_id) & (Usage.conversation_id == session_id) & (Usage.tenant_id == tenant_id)
    priced = fn.COUNT(Usage.cost_usd)
    sums = [fn.COALESCE(fn.SUM(getattr(Usage, name)), 0).alias(name) for name in _SUMS]
    counts = [fn.COUNT(Usage.id).alias("calls"), fn.SUM(Usage.estimated).alias("estimated"), priced.alias("priced")]
    query = Usage.select(Usage.purpose, *sums, *counts).where(own).group_by(Usage.purpose).order_by(Usage.purpose)
    rows: Iterable[Any] = query.dicts()
    found = tuple(_calls(row) for row in rows)
    return MessageUsage(total=_together(found), by_purpose=found)


def _calls(row: dict[str, Any]) -> Calls:
    """Sums come as decimals from some engines."""
    numbers = {name: int(row[name]) for name in _SUMS if name != "cost_usd"}
    calls = int(row["calls"])
    return Calls(
        purpose=row["purpose"],
        calls=calls,
        cost_usd=float(row["cost_usd"]),
        estimated=int(row["estimated"] or 0),
        unpriced=calls - int(row["priced"]),
        **numbers,
    )


def _together(found: tuple[Calls, ...]) -> Calls:
    names = (*_SUMS, "calls", "estimated", "unpriced")
    return Calls(**{name: sum(getattr(one, name) for one in found) for name in names})
