"""Chat assistants on the wire (chats.md): bodies become changes of records, records become objects.

Names differ on both sides, and the stored prompt keeps what clients add to it. Checks that need other objects
are in `chat.py`; here are those that need only the body.
"""

from collections.abc import Mapping
from typing import Any, Final

from api.apps import repr_texts
from api.apps.body import as_object, number, whole_number
from api.apps.envelope import Refused, times, uncaught
from api.db.services.assistant_defaults import PROMPT
from api.db.services.records import DatasetRecord, DialogRecord
from api.db.services.web_pages import without_key
from api.errors import DATA_ERROR, EXCEPTION

_PROMPT_NAMES: Final = {
    "prompt": "system",
    "opener": "prologue",
    "variables": "parameters",
    "show_quote": "quote",
}
_SEARCH_NAMES: Final = {
    "similarity_threshold": "similarity_threshold",
    "keywords_similarity_weight": "vector_similarity_weight",
    "top_n": "top_n",
    "top_k": "top_k",
    "rerank_model": "rerank_id",
}
_TEXT_COLUMNS: Final = {"name": "name", "description": "description", "avatar": "icon", "icon": "icon"} | {
    key: key for key in ("language", "prompt_type")
}
_OTHER_COLUMNS: Final = (
    "meta_data_filter",
    "do_refer",
    "similarity_threshold",
    "vector_similarity_weight",
    "top_n",
    "top_k",
)
_OWN_COLUMNS: Final = ("id", "tenant_id", "status")
_TIME_COLUMNS: Final = ("create_time", "create_date", "update_time", "update_date")
LONGEST_NAME: Final = 255


def llm_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The `llm` object of a body; `{}` where it is absent, null or empty."""
    return as_object(body.get("llm") or {})


def prompt_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The `prompt` object of a body; `{}` where it is absent, null or empty."""
    return as_object(body.get("prompt") or {})


def prompt_config(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that are kept as the prompt, by their internal names; the wire's name wins."""
    kept = {key: value for key, value in prompt.items() if key not in _SEARCH_NAMES}
    for wire, internal in _PROMPT_NAMES.items():
        if wire in kept:
            kept[internal] = kept.pop(wire)
    return kept


def search_settings(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a prompt that are columns of the chat. The weight is kept as it is sent (a quirk)."""
    found = {}
    for wire, column in _SEARCH_NAMES.items():
        value = prompt.get(wire)
        if value is not None:
            found[column] = _column_value(column, value)
    return found


def _column_value(column: str, value: Any) -> Any:
    if column in ("top_n", "top_k"):
        return whole_number(value)
    if column in ("similarity_threshold", "vector_similarity_weight"):
        return number(value)
    if column == "do_refer":
        return str(int(value)) if isinstance(value, bool) else str(value)[:1]
    if column == "meta_data_filter":
        return as_object(value or {})
    return str(value)


def with_defaults(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """A new chat's prompt; an empty system text counts as absent."""
    return {**PROMPT, **prompt, "system": prompt.get("system") or PROMPT["system"]}


def check_variables(prompt: Mapping[str, Any]) -> None:
    """Refuse a mandatory variable that the system text has no slot for, and a variable without its two keys."""
    system = str(prompt.get("system") or "")
    variables = prompt.get("parameters") or []
    if not isinstance(variables, list):
        raise uncaught(repr_texts.not_iterable(variables))
    for variable in variables:
        for key in ("optional", "key"):
            if key not in as_object(variable):
                raise uncaught(repr_texts.missing(key))
        name = variable["key"]
        if not variable["optional"] and f"{{{name}}}" not in system:
            raise Refused(DATA_ERROR, f"Parameter '{name}' is not used")


def check_name(name: Any) -> str:
    """`name`, where it is a text the rows can hold."""
    if not isinstance(name, str):
        raise uncaught(repr_texts.lacks(name, "strip"))
    if len(name) > LONGEST_NAME:
        text, data = repr_texts.LONG_NAME
        raise Refused(EXCEPTION, text, data=data)
    return name


def columns_of_create(body: Mapping[str, Any]) -> dict[str, Any]:
    """Columns a create body may set directly; others are ignored."""
    found = {
        column: _column_value(column, body[wire])
        for wire, column in _TEXT_COLUMNS.items()
        if body.get(wire) is not None
    }
    for column in ("meta_data_filter", "do_refer"):
        if body.get(column) is not None:
            found[column] = _column_value(column, body[column])
    return found


def columns_of_update(body: Mapping[str, Any], stored: DialogRecord) -> dict[str, Any]:
    """Columns an update body sets directly.

    Raises:
        Refused: 100, a key that is no column, one that may not change, or `llm` or `prompt` without content.
    """
    found = {}
    for key, value in body.items():
        if key in _TEXT_COLUMNS:
            found[_TEXT_COLUMNS[key]] = "" if value is None else str(value)
        elif key in _OTHER_COLUMNS and value is not None:
            found[key] = _column_value(key, value)
        elif not _may_be_sent(key, value, stored):
            raise uncaught(repr_texts.unknown_field(key, body))
    return found


def _may_be_sent(key: str, value: Any, stored: DialogRecord) -> bool:
    """Whether an update may carry this key although it is no column of its own, or one it may not change."""
    if key in ("llm", "prompt"):
        return bool(value)
    if key in _OWN_COLUMNS:
        return bool(value == getattr(stored, key))
    return key in (*_TIME_COLUMNS, "dataset_ids")


def chat_wire(chat: DialogRecord) -> dict[str, Any]:
    """What the create form and the list form share."""
    return {
        "id": chat.id,
        "tenant_id": chat.tenant_id,
        "name": chat.name,
        "description": chat.description,
        "avatar": chat.icon,
        "language": chat.language,
        "llm": chat.llm_setting | {"model_name": chat.llm_id},
        "prompt": prompt_wire(chat),
        "prompt_type": chat.prompt_type,
        "meta_data_filter": chat.meta_data_filter,
        "do_refer": chat.do_refer,
        "status": chat.status,
    } | times(chat.create_time, chat.update_time)


def prompt_wire(chat: DialogRecord) -> dict[str, Any]:
    """The prompt by the wire's names, and the search settings that travel in it."""
    shown = without_key(chat.prompt_config)
    for wire, internal in _PROMPT_NAMES.items():
        if internal in shown:
            shown[wire] = shown.pop(internal)
    shown |= {
        "similarity_threshold": chat.similarity_threshold,
        "keywords_similarity_weight": 1 - chat.vector_similarity_weight,
        "top_n": chat.top_n,
        "rerank_model": chat.rerank_id,
    }
    return dict(sorted(shown.items()))


def dataset_row_wire(dataset: DatasetRecord) -> dict[str, Any]:
    """An item of `datasets` in the list form: a row, by internal names (a quirk)."""
    row: dict[str, Any] = {
        "id": dataset.id,
        "name": dataset.name,
        "avatar": dataset.avatar,
        "tenant_id": dataset.tenant_id,
        "created_by": dataset.created_by,
        "language": dataset.language,
        "description": dataset.description,
        "permission": dataset.permission,
        "embd_id": dataset.embedding_model,
        "doc_num": dataset.document_count,
        "token_num": dataset.token_count,
        "chunk_num": dataset.chunk_count,
        "similarity_threshold": dataset.similarity_threshold,
        "vector_similarity_weight": dataset.vector_similarity_weight,
        "parser_id": dataset.chunk_method,
        "pipeline_id": None,
        "parser_config": dataset.parser_config,
        "pagerank": dataset.pagerank,
        "status": "1",
    }
    for kind in ("graphrag", "raptor", "mindmap"):
        row |= {f"{kind}_task_id": None, f"{kind}_task_finish_at": None}
    return row | times(dataset.create_time, dataset.update_time)
