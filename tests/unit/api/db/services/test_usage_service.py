import asyncio
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import peewee
import pytest
from structlog.testing import capture_logs

from api.db.raw_sql import execute_many
from api.db.services.model_catalogue import ModelCatalogue
from api.db.services.records import ModelCall
from api.db.services.usage_service import UsageService
from api.db.tables import Usage
from rag.core.errors import InvalidInput, OutcomeUnknown, StoreUnavailable
from rag.core.settings import PriceSettings, Settings
from rag.llm.prices import Prices
from rag.llm.registry import Registry
from tests.unit.api.db.services.world import World


def call(purpose: str = "answer") -> ModelCall:
    return ModelCall(
        tenant_id="ann",
        model="extractive@Builtin",
        purpose=purpose,
        prompt_tokens=10,
        completion_tokens=2,
        estimated=True,
        duration_ms=12.5,
        first_token_ms=3.5,
        message_id="m",
    )


async def test_a_call_leaves_one_row(world: World) -> None:
    await UsageService(world.db, world.clock).record(call())
    row = await world.db.run(lambda: Usage.get())
    assert (row.tenant_id, row.model, row.purpose) == ("ann", "extractive@Builtin", "answer")
    assert (row.prompt_tokens, row.completion_tokens, row.estimated) == (10, 2, True)
    assert (row.first_token_ms, row.duration_ms, row.attempts, row.outcome) == (3.5, 12.5, 1, "ok")
    assert (row.message_id, row.dialog_id) == ("m", None)
    assert row.create_time > 0


async def test_a_row_keeps_all_that_the_call_took(world: World) -> None:
    full = replace(
        call(),
        provider="OpenAI",
        cached_tokens=7,
        cache_write_tokens=3,
        reasoning_tokens=1,
        tool_calls=2,
        cost_usd=0.25,
        arm="fallback=on,prompt_caching=off",
        key_id="k",
    )
    await UsageService(world.db, world.clock).record(full)
    kept = await world.db.run(lambda: Usage.select().dicts().get())
    assert {name: kept[name] for name in asdict(full)} == asdict(full)


async def test_names_longer_than_a_column_are_cut(world: World) -> None:
    await UsageService(world.db, world.clock).record(
        replace(call(), model="m" * 300, provider="p" * 100, arm="a" * 300, outcome="o" * 40)
    )
    row = await world.db.run(lambda: Usage.get())
    assert [len(text) for text in (row.model, row.provider, row.arm, row.outcome)] == [255, 64, 255, 32]


async def test_calls_that_end_together_share_writes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = 0
    real = world.db.write_blocking

    def counting(fn, **options):  # type: ignore[no-untyped-def]
        nonlocal writes
        writes += 1
        return real(fn, **options)

    monkeypatch.setattr(world.db, "write_blocking", counting)
    usage = UsageService(world.db, world.clock)
    await asyncio.gather(*(usage.record(call(str(number))) for number in range(200)))
    assert await world.db.run(lambda: Usage.select().count()) == 200
    assert writes < 20


async def test_a_row_that_cannot_be_written_goes_with_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = UsageService(world.db, world.clock)

    def full(fn, **options):  # type: ignore[no-untyped-def]
        raise StoreUnavailable("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(world.db, "write_blocking", full)
        with pytest.raises(StoreUnavailable):
            await usage.record(call("first"))
    await usage.record(call("second"))
    rows = await world.db.run(lambda: [row.purpose for row in Usage.select().order_by(Usage.id)])
    assert rows == ["first", "second"]


async def test_a_row_that_may_have_been_written_is_not_written_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = UsageService(world.db, world.clock)
    real = world.db.write_blocking

    def lost(fn, **options):  # type: ignore[no-untyped-def]
        real(fn, **options)
        raise OutcomeUnknown("The connection ended.")

    with monkeypatch.context() as patch:
        patch.setattr(world.db, "write_blocking", lost)
        with pytest.raises(OutcomeUnknown):
            await usage.record(call("first"))
    await usage.record(call("second"))
    rows = await world.db.run(lambda: [row.purpose for row in Usage.select().order_by(Usage.id)])
    assert rows == ["first", "second"]


PAID = replace(call(), model="large@Somebody", prompt_tokens=1000, cached_tokens=400, completion_tokens=100)


def priced(world: World) -> UsageService:
    given = PriceSettings(usd_per_million={"large@Somebody": {"input": 10, "cached": 1, "output": 50}})
    return UsageService(world.db, world.clock, prices=Prices(given, map_path=Path("/nowhere")))


@pytest.mark.parametrize(
    ("taken", "cost"),
    [
        (PAID, 0.0114),  # 600 x 10 + 400 x 1 + 100 x 50 = 11400 millionths
        (replace(PAID, outcome="cancelled"), 0.0114),
        (replace(PAID, outcome="model_timeout"), 0.0114),
        (replace(PAID, outcome="model_refused", completion_tokens=0), 0.0),
        (replace(PAID, cost_usd=0.5), 0.5),
        (replace(PAID, model="other@Somebody"), None),
        (replace(PAID, model="extractive@Builtin"), 0.0),
    ],
)
async def test_calls_are_priced_when_they_are_written(world: World, taken: ModelCall, cost: float | None) -> None:
    await priced(world).record(taken)
    row = await world.db.run(lambda: Usage.get())
    assert row.cost_usd == (None if cost is None else pytest.approx(cost))
    assert row.provider == taken.model.partition("@")[2]


class Watcher:
    def __init__(self) -> None:
        self.seen: list[tuple[str, float | None]] = []

    def ended(self, call: ModelCall) -> None:
        self.seen.append(("ended", call.cost_usd))

    def settled(self, call: ModelCall) -> None:
        self.seen.append(("settled", call.cost_usd))


async def test_observers_see_priced_calls_before_and_after_the_write(world: World) -> None:
    usage, watcher = priced(world), Watcher()
    usage.tell(watcher)
    await usage.record(PAID)
    assert watcher.seen == [("ended", pytest.approx(0.0114)), ("settled", pytest.approx(0.0114))]


async def test_a_call_is_not_settled_before_its_row_is_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    usage, watcher = priced(world), Watcher()
    usage.tell(watcher)

    def away(fn, **options):  # type: ignore[no-untyped-def]
        raise StoreUnavailable("The rows are away.")

    with monkeypatch.context() as patch:
        patch.setattr(world.db, "write_blocking", away)
        with pytest.raises(StoreUnavailable):
            await usage.record(PAID)
    assert [event for event, _ in watcher.seen] == ["ended"]
    await usage.record(call())
    assert [event for event, _ in watcher.seen] == ["ended", "ended", "settled", "settled"]


async def test_a_row_that_cannot_be_kept_takes_no_other_with_it(world: World) -> None:
    usage, watcher = priced(world), Watcher()
    usage.tell(watcher)
    bad = replace(call(), tenant_id="\ud800", cost_usd=7.0)
    with capture_logs() as logs:
        results = await asyncio.gather(
            usage.record(call("first")), usage.record(bad), usage.record(call("third")), return_exceptions=True
        )
    assert [type(result) for result in results] == [type(None), InvalidInput, type(None)]
    assert [entry["reason"] for entry in logs if entry["event"] == "usage_row_given_up"] == [str(results[1])]
    await usage.record(call("later"))
    rows = await world.db.run(lambda: [row.purpose for row in Usage.select().order_by(Usage.id)])
    assert rows == ["first", "third", "later"]
    assert ("settled", 7.0) in watcher.seen
    assert sum(event == "settled" for event, _ in watcher.seen) == 4


async def test_figures_larger_than_a_column_are_cut(world: World) -> None:
    await UsageService(world.db, world.clock).record(replace(call(), prompt_tokens=2**63, completion_tokens=-1))
    row = await world.db.run(lambda: Usage.get())
    assert (row.prompt_tokens, row.completion_tokens) == (2**31 - 1, 0)


async def test_who_is_written_waits_for_no_later_call(world: World) -> None:
    usage = UsageService(world.db, world.clock)
    records = []
    for _ in range(60):
        records.append(asyncio.create_task(usage.record(call())))
        await asyncio.sleep(0.02)
    assert all(record.done() for record in records[:20]), "they would pile up for as long as calls keep coming"
    await asyncio.gather(*records)
    assert await world.db.run(lambda: Usage.select().count()) == 60


async def purposes(world: World) -> list[str]:
    return await world.db.run(lambda: [row.purpose for row in Usage.select().order_by(Usage.id)])


def away(fn: object, **options: object) -> None:
    raise StoreUnavailable("The disk is full.")


async def test_the_last_rows_are_tried_again_at_the_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    models = ModelCatalogue(Settings(), Registry(Settings()), usage=UsageService(world.db, world.clock))
    ledger = models._ledger
    with monkeypatch.context() as patch:
        patch.setattr(world.db, "write_blocking", away)
        ledger.add(call("last"))
        with capture_logs() as logs:
            await ledger.settle()
    assert [entry["event"] for entry in logs] == ["usage_row_not_written", "usage_rows_wait"]
    await models.close()
    assert await purposes(world) == ["last"]
    await models.close()
    assert await purposes(world) == ["last"]


async def test_flush_waits_for_a_write_under_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows may come back."""
    usage = UsageService(world.db, world.clock)
    begun, release = threading.Event(), threading.Event()

    def slow(fn: object, **options: object) -> None:
        begun.set()
        release.wait(10)
        raise StoreUnavailable("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(world.db, "write_blocking", slow)
        recorded = asyncio.create_task(usage.record(call("last")))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        flushed = asyncio.create_task(usage.flush())
        await asyncio.sleep(0.05)
        assert not flushed.done()
        patch.undo()
        release.set()
        with pytest.raises(StoreUnavailable):
            await recorded
        await flushed
    assert await purposes(world) == ["last"]


async def test_rows_that_wait_are_tried_again_after_a_pause(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.db.services.usage_service.RETRY_S", 0.05)
    usage = UsageService(world.db, world.clock)
    tries = 0

    def counted(fn: object, **options: object) -> None:
        nonlocal tries
        tries += 1
        raise StoreUnavailable("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(world.db, "write_blocking", counted)
        with pytest.raises(StoreUnavailable):
            await usage.record(call("lonely"))
        async with asyncio.timeout(10):
            while tries < 3:
                await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        while await purposes(world) != ["lonely"]:
            await asyncio.sleep(0.01)
    await usage.flush()
    assert await purposes(world) == ["lonely"]


async def test_all_writes_send_the_same_statement(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine keeps statements: one for each number of rows would fill its memory."""
    monkeypatch.setattr("api.db.services.usage_service.GATHER_S", 0.01)
    sent: set[str] = set()

    def noted(database: peewee.Database, statement: str, rows: Iterable[Sequence[object]]) -> None:
        sent.add(statement)
        execute_many(database, statement, rows)

    def insert_many(rows: object) -> None:
        raise AssertionError("its statement is as long as there are rows")

    monkeypatch.setattr("api.db.services.usage_service.execute_many", noted, raising=False)
    monkeypatch.setattr(Usage, "insert_many", insert_many)
    usage = UsageService(world.db, world.clock)
    for size in (1, 2, 7):
        await asyncio.gather(*(usage.record(call()) for _ in range(size)))
    assert await world.db.run(lambda: Usage.select().count()) == 10
    assert len(sent) == 1
