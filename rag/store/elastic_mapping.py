"""Names, mapping and documents of the Elasticsearch index: what is written where.

Each place is an alias, `<prefix>.<place>`, over one index, `<prefix>.<place>.<schema>`; a pooled place is a filtered
and routed alias over an index that all pooled places of these dimensions share, `<prefix>.pool-<dim>.<schema>`.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import orjson
import xxhash
import yaml

from rag.core.errors import InvalidInput
from rag.core.resources import conf_path
from rag.core.settings import IndexSettings
from rag.store.base import Entry, EntryKey, Place

FILE = "elasticsearch.yaml"


class Layout:
    """The mapping file, and the names under one prefix."""

    def __init__(self, settings: IndexSettings) -> None:
        self._settings = settings
        self._body: dict[str, Any] = yaml.safe_load(conf_path(FILE).read_text("utf-8"))
        self.schema: int = self._body["mappings"]["_meta"]["parley"]["schema"]

    @property
    def pattern(self) -> str:
        """Every index under the prefix."""
        return f"{self._settings.prefix}.*"

    def alias(self, place: Place) -> str:
        """The name a place is read and written by."""
        return f"{self._settings.prefix}.{place.name}"

    def index(self, place: Place) -> str:
        """The index of a place that is new."""
        own = f"pool-{place.dim}" if self._settings.pooled else place.name
        return f"{self._settings.prefix}.{own}.{self.schema}"

    def is_pool(self, index: str) -> bool:
        """Whether several places share this index."""
        return index.startswith(f"{self._settings.prefix}.pool-")

    def create(self, place: Place) -> bytes:
        """The body that creates `index(place)`, with its alias unless it is a pool."""
        body = deepcopy(self._body)
        body["settings"] |= {
            "number_of_shards": self._settings.shards,
            "number_of_replicas": self._settings.replicas,
        }
        body["mappings"]["properties"]["vector"]["dims"] = place.dim
        if not self._settings.pooled:
            body["aliases"] = {self.alias(place): {"is_write_index": True}}
        return orjson.dumps(body)

    def join_pool(self, place: Place) -> bytes:
        """The body of the call that makes a pooled place's alias."""
        alias = {
            "index": self.index(place),
            "alias": self.alias(place),
            "routing": place.name,
            "filter": {"term": {"place": place.name}},
        }
        return orjson.dumps({"actions": [{"add": alias}]})

    def leave_pool(self, place: Place, index: str) -> bytes:
        """The body of the call that removes a pooled place's alias."""
        return orjson.dumps({"actions": [{"remove": {"index": index, "alias": self.alias(place)}}]})

    def foreign(self, index: str, found: dict[str, Any]) -> str:
        """Why an index is not ours to touch, in a sentence that says what to do; empty if it is."""
        if _meta_of(found) is not None:
            return ""
        return (
            f"The index {index!r} was not made by Parley: delete or rename it, or choose another index.prefix, "
            "then run `parley index rebuild`."
        )

    def outdated(self, found: dict[str, Any]) -> bool:
        """Whether an older Parley made the index, so that `parley index rebuild` mends it."""
        meta = _meta_of(found)
        return meta is not None and meta.get("schema") != self.schema and not self._newer(meta)

    def _newer(self, meta: dict[str, Any]) -> bool:
        schema = meta.get("schema")
        return isinstance(schema, int) and schema > self.schema

    def fault(self, index: str, found: dict[str, Any], dim: int) -> str:
        """What is wrong with an index, in a sentence that says what to do; empty if nothing is.

        Args:
            found: What the server tells of the index; `dim` 0 means that any will do.
        """
        meta = _meta_of(found)
        if meta is None:
            return self.foreign(index, found)
        schema = meta.get("schema")
        if schema != self.schema:
            advice = "upgrade Parley, or run" if self._newer(meta) else "run"
            return (
                f"The index {index!r} has mapping version {schema!r}, this version of Parley works with {self.schema}: "
                f"{advice} `parley index rebuild`."
            )
        dims = (((found.get("mappings") or {}).get("properties") or {}).get("vector") or {}).get("dims")
        if dim and dims != dim:
            return (
                f"The index {index!r} holds vectors of {dims} numbers, {dim} are wanted: choose the embedding model it "
                "was made with, or run `parley index rebuild`."
            )
        return ""


def _meta_of(found: dict[str, Any]) -> dict[str, Any] | None:
    """What we noted of an index; None if it is somebody else's."""
    meta = ((found.get("mappings") or {}).get("_meta") or {}).get("parley")
    return meta if isinstance(meta, dict) else None


def id_of(place: Place, key: EntryKey) -> str:
    """`_id`: a hash of the whole key, whatever is in it, and of the place, as pooled places share an index."""
    whole = json.dumps([place.name, key.document_id, key.version_id, key.chunk_id])
    return hashlib.blake2b(whole.encode(), digest_size=16).hexdigest()


def bucket_of(key: EntryKey) -> int:
    """A number that orders the sample: above all by the document and the chunk alone, equal ones by version."""
    chunk = xxhash.xxh32_intdigest(f"{key.document_id}/{key.chunk_id}".encode("utf-8", "replace")) & 0x7FFFFFFF
    return chunk << 32 | xxhash.xxh32_intdigest(key.version_id.encode("utf-8", "replace"))


def index_lines(place: Place, entries: Iterable[Entry]) -> list[bytes]:
    """The two lines of a bulk call that write an entry, one item each.

    Raises:
        InvalidInput: an id or the tokens are not Unicode that can be stored, or the vector is not finite.
    """
    return [_index_line(place, entry) for entry in entries]


def delete_lines(place: Place, keys: Sequence[EntryKey]) -> list[bytes]:
    """The lines of a bulk call that deletes entries, one item each."""
    return [b'{"delete":{"_id":"%s"}}\n' % id_of(place, key).encode() for key in keys]


def _index_line(place: Place, entry: Entry) -> bytes:
    exact = np.ascontiguousarray(entry.vector, dtype="<f4")
    length = float(np.linalg.norm(exact))
    if not np.isfinite(length):
        raise InvalidInput(f"The vector of the chunk {entry.key.chunk_id!r} holds numbers that are not finite.")
    document: dict[str, Any] = {
        "place": place.name,
        "document_id": entry.key.document_id,
        "version_id": entry.key.version_id,
        "chunk_id": entry.key.chunk_id,
        "dataset_id": entry.dataset_id,
        "available": entry.available,
        "bucket": bucket_of(entry.key),
        "tokens": entry.tokens,
        "exact": base64.b64encode(exact.tobytes()).decode("ascii"),
    }
    if length > 0.0:
        document["vector"] = exact if abs(length - 1.0) < 1e-5 else exact / np.float32(length)
    try:
        line = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        raise InvalidInput(f"The chunk {entry.key.chunk_id!r} cannot be written to the index: {error}.") from error
    return b'{"index":{"_id":"%s"}}\n%s\n' % (id_of(place, entry.key).encode(), line)
