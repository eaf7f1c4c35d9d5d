"""Between rows and what ingestion works with."""

from collections.abc import Sequence
from typing import Any

from api.db.tables import Document, DocumentVersion, IndexPlace, Task, Usage
from rag.chunk.base import ChunkConfig
from rag.ingest.base import Job, Report
from rag.store.base import Place

VERSION_DEAD = "dead"
_TOKENS_DEFAULT = 128
_TOKENS_MOST = 2048
_DELIMITER_DEFAULT = "\n!?。；！？"


def job_of(task: Task, document: Document, place: IndexPlace, now: int, *, leftovers: bool) -> Job:
    """The job of a claimed task."""
    return Job(
        task_id=task.id,
        owner=task.lease_owner or "",
        document_id=task.document_id,
        dataset_id=task.dataset_id,
        tenant_id=task.tenant_id,
        version_id=task.version_id,
        name=document.name,
        kind=document.type,
        size=document.size,
        blob_key=document.blob_key,
        method=document.chunk_method,
        place=Place(name=place.name, dim=place.dim),
        embedding_model=place.embedding_model,
        config=chunk_config(document.parser_config),
        available=document.enabled,
        attempt=task.attempts,
        parser_deaths=task.parser_deaths,
        begun_ms=document.process_begin_at or now,
        leftovers=leftovers,
    )


def chunk_config(parser_config: Any) -> ChunkConfig:
    """What of a document's stored configuration chunking reads. Nothing checked it when it was stored: what does not
    fit counts as not given."""
    given = parser_config if isinstance(parser_config, dict) else {}
    tokens, delimiter = given.get("chunk_token_num"), given.get("delimiter")
    if not isinstance(tokens, int) or isinstance(tokens, bool):
        tokens = _TOKENS_DEFAULT
    if not isinstance(delimiter, str):
        delimiter = _DELIMITER_DEFAULT
    return ChunkConfig(chunk_token_num=min(max(tokens, 1), _TOKENS_MOST), delimiter=delimiter)


def mark_version(job: Job, state: str, now: int, *, version_id: str = "") -> None:
    """Write the row that hides a version from searches; `version_id` empty means the job's own."""
    DocumentVersion.insert(
        id=version_id or job.version_id,
        document_id=job.document_id,
        dataset_id=job.dataset_id,
        place=job.place.name,
        state=state,
        create_time=now,
        update_time=now,
    ).on_conflict_replace().execute()


def message_text(report: Report) -> str:
    """The lines of a report as the document's row keeps them."""
    return "\n".join(report.messages)


def note_embedding(reports: Sequence[Report], outcome: str, now: int) -> None:
    """Write one usage row for each attempt at a document that the embedding model has worked on."""
    rows = [
        {
            "tenant_id": report.job.tenant_id,
            "model": report.job.embedding_model,
            "purpose": "embed",
            "prompt_tokens": report.embed_tokens,
            "completion_tokens": 0,
            "estimated": False,
            "duration_ms": report.embed_ms,
            "attempts": 1,
            "outcome": outcome,
            "create_time": now,
        }
        for report in reports
        if report.embed_tokens
    ]
    if rows:
        Usage.insert_many(rows).execute()
