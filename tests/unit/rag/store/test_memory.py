import pytest

from rag.store.base import SearchStore
from rag.store.memory import MemoryStore
from rag.testing.store_suite import StoreSuite


class TestMemoryStore(StoreSuite):
    @pytest.fixture
    def store(self) -> SearchStore:
        return MemoryStore()
