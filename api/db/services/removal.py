"""Taking documents, versions and files out of the rows. For use inside one `Database.write`.

The index is a projection and follows: what must go from it is written to the outbox in the same transaction. Files
nobody names any more are written to `BlobGarbage` and removed once no upload can be about to name them.
"""

from collections.abc import Iterable, Sequence

from api.db.services.index_follow import Enqueued, enqueue_delete
from api.db.services.owned import in_groups
from api.db.tables import BlobGarbage, Chunk, Dataset, Document, DocumentVersion, Task

_HIDDEN_AT_ONCE = 200
"""Deleted versions hidden from searches until the index has followed; more would make each search's filter long."""


def bury_versions(documents: Iterable[Document], place: str, now: int) -> None:
    """End the tasks of `documents` and mark all their versions dead: the worker sweeps entries and chunk rows.

    The rows in memory and in the table keep no live version.
    """
    rows = list(documents)
    for group in in_groups(rows):
        ids = [row.id for row in group]
        end_tasks(ids, now)
        dead = [_dead(row, place, now) for row in group if row.live_version]
        if dead:
            DocumentVersion.insert_many(dead).on_conflict_replace().execute()
        Document.update(live_version=None).where(Document.id.in_(ids)).execute()
    for row in rows:
        row.live_version = None


def end_tasks(document_ids: Sequence[str], now: int) -> None:
    """Cancel the queued and running tasks of these documents; what they were writing is dead."""
    for group in in_groups(document_ids):
        Task.update(state="cancelled", update_time=now).where(
            Task.document_id.in_(group) & Task.state.in_(("queued", "running"))
        ).execute()
        DocumentVersion.update(state="dead", update_time=now).where(
            DocumentVersion.document_id.in_(group) & (DocumentVersion.state == "writing")
        ).execute()


def remove_documents(dataset: Dataset, documents: Sequence[Document], now: int) -> list[Enqueued]:
    """Delete documents with their chunks, tasks and files, and take them off the dataset's totals.

    Returns what the index has to follow. Until it has, dead versions keep the first few out of searches.
    """
    if not documents:
        return []
    bury_versions(documents[:_HIDDEN_AT_ONCE], dataset.place, now)
    for group in in_groups(documents):
        ids = [row.id for row in group]
        end_tasks(ids, now)
        Task.delete().where(Task.document_id.in_(ids)).execute()
        Chunk.delete().where(Chunk.document_id.in_(ids)).execute()
        Document.delete().where(Document.id.in_(ids)).execute()
    discard_blobs([row.blob_key for row in documents], now)
    count_chunks(
        dataset,
        documents=-len(documents),
        chunks=-sum(row.chunk_count for row in documents),
        tokens=-sum(row.token_count for row in documents),
        now=now,
    )
    return enqueue_delete(dataset.place, now, document_ids=[row.id for row in documents])


def remove_dataset(dataset: Dataset, now: int) -> list[Enqueued]:
    """Delete a dataset and all in it; returns what the index has to follow.

    What running tasks were writing stays as dead versions: their worker may still add to the index.
    """
    documents = list(Document.select(Document.id, Document.blob_key).where(Document.dataset_id == dataset.id))
    for group in in_groups(documents):
        ids = [row.id for row in group]
        end_tasks(ids, now)
        Task.delete().where(Task.document_id.in_(ids)).execute()
    Chunk.delete().where(Chunk.dataset_id == dataset.id).execute()
    Document.delete().where(Document.dataset_id == dataset.id).execute()
    Dataset.delete().where(Dataset.id == dataset.id).execute()
    discard_blobs([row.blob_key for row in documents], now)
    return enqueue_delete(dataset.place, now, dataset_ids=[dataset.id])


def count_chunks(dataset: Dataset, *, documents: int = 0, chunks: int = 0, tokens: int = 0, now: int) -> None:
    """Add to the dataset's totals."""
    Dataset.update(
        document_count=Dataset.document_count + documents,
        chunk_count=Dataset.chunk_count + chunks,
        token_count=Dataset.token_count + tokens,
        update_time=now,
    ).where(Dataset.id == dataset.id).execute()


def discard_blobs(keys: Iterable[str], now: int) -> None:
    """Mark those of `keys` that no document names any more as garbage."""
    for group in in_groups(dict.fromkeys(keys)):
        query = Document.select(Document.blob_key).where(Document.blob_key.in_(group)).distinct()
        named = {row.blob_key for row in query}
        garbage = [{"blob_key": key, "create_time": now} for key in group if key not in named]
        if garbage:
            BlobGarbage.insert_many(garbage).on_conflict_replace().execute()


def _dead(row: Document, place: str, now: int) -> dict[str, object]:
    return {
        "id": row.live_version,
        "document_id": row.id,
        "dataset_id": row.dataset_id,
        "place": place,
        "state": "dead",
        "create_time": now,
        "update_time": now,
    }
