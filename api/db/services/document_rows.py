"""Document rows as records, and the queries that pick them. For use inside `Database.run`."""

import unicodedata
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from api.db.services.names import clean_label
from api.db.services.owned import in_groups
from api.db.services.records import DocumentQuery, DocumentRecord
from api.db.tables import Dataset, Document, Task

_COLUMNS = tuple(field.name for field in fields(DocumentRecord) if field.name in Document._meta.fields)
_OF_TASK = ("stage", "pages_done", "pages_total", "chunks_done", "chunks_total")
_RUNS = {"0": "UNSTART", "1": "RUNNING", "2": "CANCEL", "3": "DONE", "4": "FAIL"}


def records_of(rows: Iterable[Document], now: int) -> list[DocumentRecord]:
    """Records of rows, with the progress of the tasks of those that run: one query for all."""
    listed = list(rows)
    tasks = _tasks_of([row.id for row in listed if row.run == "RUNNING"])
    return [_record(row, tasks.get(row.id), now) for row in listed]


def record_of(row: Document, now: int) -> DocumentRecord:
    return records_of([row], now)[0]


def _record(row: Document, task: Task | None, now: int) -> DocumentRecord:
    values: dict[str, Any] = {name: getattr(row, name) for name in _COLUMNS}
    if task is not None:
        values.update((name, getattr(task, name)) for name in _OF_TASK)
    if row.run == "RUNNING" and row.process_begin_at is not None:
        values["process_duration"] = max(now - row.process_begin_at, 0) / 1000
    return DocumentRecord(**values)


def _tasks_of(document_ids: list[str]) -> dict[str, Task]:
    """The unfinished task of each document."""
    found: dict[str, Task] = {}
    for group in in_groups(document_ids):
        query = Task.select().where(Task.document_id.in_(group) & Task.state.in_(("queued", "running")))
        found.update((task.document_id, task) for task in query.order_by(Task.create_time))
    return found


def matching(dataset: Dataset, query: DocumentQuery) -> Any:
    """The documents of `dataset` that `query` asks for, without its times and its page."""
    found = Document.select().where(Document.dataset_id == dataset.id)
    if query.id:
        found = found.where(Document.id == query.id)
    if query.ids:
        found = found.where(Document.id.in_(query.ids))
    if query.name:
        found = found.where(Document.name == query.name)
    if query.keywords:
        words = unicodedata.normalize("NFC", clean_label(query.keywords)).casefold()
        found = found.where(Document.name_fold.contains(words))
    if query.suffixes:
        found = found.where(Document.suffix.in_(query.suffixes))
    if query.runs:
        found = found.where(Document.run.in_([_RUNS.get(run, run) for run in query.runs]))
    return found


def within_times(rows: Iterable[Document], query: DocumentQuery) -> list[Document]:
    """Those created in the asked time. The wire contract looks at times after paging."""
    return [
        row
        for row in rows
        if (not query.created_from_ms or row.create_time >= query.created_from_ms)
        and (not query.created_to_ms or row.create_time <= query.created_to_ms)
    ]
