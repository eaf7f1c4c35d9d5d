"""What a chunk method's configuration holds when nobody says otherwise, and how a partial one is merged.

The values are the wire contract's (datasets, section 3): clients compare them.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from rag.core.errors import InvalidInput

RAPTOR_PROMPT = (
    "Please summarize the following paragraphs. Be careful with the numbers, do not make things up. "
    "Paragraphs as following:\n      {cluster_content}\nThe above is the content you need to summarize."
)
_RAPTOR_SIZES: dict[str, Any] = {
    "prompt": RAPTOR_PROMPT,
    "max_token": 256,
    "threshold": 0.1,
    "max_cluster": 64,
    "random_seed": 0,
}
_ENTITY_TYPES = ["organization", "person", "geo", "event", "category"]
_FLAGS_OFF: dict[str, Any] = {"raptor": {"use_raptor": False}, "graphrag": {"use_graphrag": False}}

_NAIVE: dict[str, Any] = {
    "layout_recognize": "DeepDOC",
    "chunk_token_num": 512,
    "delimiter": "\n",
    "auto_keywords": 0,
    "auto_questions": 0,
    "html4excel": False,
    "topn_tags": 3,
    "raptor": {"use_raptor": True, **_RAPTOR_SIZES},
    "graphrag": {"use_graphrag": True, "entity_types": _ENTITY_TYPES, "method": "light"},
}
_KNOWLEDGE_GRAPH: dict[str, Any] = {
    "chunk_token_num": 8192,
    "delimiter": "\\n",
    "entity_types": ["organization", "person", "location", "event", "time"],
    **_FLAGS_OFF,
}
_BY_METHOD: dict[str, dict[str, Any]] = {
    "naive": _NAIVE,
    "qa": _FLAGS_OFF,
    "manual": _FLAGS_OFF,
    "paper": _FLAGS_OFF,
    "book": _FLAGS_OFF,
    "laws": _FLAGS_OFF,
    "presentation": _FLAGS_OFF,
    "table": {},
    "tag": {},
    "one": {},
    "email": {},
    "picture": {},
    "audio": {},
    "resume": {},
    "knowledge_graph": _KNOWLEDGE_GRAPH,
}
_FILLED: dict[str, Any] = {
    "auto_keywords": 0,
    "auto_questions": 0,
    "chunk_token_num": 512,
    "delimiter": "\\n",
    "html4excel": False,
    "layout_recognize": "DeepDOC",
    "tag_kb_ids": [],
    "topn_tags": 1,
    "filename_embd_weight": 0.1,
    "task_page_size": None,
    "pages": None,
    "raptor": {"use_raptor": False, **_RAPTOR_SIZES},
    "graphrag": {
        "use_graphrag": False,
        "entity_types": _ENTITY_TYPES,
        "method": "light",
        "community": False,
        "resolution": False,
    },
}

DATASET_METHODS = frozenset(
    ["naive", "book", "email", "laws", "manual", "one", "paper", "picture", "presentation", "qa", "table", "tag"]
)
"""What a dataset may be set to."""
DOCUMENT_METHODS = DATASET_METHODS | {"knowledge_graph"}
"""What a document may be set to."""


def default_parser_config(method: str) -> dict[str, Any]:
    """The configuration stored for `method` when none is given; a fresh copy, empty for unknown methods."""
    return deepcopy(_BY_METHOD.get(method, {}))


def filled_parser_config(method: str, sent: Mapping[str, Any] | None) -> dict[str, Any]:
    """The configuration stored at creation: `method`'s own when nothing was sent, else every known key.

    A partial configuration also switches RAPTOR and the knowledge graph off unless it says otherwise.
    """
    stored = default_parser_config(method)
    if not sent:
        return stored
    return deep_merge(deep_merge(stored, _FILLED), sent)


def deep_merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A new mapping: objects merge, lists and single values replace.

    Raises:
        InvalidInput: an object would replace a single value; `facts["key"]` names it.
    """
    merged: dict[str, Any] = deepcopy(dict(base))
    for key, value in changes.items():
        if isinstance(value, Mapping) and key in merged and merged[key] is not None:
            below = merged[key]
            if not isinstance(below, Mapping):
                raise InvalidInput(f"{key!r} holds a single value; an object cannot be merged into it.", key=key)
            merged[key] = deep_merge(below, value)
        else:
            merged[key] = deepcopy(value)
    return merged
