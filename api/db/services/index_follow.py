"""Index changes outside ingestion: written to the outbox with the rows they follow, then done at once.

When the index cannot be reached, or the process dies in between, the worker drains the outbox later. Deleting
twice is harmless.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from api.db.database import Database
from api.db.services.owned import in_groups
from api.db.services.rebuild_rows import mark_stale
from api.db.tables import IndexPlace, Outbox
from rag.core.errors import StoreError
from rag.store.base import Place, SearchStore, Selector

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Enqueued:
    """One outbox row: `selector` is to be deleted from `place`."""

    outbox_id: int
    place: Place
    selector: Selector


def enqueue_delete(
    place: str,
    now: int,
    *,
    document_ids: Sequence[str] = (),
    dataset_ids: Sequence[str] = (),
    version_ids: Sequence[str] = (),
) -> list[Enqueued]:
    """Write outbox rows that delete entries from `place`; for use inside `Database.write`."""
    found = IndexPlace.get_or_none(IndexPlace.name == place)
    target = Place(name=place, dim=found.dim if found else 0)
    written = []
    named = {"document_ids": document_ids, "dataset_ids": dataset_ids, "version_ids": version_ids}
    for name, values in named.items():
        for group in in_groups(values):
            row = Outbox.create(place=place, action="delete", payload={name: group}, create_time=now)
            selector = Selector(**{name: tuple(group)})
            written.append(Enqueued(outbox_id=row.id, place=target, selector=selector))
    return written


def enqueue_renewal(place: str, document_id: str, now: int) -> None:
    """Have the document's live entries made again from its rows; for use inside `Database.write`, with the change.

    The worker does it: each chunk is embedded again.
    """
    Outbox.create(place=place, action="renewal", payload={"document_id": document_id}, create_time=now)
    mark_stale(document_id)


class IndexFollower:
    """Does what was enqueued, best effort."""

    def __init__(self, db: Database, store: SearchStore) -> None:
        self._db = db
        self._store = store

    async def follow(self, enqueued: Sequence[Enqueued]) -> None:
        """Delete from the index and drop the outbox rows; what fails is left to the worker."""
        done: list[int] = []
        try:
            for item in enqueued:
                await self._store.delete(item.place, item.selector)
                done.append(item.outbox_id)
        except StoreError as error:
            _log.warning("index.follow_later", left=len(enqueued) - len(done), reason=error.message)
        if done:
            await self._db.write(lambda: _forget(done))


def _forget(ids: list[int]) -> None:
    for group in in_groups(ids):
        Outbox.delete().where(Outbox.id.in_(group)).execute()
