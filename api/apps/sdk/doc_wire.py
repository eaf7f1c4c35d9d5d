"""The document object of the contract (documents.md section 1), and what a change to it may hold (section 4)."""

from typing import Any

from api.apps import repr_texts
from api.apps.body import whole_number
from api.apps.envelope import Refused, bad_argument, http_date, times, uncaught
from api.db.services.file_types import method_is_fixed
from api.db.services.names import MAX_FILE_NAME_BYTES, extension
from api.db.services.parser_configs import DOCUMENT_METHODS, deep_merge
from api.db.services.records import DocumentRecord
from api.errors import DATA_ERROR
from rag.core.errors import InvalidInput


def uploaded_body(record: DocumentRecord) -> dict[str, Any]:
    """What the answer to an upload says of a document."""
    return {
        "id": record.id,
        "dataset_id": record.dataset_id,
        "name": record.name,
        "location": record.location,
        "suffix": record.suffix,
        "type": record.type,
        "size": record.size,
        "thumbnail": "",
        "chunk_method": record.chunk_method,
        "parser_config": record.parser_config,
        "pipeline_id": None,
        "source_type": record.source_type,
        "created_by": record.created_by,
        "run": record.run,
    }


def document_body(record: DocumentRecord, *, listed: bool = False) -> dict[str, Any]:
    """The whole document; lists also carry `title`."""
    body = uploaded_body(record) | {
        "chunk_count": record.chunk_count,
        "token_count": record.token_count,
        "progress": record.progress,
        "progress_msg": record.progress_msg,
        "process_begin_at": http_date(record.process_begin_at),
        "process_duration": record.process_duration,
        "meta_fields": record.meta_fields,
        "status": "1" if record.enabled else "0",
        **times(record.create_time, record.update_time),
    }
    return body | {"title": None} if listed else body


def changes_of(body: dict[str, Any], stored: DocumentRecord) -> dict[str, Any]:
    """The changes that `body` asks for, checked in the contract's order. Unknown keys are ignored.

    Raises:
        Refused: in the contract's words.
    """
    for key in ("chunk_count", "token_count", "progress"):
        if key in body and body[key] != getattr(stored, key):
            raise Refused(DATA_ERROR, f"Can't change `{key}`.")
    changes: dict[str, Any] = {}
    if "meta_fields" in body:
        if not isinstance(body["meta_fields"], dict):
            raise Refused(DATA_ERROR, "meta_fields must be a dictionary")
        changes["meta_fields"] = body["meta_fields"]
    if "name" in body and body["name"] != stored.name:
        changes["name"] = _name(body["name"], stored)
    if body.get("parser_config"):
        changes["parser_config"] = _parser_config(body["parser_config"], stored)
    if "chunk_method" in body:
        changes["chunk_method"] = _chunk_method(body["chunk_method"], stored)
    if "enabled" in body:
        enabled, shown = body["enabled"], "1" if stored.enabled else "0"
        if enabled != shown:
            changes["enabled"] = bool(whole_number(enabled))
    return changes


def _name(name: Any, stored: DocumentRecord) -> str:
    if not isinstance(name, str):
        raise uncaught(repr_texts.lacks(name, "encode"))
    if len(name.encode()) > MAX_FILE_NAME_BYTES:
        raise bad_argument("File name must be 255 bytes or less.")
    if extension(name).lower() != extension(stored.name).lower() or not name:
        raise bad_argument("The extension of file can't be changed")
    return name


def _parser_config(config: Any, stored: DocumentRecord) -> dict[str, Any]:
    if not isinstance(config, dict):
        raise uncaught(repr_texts.lacks(config, "items"))
    try:
        merged = deep_merge(stored.parser_config, config)
    except InvalidInput as error:
        raise uncaught(repr_texts.FAILED_CHECK) from error
    if not config.get("raptor"):
        merged.pop("raptor", None)  # the contract's own oddity
    return merged


def _chunk_method(method: Any, stored: DocumentRecord) -> str:
    if not isinstance(method, str) or method not in DOCUMENT_METHODS:
        raise Refused(DATA_ERROR, f"`chunk_method` {method} doesn't exist")
    if method_is_fixed(stored.name, stored.type):
        raise Refused(DATA_ERROR, "Not supported yet!")
    return method
