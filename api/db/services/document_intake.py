"""Taking uploaded files in: many at a time, so that they share the waits for the disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.db.database import Database
from api.db.services.document_rows import record_of
from api.db.services.file_types import kind_of, method_at_upload
from api.db.services.names import (
    MAX_LOCATION_CHARS,
    check_file_name_length,
    clean_file_name,
    clean_folder,
    deduplicate,
    extension,
)
from api.db.services.owned import own_dataset
from api.db.services.records import DocumentRecord
from api.db.services.removal import count_chunks
from api.db.tables import BlobGarbage, Dataset, Document
from rag.blob.base import BlobStore, key_of
from rag.core.clock import Clock, now_ms
from rag.core.errors import LimitExceeded, RagError
from rag.core.ids import new_id
from rag.core.types import Principal

FILES_AT_ONCE = 100
"""Files of one transaction: others wait for it some tens of milliseconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewFile:
    """A file to take in. The bytes, `size` of them with hash `sha256`, stay the caller's."""

    name: str
    staged: Path
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class _Checked:
    """A file that may come in so far; `place` is its place among the outcomes."""

    place: int
    name: str
    kind: str
    file: NewFile


async def take_in(  # noqa: PLR0917  # Backends, then who and where, then what.
    db: Database,
    clock: Clock,
    blobs: BlobStore,
    principal: Principal,
    dataset_id: str,
    files: Sequence[NewFile],
    folder: str,
) -> list[DocumentRecord | RagError]:
    """Store files as new documents; see `DocumentService.add_all`."""
    await db.run(lambda: own_dataset(principal, dataset_id))
    folder = clean_folder(folder)
    outcomes: list[DocumentRecord | RagError | None] = [None] * len(files)
    checked: list[_Checked] = []
    for place, file in enumerate(files):
        try:
            name = clean_file_name(file.name)
            check_file_name_length(name)
            checked.append(_Checked(place, name, kind_of(name), file))
        except RagError as error:
            outcomes[place] = error
    for start in range(0, len(checked), FILES_AT_ONCE):
        group = checked[start : start + FILES_AT_ONCE]

        def announce(group: list[_Checked] = group) -> None:
            _announce(group, now_ms(clock))

        await db.write(announce)
        await blobs.put_files([(one.file.staged, one.file.sha256) for one in group])

        def write(group: list[_Checked] = group) -> list[DocumentRecord | RagError]:
            return _insert(own_dataset(principal, dataset_id), group, folder, principal, now_ms(clock))

        for one, outcome in zip(group, await db.write(write), strict=True):
            outcomes[one.place] = outcome
    return [outcome for outcome in outcomes if outcome is not None]


def _announce(group: Sequence[_Checked], now: int) -> None:
    """Note the files as garbage before they are written: an upload that dies half-way leaves nothing behind.

    A note is removed with the insertion of the document's row; until it is old, the sweep leaves the file.
    """
    keys = dict.fromkeys(key_of(one.file.sha256) for one in group)
    notes = [{"blob_key": key, "create_time": now} for key in keys]
    BlobGarbage.insert_many(notes).on_conflict_replace().execute()


def _insert(
    dataset: Dataset, group: Sequence[_Checked], folder: str, principal: Principal, now: int
) -> list[DocumentRecord | RagError]:
    """Make the rows. A file that is refused has changed nothing, so the others go on."""
    outcomes: list[DocumentRecord | RagError] = []
    made: list[Document] = []
    for one in group:
        try:
            row = _row(dataset, one, folder, principal, now)
        except RagError as error:
            outcomes.append(error)
        else:
            made.append(row)
            outcomes.append(record_of(row, now))
    if made:
        BlobGarbage.delete().where(BlobGarbage.blob_key.in_([row.blob_key for row in made])).execute()
        count_chunks(dataset, documents=len(made), now=now)
    return outcomes


def _row(dataset: Dataset, one: _Checked, folder: str, principal: Principal, now: int) -> Document:
    free = deduplicate(one.name, lambda candidate: taken(dataset, Document.name == candidate))
    check_file_name_length(free)
    location = _free_location(dataset, folder, free)
    return Document.create(
        id=new_id(),
        dataset_id=dataset.id,
        tenant_id=dataset.tenant_id,
        created_by=principal.user_id,
        name=free,
        name_fold=free.casefold(),
        location=location,
        suffix=extension(free),
        type=one.kind,
        size=one.file.size,
        sha256=one.file.sha256,
        blob_key=key_of(one.file.sha256),
        chunk_method=method_at_upload(free, one.kind, dataset.chunk_method),
        parser_config=dataset.parser_config,
        meta_fields={},
        create_time=now,
        update_time=now,
    )


def taken(dataset: Dataset, condition: Any) -> bool:
    """Whether a document of the dataset fits."""
    return bool(Document.select(Document.id).where(condition & (Document.dataset_id == dataset.id)).exists())


def _free_location(dataset: Dataset, folder: str, name: str) -> str:
    """Where the document says it lies; `_` is appended until no other document of the dataset says so."""
    location = f"{folder}/{name}" if folder else name
    while taken(dataset, Document.location == location):
        location += "_"
    if len(location) > MAX_LOCATION_CHARS:
        raise LimitExceeded(
            f"The folder and name have more than {MAX_LOCATION_CHARS} characters.",
            field="parent_path",
            limit=MAX_LOCATION_CHARS,
        )
    return location
