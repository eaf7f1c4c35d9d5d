"""Changes to one document, as the wire contract has them, but all or nothing. For use inside `Database.write`."""

from typing import Any

from api.db.services.file_types import method_is_fixed
from api.db.services.index_follow import enqueue_renewal
from api.db.services.names import check_file_name_length, clean_file_name, extension
from api.db.services.parse_requests import clear
from api.db.services.parser_configs import DOCUMENT_METHODS, deep_merge, default_parser_config
from api.db.tables import Chunk, Dataset, Document
from rag.core.errors import Conflict, InvalidInput, Unsupported

_CHANGEABLE = frozenset(("name", "meta_fields", "parser_config", "chunk_method", "enabled"))


def apply_changes(dataset: Dataset, row: Document, changes: dict[str, Any], now: int) -> None:
    """Store `changes` in `row` (see `DocumentService.update` for what they may be and what is raised)."""
    unknown = sorted(changes.keys() - _CHANGEABLE)
    if unknown:
        raise InvalidInput(f"A document's {unknown[0]!r} cannot be changed.", field=unknown[0])
    if "name" in changes:
        _rename(dataset, row, changes["name"], now)
    if "meta_fields" in changes:
        row.meta_fields = changes["meta_fields"]
    if "parser_config" in changes:
        row.parser_config = changes["parser_config"]
    if "chunk_method" in changes:
        _change_method(dataset, row, changes["chunk_method"], keep_config="parser_config" in changes, now=now)
    if "enabled" in changes:
        _switch(dataset, row, bool(changes["enabled"]), now)
    row.update_time = now
    row.save()


def _rename(dataset: Dataset, row: Document, name: str, now: int) -> None:
    """The index has the name in front of each chunk's text, so it follows."""
    if name == row.name:
        return
    check_file_name_length(name)
    if extension(name).lower() != extension(row.name).lower():
        raise InvalidInput("The extension of file can't be changed", field="name")
    cleaned = clean_file_name(name)
    taken = Document.select(Document.id).where(
        (Document.dataset_id == dataset.id) & (Document.name == cleaned) & (Document.id != row.id)
    )
    if taken.exists():
        raise Conflict(f"The dataset has another document named {cleaned!r}.", field="name")
    row.name, row.name_fold = cleaned, cleaned.casefold()
    row.suffix = extension(cleaned)
    if row.live_version:
        enqueue_renewal(dataset.place, row.id, now)


def _switch(dataset: Dataset, row: Document, enabled: bool, now: int) -> None:
    """Switch the document and all its chunks on or off.

    Searches leave a switched-off document out by its version. Its index entries may say so too, if it was ingested
    while it was off: switching on has them written again.
    """
    if enabled and not row.enabled and row.live_version:
        enqueue_renewal(dataset.place, row.id, now)
    row.enabled = enabled
    Chunk.update(available=enabled).where(Chunk.document_id == row.id).execute()


def _change_method(dataset: Dataset, row: Document, method: str, *, keep_config: bool, now: int) -> None:
    if method not in DOCUMENT_METHODS:
        raise InvalidInput(f"There is no chunk method {method!r}.", field="chunk_method")
    if method_is_fixed(row.name, row.type):
        raise Unsupported("The chunk method of pictures and slides is fixed.", field="chunk_method")
    if not keep_config:
        row.parser_config = deep_merge(row.parser_config, default_parser_config(method))
    if method == row.chunk_method:
        return
    row.chunk_method = method
    row.progress_msg = ""
    clear(dataset, row, run="UNSTART", now=now)
