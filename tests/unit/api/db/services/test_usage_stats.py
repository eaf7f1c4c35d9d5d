import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from api.db.services.records import ModelCall
from api.db.services.usage_service import UsageService
from api.db.services.usage_stats import Activity, Spent, Totals, UsageStats
from api.db.tables import Conversation, Dialog, Message
from rag.core.clock import now_ms
from rag.core.errors import InvalidInput
from tests.unit.api.db.services.test_usage_days import CALL
from tests.unit.api.db.services.world import ANN, BOB, World


@pytest.fixture
def stats(world: World) -> UsageStats:
    return UsageStats(world.db, world.clock)


async def record(world: World, calls: Sequence[ModelCall]) -> None:
    usage = UsageService(world.db, world.clock)
    await asyncio.gather(*(usage.record(call) for call in calls))


async def test_figures_are_of_the_days_and_of_the_own_tenant(world: World, stats: UsageStats) -> None:
    await record(world, [CALL, replace(CALL, tenant_id="bob", cost_usd=9.0)])
    world.clock.pass_s(2 * 86400)
    await record(world, [replace(CALL, attempts=2, tool_calls=3), replace(CALL, outcome="model_error", cost_usd=None)])
    figures = await stats.figures(ANN, stats.days("2026-01-01", "2026-01-03"))
    assert [(day, totals.calls) for day, totals in figures.days] == [
        ("2026-01-01", 1),
        ("2026-01-02", 0),
        ("2026-01-03", 2),
    ]
    assert figures.totals == Totals(
        calls=3,
        failures=1,
        retries=1,
        tool_calls=3,
        unpriced=1,
        prompt_tokens=300,
        completion_tokens=60,
        cost_usd=0.5,
    )
    assert (await stats.figures(ANN, stats.days("2026-01-02", "2026-01-02"))).totals == Totals()
    assert (await stats.figures(BOB, stats.days("2026-01-01", "2026-01-03"))).totals.cost_usd == 9.0


async def test_figures_of_models_have_percentiles_and_arms(world: World, stats: UsageStats) -> None:
    await record(
        world,
        [
            *(replace(CALL, duration_ms=float(ms), first_token_ms=ms / 10) for ms in range(100, 10_100, 100)),
            replace(CALL, model="small@Other", arm="fallback=on", first_token_ms=None),
            replace(CALL, model="small@Other", arm="fallback=off", first_token_ms=None, outcome="model_error"),
        ],
    )
    small, large = (await stats.figures(ANN, stats.days())).models
    assert (large.provider, large.model, large.totals.calls) == ("Somebody", "large@Somebody", 100)
    assert large.duration_ms.p50 == pytest.approx(5000, rel=0.026)
    assert large.duration_ms.p95 == pytest.approx(9500, rel=0.026)
    assert large.first_token_ms.p50 == pytest.approx(500, rel=0.026)
    assert large.first_token_ms.p95 == pytest.approx(950, rel=0.026)
    assert (small.first_token_ms.p50, small.first_token_ms.p95) == (None, None)
    arms = [(arm, one.totals.failures, one.duration_ms.p50) for arm, one in small.arms]
    assert arms == [("fallback=off", 1, None), ("fallback=on", 0, pytest.approx(1000, rel=0.026))]


async def test_the_dearest_chats_and_sessions_come_first(world: World, stats: UsageStats) -> None:
    now = now_ms(world.clock)
    await world.db.write(lambda: _chats(now))
    of_c1 = replace(CALL, dialog_id="c1", conversation_id="s1")
    await record(
        world,
        [
            of_c1,
            replace(of_c1, conversation_id="s2", cost_usd=2.0, outcome="model_error"),
            replace(CALL, dialog_id="c2", conversation_id="s3", cost_usd=None),
            replace(of_c1, conversation_id="gone", cost_usd=0.01),
            replace(of_c1, tenant_id="bob", conversation_id="s9"),
            replace(CALL, purpose="embed"),
        ],
    )
    days = stats.days()
    chats = await stats.spent(ANN, days, "chat")
    assert [(one.id, one.name, one.totals.calls) for one in chats] == [("c1", "One", 3), ("c2", "", 1)]
    assert chats[0].totals.cost_usd == pytest.approx(2.26)
    assert (chats[0].totals.failures, chats[1].totals.unpriced) == (1, 1)
    sessions = await stats.spent(ANN, days, "session", chat_id="c1")
    assert [(one.id, one.name) for one in sessions] == [("s2", "Second"), ("s1", "First"), ("gone", "")]
    assert sessions[1] == Spent(
        id="s1", name="First", totals=Totals(calls=1, prompt_tokens=100, completion_tokens=20, cost_usd=0.25)
    )
    assert [one.id for one in await stats.spent(ANN, days, "session", limit=1)] == ["s2"]
    assert [one.id for one in await stats.spent(BOB, days, "session")] == ["s9"]
    assert await stats.spent(BOB, days, "session", chat_id="c2") == []


def _chats(now: int) -> None:
    common: dict[str, Any] = {"create_time": now, "update_time": now}
    for one, tenant, name in (("c1", "ann", "One"), ("c2", "bob", "Not Ann's")):
        Dialog.create(
            id=one, tenant_id=tenant, name=name, llm_id="", llm_setting={}, prompt_config={}, meta_data_filter={},
            dataset_ids=[], **common,
        )  # fmt: skip
    for one, name in (("s1", "First"), ("s2", "Second")):
        Conversation.create(id=one, dialog_id="c1", tenant_id="ann", name=name, user_id=one, **common)


async def test_activity_counts_what_people_did(world: World, stats: UsageStats) -> None:
    now = now_ms(world.clock)
    await world.db.write(lambda: _talk(now))
    await record(world, [CALL, replace(CALL, purpose="embed", completion_tokens=0)])
    quiet, day = await stats.activity(ANN, stats.days("2025-12-31", "2026-01-01"))
    assert quiet == Activity(day="2025-12-31")
    assert (day.day, day.sessions, day.users, day.questions, day.liked, day.tokens) == ("2026-01-01", 2, 2, 2, 1, 220)
    assert day.tokens_per_s > 0
    assert (await stats.activity(BOB, stats.days("2026-01-01", "2026-01-01")))[0] == Activity(day="2026-01-01")


def _talk(now: int) -> None:
    _chats(now)
    for turn, (role, liked) in enumerate([("assistant", None), ("user", None), ("assistant", True), ("user", None)]):
        Message.create(conversation_id="s1", turn=turn, role=role, created_at=now / 1000, thumbup=liked)


def test_days_are_whole_and_in_utc(stats: UsageStats) -> None:
    week = stats.days()
    assert [len(week.all), len(stats.days("2025-01-01", "2026-01-01").all)] == [7, 366]
    assert stats.days("2026-01-01 10:00:00", "2026-01-01").all[0] == 1_767_225_600_000


@pytest.mark.parametrize(
    ("start", "end", "told"),
    [
        ("yesterday", "", "from_date must be a date"),
        ("", "2026-13-01", "to_date must be a date"),
        ("2026-01-02", "2026-01-01", "end .* before they begin"),
        ("2020-01-01", "2026-01-01", "at most 366 days"),
    ],
)
def test_days_that_cannot_be_meant_are_refused(stats: UsageStats, start: str, end: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        stats.days(start, end)


@pytest.mark.parametrize("limit", [0, 1001])
async def test_lists_are_bounded(stats: UsageStats, limit: int) -> None:
    with pytest.raises(InvalidInput, match="limit must be 1 to 1000"):
        await stats.spent(ANN, stats.days(), "chat", limit=limit)
