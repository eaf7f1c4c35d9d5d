"""The contract of the search index on a real Elasticsearch."""

from collections.abc import AsyncIterator

import pytest

from rag.core.clock import SystemClock
from rag.core.settings import IndexSettings
from rag.store.base import Place, SearchStore
from rag.store.elastic import ElasticStore
from rag.testing.store_suite import PLACE, Opener, StoreProcessSuite, StoreSuite
from tests.servers.elastic import fresh_prefix


def make(url: str, **settings: object) -> ElasticStore:
    chosen = IndexSettings.model_validate({"url": url, "prefix": fresh_prefix(), **settings})
    return ElasticStore(chosen, clock=SystemClock())


async def ended(store: ElasticStore) -> None:
    """Leave no index behind: a node takes a thousand shards."""
    for name in (PLACE.name, "t_other_g1"):
        await store.drop(Place(name=name, dim=0))
    await store.close()


class TestElasticStore(StoreSuite):
    @pytest.fixture
    async def store(self, elasticsearch_url: str) -> AsyncIterator[SearchStore]:  # type: ignore[override]
        store = make(elasticsearch_url)
        await store.open()
        yield store
        await ended(store)


class TestPooledElasticStore(StoreSuite):
    @pytest.fixture
    async def store(self, elasticsearch_url: str) -> AsyncIterator[SearchStore]:  # type: ignore[override]
        store = make(elasticsearch_url, pooled=True)
        await store.open()
        yield store
        await ended(store)


class TestElasticStoreOfSeveralShards(StoreSuite):
    @pytest.fixture
    async def store(self, elasticsearch_url: str) -> AsyncIterator[SearchStore]:  # type: ignore[override]
        store = make(elasticsearch_url, shards=3)
        await store.open()
        yield store
        await ended(store)


_opened: list[ElasticStore] = []


async def open_store(where: str) -> SearchStore:
    url, prefix = where.split(" ")
    store = ElasticStore(IndexSettings(url=url, prefix=prefix), clock=SystemClock())
    await store.open()
    _opened.append(store)
    return store


class TestElasticStoreInProcesses(StoreProcessSuite):
    @pytest.fixture(autouse=True)
    async def closed(self) -> AsyncIterator[None]:
        yield
        while _opened:
            await ended(_opened.pop())

    @pytest.fixture
    def opener(self) -> Opener:
        return open_store

    @pytest.fixture
    def where(self, elasticsearch_url: str) -> str:
        return f"{elasticsearch_url} {fresh_prefix()}"
