"""The one place that maps a chunk to its row and back."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from api.db.raw_sql import execute, execute_many
from api.db.services.owned import in_groups
from api.db.tables import Chunk, database_proxy
from rag.core.types import ChunkText, Position

_WRITTEN = (
    "document_id, version_id, chunk_id, dataset_id, ordinal, content, heading_path, positions, page, top, "
    "token_count, important_keywords, questions, available, image_id, kind, create_time"
)


def write_rows(chunks: Iterable[ChunkText]) -> None:
    """Write the rows of `chunks`, in place of those that are there under their keys.

    Sent as text: peewee takes longer to put such a statement together than the engine to carry it out.
    """
    marks = ", ".join([database_proxy.param] * (_WRITTEN.count(",") + 1))
    execute_many(
        database_proxy.obj, f"REPLACE INTO chunk ({_WRITTEN}) VALUES ({marks})", (_values_of(chunk) for chunk in chunks)
    )


def _values_of(chunk: ChunkText) -> tuple[object, ...]:
    """The row in the order of `_WRITTEN`. The document's name stays with the document."""
    first = chunk.positions[0] if chunk.positions else None
    return (
        chunk.document_id,
        chunk.version_id,
        chunk.chunk_id,
        chunk.dataset_id,
        chunk.ordinal,
        chunk.content,
        _json(chunk.heading_path),
        _json(positions_to_json(chunk.positions)),
        first.page if first else None,
        first.top if first else 0.0,
        chunk.token_count,
        _json(chunk.important_keywords),
        _json(chunk.questions),
        chunk.available,
        chunk.image_id,
        chunk.kind,
        chunk.create_time,
    )


def _json(value: Sequence[object]) -> str:
    return orjson.dumps(value).decode() if value else "[]"


def text_of(row: Chunk, document_name: str, *, available: bool | None = None) -> ChunkText:
    """The chunk of a row. `available` overrides the row's own flag (a disabled document has no available ones)."""
    return ChunkText(
        chunk_id=row.chunk_id,
        document_id=row.document_id,
        version_id=row.version_id,
        dataset_id=row.dataset_id,
        document_name=document_name,
        ordinal=row.ordinal,
        content=row.content,
        heading_path=tuple(row.heading_path or ()),
        positions=positions_from_json(row.positions),
        token_count=row.token_count,
        important_keywords=tuple(row.important_keywords or ()),
        questions=tuple(row.questions or ()),
        available=row.available if available is None else available,
        image_id=row.image_id,
        kind=row.kind,
        create_time=row.create_time,
    )


_TEXT_COLUMNS = (
    "c.document_id, c.version_id, c.chunk_id, c.dataset_id, c.ordinal, c.content, c.heading_path, c.positions, "
    "c.token_count, c.important_keywords, c.questions, c.image_id, c.kind, c.create_time, d.name, d.meta_fields"
)
_VERSIONS_AT_ONCE = 100


def available_texts(by_version: Mapping[str, Collection[str]]) -> Iterator[ChunkText]:
    """Those of the chunks named by version and chunk id that are available, of live versions of enabled documents.

    Sent as text, because each search makes it: for 128 chunks the statement and models of peewee cost 4 ms more.
    Each pair is one look-up in the primary key.
    """
    mark = database_proxy.param
    for group in in_groups(by_version.items(), _VERSIONS_AT_ONCE):
        places = " OR ".join(
            f"(c.version_id = {mark} AND c.chunk_id IN ({', '.join([mark] * len(ids))}))" for _, ids in group
        )
        values = [value for version_id, ids in group for value in (version_id, *ids)]
        statement = (
            f"SELECT {_TEXT_COLUMNS} FROM chunk c JOIN document d ON d.id = c.document_id "
            f"AND d.live_version = c.version_id AND d.enabled = 1 WHERE c.available = 1 AND ({places})"
        )
        for row in execute(database_proxy.obj, statement, values).fetchall():
            yield _text_of_values(row)


_HIDDEN = """
SELECT id FROM document_version WHERE place = {mark}
UNION SELECT live_version FROM document
WHERE enabled = 0 AND live_version IS NOT NULL AND dataset_id IN (SELECT id FROM dataset WHERE place = {mark})
"""


def hidden_versions(place: str) -> tuple[str, ...]:
    """Versions in `place` that no search may see: being written, waiting to be swept, or switched off.

    Sent as text, because each search asks: composing the two statements costs more than their answers.
    """
    cursor = execute(database_proxy.obj, _HIDDEN.format(mark=database_proxy.param), [place, place])
    return tuple(sorted(row[0] for row in cursor.fetchall()))


def _text_of_values(row: tuple[Any, ...]) -> ChunkText:
    """The chunk of a row of `_TEXT_COLUMNS`."""
    return ChunkText(
        document_id=row[0],
        version_id=row[1],
        chunk_id=row[2],
        dataset_id=row[3],
        document_name=row[14],
        ordinal=row[4],
        content=row[5],
        heading_path=_strings(row[6]),
        positions=() if row[7] == "[]" else positions_from_json(orjson.loads(row[7])),
        token_count=row[8],
        important_keywords=_strings(row[9]),
        questions=_strings(row[10]),
        image_id=row[11],
        kind=row[12],
        create_time=row[13],
        metadata=_metadata(row[15]),
    )


def _metadata(text: str | None) -> tuple[tuple[str, str], ...]:
    """The fields of a document's metadata, in their order."""
    if not text or text == "{}":
        return ()
    fields = orjson.loads(text)
    return tuple((str(key), _told(value)) for key, value in fields.items()) if isinstance(fields, dict) else ()


def _told(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _strings(text: str) -> tuple[str, ...]:
    return () if text == "[]" else tuple(orjson.loads(text))


def positions_to_json(positions: Iterable[Position]) -> list[list[float]]:
    """`[page, left, right, top, bottom]` each, points kept to a tenth."""
    return [[p.page, round(p.left, 1), round(p.right, 1), round(p.top, 1), round(p.bottom, 1)] for p in positions]


def positions_from_json(value: list[list[float]] | None) -> tuple[Position, ...]:
    return tuple(
        Position(page=int(page), left=left, right=right, top=top, bottom=bottom)
        for page, left, right, top, bottom in value or ()
    )
