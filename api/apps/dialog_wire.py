"""Chat assistants on the page's wire (web.md section 6): by internal names, and kept as they are sent."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from api.apps import repr_texts
from api.apps.body import as_object, number, texts, whole_number
from api.apps.envelope import Refused, times, uncaught
from api.apps.sdk.chat_wire import check_variables
from api.db.services.records import DialogRecord
from api.db.services.web_pages import without_key
from api.errors import DATA_ERROR

LONGEST_NAME: Final = 255
_DEFAULTS: Final[Mapping[str, Any]] = {
    "description": "A helpful dialog",
    "icon": "",
    "llm_setting": {},
    "top_n": 6,
    "top_k": 1024,
    "rerank_id": "",
    "similarity_threshold": 0.1,
    "vector_similarity_weight": 0.3,
    "meta_data_filter": {},
}
"""What a chat has that is made without these. The threshold is lower than that of the SDK's chats (the contract)."""
_TEXTS: Final = frozenset({"description", "icon", "rerank_id", "llm_id", "language", "prompt_type"})
_OBJECTS: Final = frozenset({"llm_setting", "prompt_config", "meta_data_filter"})
_WHOLE: Final = frozenset({"top_n", "top_k"})
_NUMBERS: Final = frozenset({"similarity_threshold", "vector_similarity_weight"})
_OTHERS: Final = frozenset({"do_refer", "name", "kb_ids"})
_COLUMNS: Final = _TEXTS | _OBJECTS | _WHOLE | _NUMBERS | _OTHERS
_OWN_COLUMNS: Final = ("id", "tenant_id", "status")
_IGNORED: Final = ("dialog_id", "kb_names", "create_time", "create_date", "update_time", "update_date")
_STORED: Final = ("name", "llm_id", "prompt_config", *_DEFAULTS)


def fields_of_create(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a new chat, without name and datasets; keys that are no columns are ignored.

    Raises:
        Refused: 100, a value of a wrong type.
    """
    known = {key: _column(key, body[key]) for key in (*_DEFAULTS, "prompt_config", "llm_id") if _given(body, key)}
    return dict(_DEFAULTS) | known


def fields_of_update(body: Mapping[str, Any], stored: DialogRecord) -> dict[str, Any]:
    """The columns that an update writes, without name and datasets.

    Raises:
        Refused: 100, a value of a wrong type, a key that is no column, or a column that may not change.
    """
    for key, value in body.items():
        own = key in _OWN_COLUMNS and value == getattr(stored, key)
        if key not in _COLUMNS and key not in _IGNORED and not own:
            raise uncaught(repr_texts.unknown_field(key, body))
    return {key: _column(key, body[key]) for key in _COLUMNS - {"name", "kb_ids"} if _given(body, key)}


def _given(body: Mapping[str, Any], key: str) -> bool:
    """Whether the body says something: an empty model means the tenant's."""
    return body.get(key) is not None and not (key == "llm_id" and body[key] == "")


def _column(key: str, value: Any) -> Any:
    if key in _WHOLE:
        return whole_number(value)
    if key in _NUMBERS:
        return number(value)
    if key in _OBJECTS:
        return as_object(value)
    if key == "do_refer":
        return str(int(value)) if isinstance(value, bool) else str(value)[:1]
    if not isinstance(value, str):
        raise uncaught(repr_texts.wrong_type(f"{key} must be text", value))
    return value


def name_of(body: Mapping[str, Any], default: str) -> str:
    """The name of a body.

    Raises:
        Refused: 102, in the contract's words.
    """
    name = body.get("name", default)
    if not isinstance(name, str):
        raise Refused(DATA_ERROR, "Dialog name must be string.")
    if not name.strip():
        raise empty_name()
    if len(name.strip()) > LONGEST_NAME:
        raise long_name(len(name.strip()))
    return name


def empty_name() -> Refused:
    return Refused(DATA_ERROR, "Dialog name can't be empty.")


def long_name(length: int) -> Refused:
    return Refused(DATA_ERROR, f"Dialog name length is {length} which is larger than {LONGEST_NAME}")


def datasets_of(body: Mapping[str, Any]) -> list[str]:
    """The ids of a body's datasets.

    Raises:
        Refused: 101, they are no list of texts.
    """
    return texts(body.get("kb_ids") or [], "kb_ids")


def check_prompt(prompt: Mapping[str, Any], dataset_ids: Iterable[str]) -> None:
    """Refuse a slot for knowledge where there is none to put in, and a mandatory variable without a slot.

    Raises:
        Refused: 102, in the contract's words; 100, a variable without its keys.
    """
    has_sources = any(dataset_ids) or prompt.get("tavily_api_key")
    if not has_sources and "{knowledge}" in str(prompt.get("system") or ""):
        text = "Please remove `{knowledge}` in system prompt since no knowledge base / Tavily used here."
        raise Refused(DATA_ERROR, text)
    check_variables(prompt)


def made_wire(chat: DialogRecord) -> dict[str, Any]:
    """A chat as it is answered when made: what was stored, without times."""
    stored = {key: getattr(chat, key) for key in _STORED} | {"prompt_config": without_key(chat.prompt_config)}
    return stored | {"id": chat.id, "tenant_id": chat.tenant_id, "kb_ids": list(chat.dataset_ids)}


def dialog_row(chat: DialogRecord) -> dict[str, Any]:
    """The row of a chat."""
    row = made_wire(chat) | {key: getattr(chat, key) for key in ("language", "prompt_type", "do_refer", "status")}
    return row | times(chat.create_time, chat.update_time)


def named_row(chat: DialogRecord, names: Mapping[str, str]) -> dict[str, Any]:
    """The row of a chat with the names of its datasets; those that were deleted are left out."""
    live = [each for each in chat.dataset_ids if each in names]
    return dialog_row(chat) | {"kb_ids": live, "kb_names": [names[each] for each in live]}
