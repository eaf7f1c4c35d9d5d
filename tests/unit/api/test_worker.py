"""The worker's chores."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from api import worker
from api.db.data_folder import DataFolder
from rag.core.clock import SystemClock
from rag.store.base import Place, PlaceStats
from rag.store.memory import MemoryStore


class Slow(MemoryStore):
    """An index that compacts until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0
        self.let_go = asyncio.Event()

    async def optimise(self, place: Place) -> PlaceStats:
        self.begun += 1
        await self.let_go.wait()
        return PlaceStats(entries=1, unindexed=0)


async def test_chores_go_on_while_the_index_is_compacted(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_TICK_S", "_REAP_S", "_SWEEP_S", "_ORPHANS_S"):
        monkeypatch.setattr(worker, name, 0.01)
    done: list[str] = []

    def chore(name: str) -> Any:
        async def work() -> int:
            done.append(name)
            return 0

        work.__name__ = name
        return work

    async def places() -> list[Place]:
        return [Place(name="t_x_g1", dim=8)]

    store = Slow()
    names = ("drain_outbox", "sweep", "bury_orphans", "remove_garbage", "tidy_rebuilds")
    parts: Any = SimpleNamespace(
        settings=SimpleNamespace(ingest=SimpleNamespace(optimise_s=0.0)),
        clock=SystemClock(),
        folder=DataFolder(tmp_path),
        tasks=SimpleNamespace(reap=chore("reap")),
        upkeep=SimpleNamespace(places=places, **{name: chore(name) for name in names}),
        store=store,
        writes=SimpleNamespace(grown=dict),
        runner=SimpleNamespace(idle=True, wake=lambda: None),
    )
    keeper = asyncio.create_task(worker._Keeper(parts).run())
    async with asyncio.timeout(5):
        while not store.begun:
            await asyncio.sleep(0.01)
        done.clear()
        while {*names, "reap"} - {*done} or done.count("sweep") < 3:
            await asyncio.sleep(0.01)
    assert store.begun == 1, "one at a time"
    store.let_go.set()
    keeper.cancel()
    await asyncio.gather(keeper, return_exceptions=True)
    assert keeper.cancelled()
