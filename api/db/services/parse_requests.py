"""Starting and stopping the ingestion of one document, as row changes. For use inside one `Database.write`."""

from api.db.services.removal import bury_versions, count_chunks, end_tasks
from api.db.tables import Dataset, Document, Task
from rag.core.errors import Conflict
from rag.core.ids import new_id

QUEUED_PROGRESS = 0.001
"""Above 0 on purpose: a queued document can be stopped and not be started twice (the wire contract's rule)."""


def start(dataset: Dataset, row: Document, *, max_file_bytes: int, now: int) -> str | None:
    """Queue `row` for ingestion under a fresh version and return the task's id.

    What was live stays readable until the new version is complete. A file that is too large fails at once,
    in words: None.

    Raises:
        Conflict: it is running; fact `id`.
    """
    if row.run == "RUNNING" and 0 < row.progress < 1:
        raise Conflict("Can't parse document that is currently being processed", id=row.id)
    end_tasks([row.id], now)
    _uncount(dataset, row, now)
    row.process_begin_at = now
    row.process_duration = 0.0
    row.update_time = now
    if row.size > max_file_bytes:
        row.run, row.progress = "FAIL", -1.0
        row.progress_msg = (
            f"[ERROR] The file has {row.size:,} bytes; files of up to {max_file_bytes:,} bytes are parsed."
        )
        row.save()
        return None
    row.run, row.progress, row.progress_msg = "RUNNING", QUEUED_PROGRESS, "Task is queued..."
    row.save()
    return _queue(dataset, row, now)


def _queue(dataset: Dataset, row: Document, now: int) -> str:
    """The claim hides the version from searches: thousands that only wait would make each search's filter long."""
    task = Task.create(
        id=new_id(),
        document_id=row.id,
        dataset_id=dataset.id,
        tenant_id=row.tenant_id,
        version_id=new_id(),
        state="queued",
        create_time=now,
        update_time=now,
    )
    return str(task.id)


def stop(dataset: Dataset, row: Document, now: int) -> None:
    """End the ingestion of `row`: no chunks, no live version.

    Raises:
        Conflict: nothing is running: progress is 0 or 1; fact `id`.
    """
    if row.progress == 0 or int(row.progress) == 1:
        raise Conflict("Can't stop parsing document with progress at 0 or 1", id=row.id)
    clear(dataset, row, run="CANCEL", now=now)


def clear(dataset: Dataset, row: Document, *, run: str, now: int) -> None:
    """Take all chunks from `row`, end its tasks, and set its state to `run`."""
    bury_versions([row], dataset.place, now)
    _uncount(dataset, row, now)
    row.run, row.progress = run, 0.0
    row.update_time = now
    row.save()


def _uncount(dataset: Dataset, row: Document, now: int) -> None:
    """Take the document's chunks off the totals of both, which always agree."""
    if row.chunk_count or row.token_count:
        count_chunks(dataset, chunks=-row.chunk_count, tokens=-row.token_count, now=now)
    row.chunk_count = row.token_count = 0
