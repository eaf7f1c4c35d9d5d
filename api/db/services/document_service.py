"""Documents: taking files in, naming, listing, changing, deleting, and starting and stopping their ingestion."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from api.db.database import Database
from api.db.services import parse_requests
from api.db.services.document_changes import apply_changes
from api.db.services.document_intake import NewFile, take_in, taken
from api.db.services.document_rows import matching, record_of, records_of, within_times
from api.db.services.index_follow import Enqueued, IndexFollower
from api.db.services.metadata_filter import fields_of
from api.db.services.names import clean_file_name
from api.db.services.owned import (
    in_groups,
    own_dataset,
    own_document,
    own_document_anywhere,
    own_documents,
    split_duplicates,
)
from api.db.services.records import BatchResult, DocumentQuery, DocumentRecord
from api.db.services.removal import remove_documents
from api.db.services.row_pages import page_of
from api.db.tables import Dataset, Document
from rag.blob.base import BlobStore
from rag.core.clock import Clock, now_ms
from rag.core.errors import Conflict, NotFound, RagError
from rag.core.settings import IngestSettings
from rag.core.types import Principal
from rag.queue.base import JobQueue
from rag.store.base import SearchStore

Records = list[DocumentRecord]
Outcomes = list[DocumentRecord | RagError]
_Step = Callable[[Dataset, Document, int], str | None]


class DocumentService:
    """Every method loads by (principal, id); what is not the principal's is NotFound."""

    def __init__(  # noqa: PLR0917  # The wiring passes the backends in the order of the use cases' list.
        self,
        db: Database,
        clock: Clock,
        blobs: BlobStore,
        queue: JobQueue,
        store: SearchStore,
        ingest: IngestSettings,
    ) -> None:
        self._db = db
        self._clock = clock
        self._blobs = blobs
        self._queue = queue
        self._ingest = ingest
        self._index = IndexFollower(db, store)

    async def add(
        self,
        principal: Principal,
        dataset_id: str,
        *,
        name: str,
        staged: Path,
        size: int,
        sha256: str,
        parent_path: str = "",
    ) -> DocumentRecord:
        """Store a file as a new document.

        Args:
            name: The file's name; cleaned, and numbered (`a(1).pdf`) where the dataset has it already.
            staged: The bytes, `size` of them with hash `sha256`; the file stays the caller's.
            parent_path: A `/`-separated folder, the prefix of `location`.
        Raises:
            NotFound: no such dataset of the principal.
            Unsupported: files of this type are not taken.
            LimitExceeded: the name is longer than 255 bytes (fact `field` is `name`), or the folder is too long.
            InvalidInput: nothing usable is left of the name.
        """
        file = NewFile(name=name, staged=staged, size=size, sha256=sha256)
        (outcome,) = await self.add_all(principal, dataset_id, [file], parent_path=parent_path)
        if isinstance(outcome, RagError):
            raise outcome
        return outcome

    async def add_all(
        self, principal: Principal, dataset_id: str, files: Sequence[NewFile], *, parent_path: str = ""
    ) -> Outcomes:
        """`add` for many files, in order, some dozens of which share each wait for the disk.

        Returns for each file its document, or why it was refused; the others are stored all the same.

        Raises:
            NotFound: no such dataset of the principal.
            StoreUnavailable: files or rows cannot be written now; those before may be stored.
        """
        return await take_in(self._db, self._clock, self._blobs, principal, dataset_id, files, parent_path)

    async def list(self, principal: Principal, dataset_id: str, query: DocumentQuery) -> tuple[Records, int]:
        """The documents that `query` asks for, and how many there are before paging and times.

        Raises:
            NotFound: kind `dataset`; or kind `document` when `query.id`, then `query.name`, is not in the dataset.
            InvalidInput: `query.page.order_by` is no field of a document.
        """
        query = replace(query, name=clean_file_name(query.name)) if query.name else query

        def read() -> tuple[Records, int]:
            dataset = own_dataset(principal, dataset_id)
            if query.id and not taken(dataset, Document.id == query.id):
                raise NotFound("document", query.id)
            if query.name and not taken(dataset, Document.name == query.name):
                raise NotFound("document", query.name)
            rows, total = page_of(matching(dataset, query), Document, DocumentRecord, query.page)
            return records_of(within_times(rows, query), now_ms(self._clock)), total

        return await self._db.run(read)

    async def get(self, principal: Principal, dataset_id: str, document_id: str) -> DocumentRecord:
        """The document in that dataset, or NotFound (kind `dataset` or `document`)."""

        def read() -> DocumentRecord:
            _, row = own_document(principal, dataset_id, document_id)
            return record_of(row, now_ms(self._clock))

        return await self._db.run(read)

    async def find(self, principal: Principal, document_id: str) -> DocumentRecord:
        """The document in whichever dataset of the principal, or NotFound."""

        def read() -> DocumentRecord:
            return record_of(own_document_anywhere(principal, document_id), now_ms(self._clock))

        return await self._db.run(read)

    async def meta_fields(self, principal: Principal, dataset_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """By id, those of the documents that have metadata; datasets that are not the principal's have none."""
        return await self._db.run(lambda: fields_of(principal, dataset_ids))

    async def first_outside(self, principal: Principal, dataset_ids: Sequence[str], ids: Sequence[str]) -> str | None:
        """The first of `ids` that is no document of these datasets of the principal; None if all are."""

        def read() -> str | None:
            known: set[str] = set()
            for group in in_groups(dict.fromkeys(ids)):
                owned = (Document.tenant_id == principal.tenant_id) & Document.dataset_id.in_(list(dataset_ids))
                known.update(row.id for row in Document.select(Document.id).where(Document.id.in_(group) & owned))
            return next((one for one in ids if one not in known), None)

        return await self._db.run(read)

    async def update(
        self, principal: Principal, dataset_id: str, document_id: str, changes: dict[str, Any]
    ) -> DocumentRecord:
        """Store `changes` (final values) and return the document; all or nothing.

        `name`; `meta_fields` (replaces); `parser_config` (replaces); `chunk_method` (another one takes the
        document's chunks and, without `parser_config`, merges the method's own configuration in); `enabled`
        (also sets the availability of all chunks).

        Raises:
            NotFound: kind `dataset` or `document`.
            InvalidInput: fact `field`: `name` (the extension would change, or nothing usable is left),
                `chunk_method` (unknown), or a field that cannot be changed.
            LimitExceeded: the name is longer than 255 bytes.
            Conflict: the name is taken (fact `field` is `name`).
            Unsupported: the method of pictures and slides is fixed (fact `field` is `chunk_method`).
        """

        def write() -> DocumentRecord:
            now = now_ms(self._clock)
            dataset, row = own_document(principal, dataset_id, document_id)
            apply_changes(dataset, row, changes, now)
            return record_of(row, now)

        return await self._db.write(write)

    async def open(
        self, principal: Principal, dataset_id: str, document_id: str
    ) -> tuple[DocumentRecord, AsyncIterator[bytes]]:
        """The document and its bytes, in pieces of at most 1 MiB; NotFound as in `get`."""
        record = await self.get(principal, dataset_id, document_id)
        return record, self._blobs.open(record.blob_key)

    async def delete(self, principal: Principal, dataset_id: str, ids: Sequence[str] | None) -> BatchResult:
        """Delete documents of the dataset; None means all. Ids that are not in it are `unknown`.

        Raises:
            NotFound: kind `dataset`.
        """
        wanted, duplicates = split_duplicates(ids or ())

        def write() -> tuple[tuple[str, ...], list[Enqueued]]:
            dataset = own_dataset(principal, dataset_id)
            if ids is None:
                rows = {row.id: row for row in Document.select().where(Document.dataset_id == dataset.id)}
            else:
                rows = own_documents(dataset, wanted)
            return tuple(rows), remove_documents(dataset, list(rows.values()), now_ms(self._clock))

        gone, enqueued = await self._db.write(write)
        await self._index.follow(enqueued)
        known = frozenset(gone)
        return BatchResult(
            done=gone if ids is None else tuple(one for one in wanted if one in known),
            unknown=tuple(one for one in wanted if one not in known),
            duplicates=duplicates,
        )

    async def parse(self, principal: Principal, dataset_id: str, ids: Sequence[str]) -> BatchResult:
        """Queue documents for ingestion, in order.

        What was live stays readable until the new version is complete.

        Raises:
            NotFound: kind `dataset`.
            Conflict: one is being processed (fact `id`); those before it are queued and stay so.
        """
        wanted, duplicates = split_duplicates(ids)

        def step(dataset: Dataset, row: Document, now: int) -> str | None:
            return parse_requests.start(dataset, row, max_file_bytes=self._ingest.max_file_bytes, now=now)

        steps = await self._each(principal, dataset_id, wanted, step, skip_unknown=True)
        for task_id in steps.tasks:
            await self._queue.notify(task_id)
        if steps.refused is not None:
            raise steps.refused
        unknown = tuple(one for one in wanted if one in steps.unknown)
        return BatchResult(done=tuple(steps.done), unknown=unknown, duplicates=duplicates)

    async def stop(self, principal: Principal, dataset_id: str, ids: Sequence[str]) -> BatchResult:
        """End the ingestion of documents, in order; their chunks go.

        Raises:
            NotFound: kind `dataset`; or kind `document`: one is not in it; those before it stay stopped.
            Conflict: one has progress 0 or 1 (fact `id`); those before it stay stopped.
        """
        wanted, duplicates = split_duplicates(ids)

        def step(dataset: Dataset, row: Document, now: int) -> None:
            parse_requests.stop(dataset, row, now)

        steps = await self._each(principal, dataset_id, wanted, step, skip_unknown=False)
        if steps.refused is not None:
            raise steps.refused
        return BatchResult(done=tuple(steps.done), duplicates=duplicates)

    async def _each(
        self, principal: Principal, dataset_id: str, ids: Sequence[str], step: _Step, *, skip_unknown: bool
    ) -> "_Steps":
        """Do `step` for each document in one transaction, up to the first that is refused.

        The refusal is returned: raised inside the transaction it would undo the steps before it.
        """

        def write() -> _Steps:
            now = now_ms(self._clock)
            dataset = own_dataset(principal, dataset_id)
            rows = own_documents(dataset, ids)
            steps = _Steps(unknown=frozenset(ids) - rows.keys())
            for document_id in ids:
                try:
                    if document_id in rows:
                        steps.add(document_id, step(dataset, rows[document_id], now))
                    elif not skip_unknown:
                        raise NotFound("document", document_id)
                except (Conflict, NotFound) as error:
                    steps.refused = error
                    break
            return steps

        return await self._db.write(write)


@dataclass(kw_only=True, slots=True)
class _Steps:
    """What was done for a list of documents."""

    unknown: frozenset[str]
    done: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    refused: Conflict | NotFound | None = None

    def add(self, document_id: str, task_id: str | None) -> None:
        self.done.append(document_id)
        if task_id is not None:
            self.tasks.append(task_id)
