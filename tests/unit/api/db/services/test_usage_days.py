import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from api.db.services.records import ModelCall
from api.db.services.usage_days import DAY_MS, day_name, day_of, percentile, step_of
from api.db.services.usage_service import UsageService
from api.db.tables import Usage, UsageDay
from tests.unit.api.db.services.world import World

CALL = ModelCall(
    tenant_id="ann",
    model="large@Somebody",
    purpose="answer",
    prompt_tokens=100,
    completion_tokens=20,
    estimated=False,
    duration_ms=1000.0,
    first_token_ms=200.0,
    cost_usd=0.25,
)


async def record(world: World, calls: Sequence[ModelCall]) -> None:
    usage = UsageService(world.db, world.clock)
    await asyncio.gather(*(usage.record(call) for call in calls))


async def days(world: World) -> list[UsageDay]:
    return await world.db.run(lambda: list(UsageDay.select().order_by(UsageDay.day, UsageDay.model, UsageDay.key_id)))


async def test_a_day_counts_its_calls(world: World) -> None:
    await record(
        world,
        [
            CALL,
            replace(CALL, attempts=3, tool_calls=2, cached_tokens=50, reasoning_tokens=5, estimated=True),
            replace(CALL, outcome="model_timeout", cost_usd=None, first_token_ms=None),
        ],
    )
    await record(world, [replace(CALL, outcome="cancelled", cost_usd=0.0)])
    (day,) = await days(world)
    assert (day.tenant_id, day.provider, day.model, day_name(day.day)) == (
        "ann",
        "Somebody",
        "large@Somebody",
        "2026-01-01",
    )
    assert (day.calls, day.failures, day.cancelled, day.retries, day.tool_calls) == (4, 1, 1, 2, 2)
    assert (day.prompt_tokens, day.completion_tokens, day.cached_tokens, day.reasoning_tokens) == (400, 80, 50, 5)
    assert (day.estimated, day.unpriced, day.cost_usd, day.billed_tokens) == (1, 1, 0.5, 360)
    # Calls that failed or were cancelled say nothing of how long calls take.
    assert day.durations == {str(step_of(1000)): 2}
    assert day.first_tokens == {str(step_of(200)): 2}


async def test_models_keys_arms_tenants_and_days_are_counted_apart(world: World) -> None:
    await record(
        world,
        [
            CALL,
            replace(CALL, model="small@Somebody"),
            replace(CALL, key_id="k"),
            replace(CALL, arm="fallback=on"),
            replace(CALL, tenant_id="bob"),
        ],
    )
    world.clock.pass_s(86400)
    await record(world, [CALL])
    found = await days(world)
    assert [day.calls for day in found] == [1] * 6
    assert {day.day for day in found} == {day_of(found[0].day), found[0].day + DAY_MS}


async def test_the_days_come_to_what_the_rows_come_to(world: World) -> None:
    """Writers at once, in groups that cut across models."""
    rng = random.Random(5)
    calls = [
        replace(
            CALL,
            model=rng.choice(["a@P", "b@P"]),
            key_id=rng.choice(["", "k"]),
            duration_ms=rng.lognormvariate(7, 1),
            cost_usd=rng.random(),
        )
        for _ in range(300)
    ]
    await asyncio.gather(*(record(world, calls[start::3]) for start in range(3)))
    found = await days(world)
    rows = await world.db.run(lambda: list(Usage.select()))
    assert sum(day.calls for day in found) == len(rows) == 300
    assert sum(day.cost_usd for day in found) == pytest.approx(sum(row.cost_usd for row in rows))
    assert sum(sum(day.durations.values()) for day in found) == 300


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_percentiles_are_at_most_two_and_a_half_percent_off(share: float) -> None:
    rng = random.Random(7)
    taken = sorted(rng.lognormvariate(6, 2) + 1 for _ in range(10_000))
    steps: dict[int, int] = {}
    for ms in taken:
        steps[step_of(ms)] = steps.get(step_of(ms), 0) + 1
    exact = taken[int(len(taken) * share) - 1]
    found = percentile(steps, share)
    assert found == pytest.approx(exact, rel=0.0255)
    assert len(steps) < 400


def test_percentiles_of_few() -> None:
    assert percentile({}, 0.5) is None
    assert percentile({0: 3}, 0.95) == 0.5
    assert percentile({step_of(100): 1}, 0.5) == pytest.approx(100, rel=0.025)
    assert percentile({step_of(10): 1, step_of(1000): 1}, 0.5) == pytest.approx(10, rel=0.025)
    assert percentile({step_of(10): 1, step_of(1000): 1}, 0.95) == pytest.approx(1000, rel=0.025)
    assert step_of(1e300) == 400
