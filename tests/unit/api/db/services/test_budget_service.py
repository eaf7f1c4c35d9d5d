import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api.db.services.budget_service import BudgetService
from api.db.services.records import ModelCall
from api.db.services.usage_ledger import CallContext
from api.db.services.usage_service import UsageService
from rag.core.errors import BudgetSpent, LimitExceeded, StoreUnavailable
from rag.core.settings import BudgetSettings, PriceSettings
from rag.llm.prices import Prices
from tests.unit.api.db.services.world import World

MODEL = "large@Somebody"
ANN = CallContext(tenant_id="ann", model=MODEL)
# 1000 tokens at 100 $ a million.
CALL = ModelCall(
    tenant_id="ann",
    model=MODEL,
    purpose="answer",
    prompt_tokens=1000,
    completion_tokens=0,
    estimated=False,
    duration_ms=10,
)
CALL_USD = 0.1


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows do not wait for each other."""
    monkeypatch.setattr("api.db.services.usage_service.GATHER_S", 0.0)


class Process:
    """What one process has: a budget, and rows that tell it of calls."""

    def __init__(self, world: World, **limits: Any) -> None:
        given = PriceSettings(usd_per_million={MODEL: {"input": 100}})
        prices = Prices(given, map_path=Path("/nowhere"))
        settings = BudgetSettings(**{"reread_s": 0.0} | limits)
        self.usage = UsageService(world.db, world.clock, prices=prices)
        self.budget = BudgetService(world.db, world.clock, settings, prices=prices, longest_call_s=600)
        self.usage.tell(self.budget)

    async def call(self, context: CallContext = ANN, **taken: Any) -> None:
        """Ask, call, record."""
        await self.budget.check(context)
        await self.usage.record(replace(CALL, tenant_id=context.tenant_id, key_id=context.key_id, **taken))

    async def calls_until_refused(self, context: CallContext = ANN, **taken: Any) -> tuple[int, BudgetSpent]:
        for count in range(1000):
            try:
                await self.call(context, **taken)
            except BudgetSpent as error:
                return count, error
        raise AssertionError("nothing was refused")


async def test_a_day_in_dollars_ends_before_the_call_that_would_go_on(world: World) -> None:
    process = Process(world, tenant_usd=0.25)
    world.clock.pass_s(9000)
    count, error = await process.calls_until_refused()
    assert count == 3  # 0.30 $: the third began below the limit.
    assert error.message == (
        "The day's model budget of this account is spent ($0.30 of $0.25). Wait 21 h 30 min until the next day (UTC) "
        "begins, or raise PARLEY_BUDGET__TENANT_USD."
    )
    assert isinstance(error, LimitExceeded)
    assert (error.facts["scope"], error.facts["unit"]) == ("tenant", "usd")
    assert 77_390 < error.facts["retry_after_s"] <= 77_401


async def test_a_day_in_tokens(world: World) -> None:
    count, error = await Process(world, tenant_tokens=5000, call_tokens=1).calls_until_refused(model="unpriced@X")
    assert count == 5
    assert "5,000 of 5,000 tokens" in error.message
    assert error.facts["unit"] == "tokens"


async def test_each_key_and_each_tenant_has_a_budget_of_its_own(world: World) -> None:
    process = Process(world, key_usd=0.15, tenant_usd=0.45)
    first, second = replace(ANN, key_id="k1"), replace(ANN, key_id="k2")
    assert (await process.calls_until_refused(first))[0] == 2
    count, error = await process.calls_until_refused(second)
    assert count == 2
    assert "of this API key is spent ($0.20 of $0.15)" in error.message
    # A login has no key; the account's budget holds for it, and counts all keys.
    count, error = await process.calls_until_refused(ANN)
    assert (count, error.facts["scope"]) == (1, "tenant")
    assert (await process.calls_until_refused(replace(ANN, tenant_id="bob")))[0] == 5


async def test_the_next_day_begins_anew(world: World) -> None:
    process = Process(world, tenant_usd=0.05)
    assert (await process.calls_until_refused())[0] == 1
    world.clock.pass_s(86_400)
    assert (await process.calls_until_refused())[0] == 1


async def test_a_restart_and_other_processes_change_nothing(world: World) -> None:
    first, second = Process(world, tenant_usd=0.55), Process(world, tenant_usd=0.55)
    for _ in range(3):
        await first.call()
        await second.call()
    with pytest.raises(BudgetSpent):
        await first.call()
    with pytest.raises(BudgetSpent):
        await second.call()
    with pytest.raises(BudgetSpent):
        await Process(world, tenant_usd=0.55).call()


async def test_what_others_spend_is_seen_at_the_next_read(world: World) -> None:
    first, second = Process(world, tenant_usd=0.15, reread_s=5), Process(world, tenant_usd=0.15, reread_s=5)
    await first.call()
    await second.call()
    await first.call(model="llama@Ollama")
    world.clock.pass_s(6)
    with pytest.raises(BudgetSpent):
        await first.call()


async def test_own_calls_count_at_once_and_once(world: World) -> None:
    """Between two reads nothing is forgotten, and after a read nothing is counted twice."""
    process = Process(world, tenant_usd=1.05, reread_s=5)
    for _ in range(10):
        await process.call()
        world.clock.pass_s(1)
    await process.call()
    world.clock.pass_s(6)
    with pytest.raises(BudgetSpent, match=r"\$1\.10 of \$1\.05"):
        await process.call()


@pytest.mark.parametrize("set_aside", [0.1, 0.05])
async def test_calls_at_once_cannot_run_over_the_budget_without_end(world: World, set_aside: float) -> None:
    process = Process(world, tenant_usd=1.0, call_usd=set_aside)
    release = asyncio.Event()
    begun = 0

    async def one() -> None:
        nonlocal begun
        await process.budget.check(ANN)
        begun += 1
        await release.wait()
        await process.usage.record(CALL)

    tasks = [asyncio.create_task(one()) for _ in range(200)]
    while sum(task.done() for task in tasks) + begun < 200:
        await asyncio.sleep(0.01)
    refused = [task.exception() for task in tasks if task.done()]
    assert begun == round(1.0 / set_aside)
    assert len(refused) == 200 - begun
    error = refused[0]
    assert isinstance(error, BudgetSpent)
    assert error.message == (
        "What is left of the day's model budget of this account (spent: $0.00 of $1.00) is set aside for calls under "
        "way. Ask again when they have ended, or raise PARLEY_BUDGET__TENANT_USD."
    )
    assert error.facts["retry_after_s"] == 1
    release.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    # What the day came to is over the limit only by what these calls cost beyond their parts.
    with pytest.raises(BudgetSpent, match=rf"\${begun * CALL_USD:.2f} of \$1\.00"):
        await process.budget.check(ANN)


async def test_what_is_set_aside_follows_what_calls_cost(world: World) -> None:
    process = Process(world, tenant_usd=1.0, call_usd=0.0001)
    for _ in range(5):
        await process.call()
    for _ in range(5):
        await process.budget.check(ANN)
    with pytest.raises(BudgetSpent, match="under way"):
        await process.budget.check(ANN)


async def test_what_is_set_aside_comes_back(world: World) -> None:
    process = Process(world, tenant_usd=1.0, call_usd=0.6)
    for outcome in ("ok", "model_error", "cancelled"):
        await process.call(outcome=outcome, prompt_tokens=0)
        await process.budget.check(ANN)
        await process.usage.record(replace(CALL, outcome=outcome, prompt_tokens=0))
    await process.budget.check(ANN)
    await process.budget.check(ANN)
    with pytest.raises(BudgetSpent):
        await process.budget.check(ANN)
    # A call that is never heard of again holds nothing for ever.
    world.clock.pass_s(601)
    await process.budget.check(ANN)


async def test_models_of_ones_own_are_never_refused_and_count_nothing(world: World) -> None:
    process = Process(world, tenant_usd=0.05, tenant_tokens=2500)
    for _ in range(10):
        await process.call(replace(ANN, model="minilm@Builtin"), model="minilm@Builtin")
    assert (await process.calls_until_refused())[0] == 1
    await process.call(replace(ANN, model="minilm@Builtin"), model="minilm@Builtin")


async def test_without_a_limit_nothing_is_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(world)
    monkeypatch.setattr(world.db, "run", None)
    assert not process.budget.is_set
    await process.budget.check(replace(ANN, key_id="k"))
    only_keys = Process(world, key_usd=1.0)
    assert only_keys.budget.is_set
    await only_keys.budget.check(ANN)


async def test_what_waits_to_be_written_is_not_forgotten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(world, tenant_usd=0.15)

    def away(fn: object, **options: object) -> None:
        raise StoreUnavailable("The disk is full.")

    monkeypatch.setattr("api.db.services.budget_service._MOST_REMEMBERED", 1)
    monkeypatch.setattr(world.db, "write_blocking", away)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await process.call()
        world.clock.pass_s(60)
        await process.budget.check(replace(ANN, tenant_id="bob"))
    with pytest.raises(BudgetSpent, match=r"\$0\.20 of \$0\.15"):
        await process.call()
