"""What a search reads of the rows."""

import pytest

from api.db.services.chunk_rows import available_texts
from api.db.tables import Chunk, Document
from rag.core.types import ChunkText
from tests.unit.api.db.services.world import World


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        ({}, ()),
        ({"author": "Ann", "year": 2022}, (("author", "Ann"), ("year", "2022"))),
        ({"tags": ["a", "b"], "note": None}, (("tags", '["a","b"]'), ("note", "null"))),
        ([1, 2], ()),
    ],
)
async def test_passages_carry_the_metadata_of_their_document(world: World, stored: object, told: object) -> None:
    dataset = await world.dataset()
    document, _ = await world.parsed(dataset, "a.pdf", ["cash"])

    def read() -> list[ChunkText]:
        Document.update(meta_fields=stored).where(Document.id == document.id).execute()
        row = Chunk.get(Chunk.document_id == document.id)
        return list(available_texts({row.version_id: [row.chunk_id]}))

    (chunk,) = await world.db.write(read)
    assert chunk.metadata == told
    assert (chunk.document_name, chunk.content) == ("a.pdf", "cash")
