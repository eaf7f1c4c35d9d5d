from api.db.services.message_usage import Calls, usage_of
from api.db.services.records import ModelCall
from api.db.services.usage_service import UsageService
from tests.unit.api.db.services.world import World


def call(purpose: str, *, tenant: str = "ann", session: str = "s", cost: float | None = 0.5) -> ModelCall:
    return ModelCall(
        tenant_id=tenant,
        model="m@P",
        purpose=purpose,
        prompt_tokens=10,
        completion_tokens=2,
        estimated=True,
        duration_ms=1.0,
        conversation_id=session,
        message_id="m",
        cached_tokens=4,
        cost_usd=cost,
    )


async def test_calls_of_a_message_add_up_by_purpose(world: World) -> None:
    usage = UsageService(world.db, world.clock)
    for one in (call("answer"), call("answer"), call("answer", cost=None), call("refine")):
        await usage.record(one)
    await usage.record(call("answer", tenant="bob"))
    await usage.record(call("answer", session="another"))
    found = await world.db.run(lambda: usage_of("ann", "s", "m"))
    answer, refine = found.by_purpose
    assert answer == Calls(
        purpose="answer",
        calls=3,
        prompt_tokens=30,
        completion_tokens=6,
        cached_tokens=12,
        cost_usd=1.0,
        estimated=3,
        unpriced=1,
    )
    assert (refine.purpose, refine.calls) == ("refine", 1)
    assert (found.total.calls, found.total.estimated, found.total.cost_usd) == (4, 4, 1.5)


async def test_a_message_without_calls(world: World) -> None:
    found = await world.db.run(lambda: usage_of("ann", "s", "m"))
    assert found.total == Calls()
    assert found.by_purpose == ()
