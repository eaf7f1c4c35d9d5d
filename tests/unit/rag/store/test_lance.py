from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rag.core.clock import SystemClock
from rag.store.base import SearchStore
from rag.store.lance import LanceStore
from rag.testing.store_suite import Opener, StoreProcessSuite, StoreSuite


class TestLanceStore(StoreSuite):
    gives_views = True

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[SearchStore]:  # type: ignore[override]
        store = LanceStore(tmp_path / "index", clock=SystemClock())
        yield store
        await store.close()


class TestLanceStoreWithoutCopies(StoreSuite):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[SearchStore]:  # type: ignore[override]
        store = LanceStore(tmp_path / "index", clock=SystemClock(), cache_bytes=0)
        yield store
        await store.close()


async def open_store(where: str) -> SearchStore:
    store = LanceStore(Path(where), clock=SystemClock())
    await store.open()
    return store


class TestLanceStoreInProcesses(StoreProcessSuite):
    @pytest.fixture
    def opener(self) -> Opener:
        return open_store

    @pytest.fixture
    def where(self, tmp_path: Path) -> str:
        return str(tmp_path / "index")
