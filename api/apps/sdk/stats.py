"""What models were asked and what it cost: the contract's `/v1/api/stats`, and figures of our own.

`/v1/api/metrics...` take a login, `/api/v1/metrics...` an API key. Everything is the caller's own tenant's.
"""

from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, Field
from quart import Blueprint, Response, request

from api.apps.auth import api_key_required, login_required
from api.apps.context import services
from api.apps.envelope import json_result
from api.apps.openapi import describe
from api.db.services.usage_stats import DEFAULT_DAYS, LONGEST_DAYS, MOST_LISTED, Days, ModelFigures, Spent, Totals
from rag.core.errors import InvalidInput
from rag.core.types import Principal

bp = Blueprint("stats", __name__)


class DaysQuery(BaseModel):
    from_date: str = Field("", description=f"First day (UTC), `2026-11-21`; {DEFAULT_DAYS} days if left out.")
    to_date: str = Field("", description=f"Last day (UTC), today if left out; at most {LONGEST_DAYS} days.")


class SpentQuery(DaysQuery):
    limit: int = Field(100, ge=1, le=MOST_LISTED, description="Most that are listed.")
    chat_id: str = Field("", description="Only of this chat.")


@bp.get("/v1/api/stats")
@login_required
@describe(query=DaysQuery, tag="metrics")
async def stats(principal: Principal) -> Response:
    """What went on, per day: `pv` sessions begun, `uv` people who began them, `speed` tokens a second of replies,
    `tokens`, `round` questions asked, `thumb_up` answers that were liked; each a list of `[day, number]`."""
    found = await services().meters.stats.activity(principal, _days())
    columns = {
        "pv": "sessions",
        "uv": "users",
        "speed": "tokens_per_s",
        "tokens": "tokens",
        "round": "questions",
        "thumb_up": "liked",
    }
    return json_result({key: [[one.day, getattr(one, name)] for one in found] for key, name in columns.items()})


@bp.get("/v1/api/metrics")
@login_required
@describe(query=DaysQuery, tag="metrics")
async def metrics_by_login(principal: Principal) -> Response:
    """Totals, days and models, with percentiles and the sides of switched features."""
    return await _metrics(principal)


@bp.get("/api/v1/metrics")
@api_key_required
@describe(query=DaysQuery, tag="metrics")
async def metrics(principal: Principal) -> Response:
    """Totals, days and models, with percentiles and the sides of switched features."""
    return await _metrics(principal)


@bp.get("/v1/api/metrics/chats")
@login_required
@describe(query=SpentQuery, tag="metrics")
async def chats_by_login(principal: Principal) -> Response:
    """The chats that cost most."""
    return await _spent(principal, "chat")


@bp.get("/api/v1/metrics/chats")
@api_key_required
@describe(query=SpentQuery, tag="metrics")
async def chats(principal: Principal) -> Response:
    """The chats that cost most."""
    return await _spent(principal, "chat")


@bp.get("/v1/api/metrics/sessions")
@login_required
@describe(query=SpentQuery, tag="metrics")
async def sessions_by_login(principal: Principal) -> Response:
    """The sessions that cost most, of all chats or of one."""
    return await _spent(principal, "session")


@bp.get("/api/v1/metrics/sessions")
@api_key_required
@describe(query=SpentQuery, tag="metrics")
async def sessions(principal: Principal) -> Response:
    """The sessions that cost most, of all chats or of one."""
    return await _spent(principal, "session")


def _days() -> Days:
    return services().meters.stats.days(request.args.get("from_date", ""), request.args.get("to_date", ""))


async def _metrics(principal: Principal) -> Response:
    found = await services().meters.stats.figures(principal, _days())
    return json_result(
        {
            "totals": _totals(found.totals),
            "days": [{"day": day} | _totals(totals) for day, totals in found.days],
            "models": [
                _model(one) | {"arms": [{"arm": arm} | _model(side) for arm, side in one.arms]} for one in found.models
            ],
        }
    )


async def _spent(principal: Principal, by: Literal["chat", "session"]) -> Response:
    text = request.args.get("limit", "100")
    if not text.isascii() or not text.isdecimal() or len(text) > len(str(MOST_LISTED)):
        raise InvalidInput(f"limit must be 1 to {MOST_LISTED}.", field="limit")
    chat_id = request.args.get("chat_id", "")
    found = await services().meters.stats.spent(principal, _days(), by, chat_id=chat_id, limit=int(text))
    return json_result([_spender(one) for one in found])


def _spender(one: Spent) -> dict[str, Any]:
    return {"id": one.id, "name": one.name} | _totals(one.totals)


def _model(one: ModelFigures) -> dict[str, Any]:
    return (
        {"provider": one.provider, "model": one.model}
        | _totals(one.totals)
        | {"first_token_ms": asdict(one.first_token_ms), "duration_ms": asdict(one.duration_ms)}
    )


def _totals(totals: Totals) -> dict[str, Any]:
    return asdict(totals) | {"total_tokens": totals.prompt_tokens + totals.completion_tokens}
