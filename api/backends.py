"""The two choices of backend, made by settings alone: where the rows live, and where the search index.

Drivers are imported only where they are chosen. Nothing here connects: that is `open`, or the first use.
"""

from typing import Protocol

from api.db.data_folder import DataFolder
from api.db.database import Database
from rag.core.clock import Clock
from rag.core.settings import Settings
from rag.store.base import SearchStore
from rag.store.lance import LanceStore

_COPY_BYTES = 128 << 20


class Store(SearchStore, Protocol):
    """A search index with a beginning and an end."""

    async def open(self) -> None:
        """Import its driver; never waits for a server."""
        ...

    async def close(self) -> None: ...


def make_database(settings: Settings, folder: DataFolder) -> Database:
    """The rows, not open yet: the file of `folder`, or the server that `rows.url` names."""
    if settings.rows.url:
        from api.db.mysql import MysqlDialect  # the driver is of no use to the embedded choice

        return Database(MysqlDialect(settings.rows), busy_timeout_s=settings.rows.busy_timeout_s)
    return Database(folder.rows_path, busy_timeout_s=settings.rows.busy_timeout_s)


def make_store(
    settings: Settings, folder: DataFolder, clock: Clock, *, cache_bytes: int = _COPY_BYTES, watched: bool = False
) -> Store:
    """The search index, not open yet: the folder of `folder`, or the server that `index.url` names.

    Args:
        cache_bytes: Bound of the embedded index's copies in memory; 0 for who only writes.
        watched: Whether the caller looks at a server with `check` every second or two; calls to one that is away then
            fail at once.
    """
    sample_size = settings.retrieval.sample_size
    if settings.index.url:
        from rag.store.elastic import ElasticStore  # as above

        return ElasticStore(settings.index, clock=clock, sample_size=sample_size, watched=watched)
    return LanceStore(folder.index_path, clock=clock, sample_size=sample_size, cache_bytes=cache_bytes)
