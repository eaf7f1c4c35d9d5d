import orjson
import pytest

from api.db.services.references import reference_of_json, reference_to_json
from rag.core.types import CitedChunk, DocumentCount, Position, Reference

REFERENCE = Reference(
    total=7,
    chunks=(
        CitedChunk(
            index=3,
            chunk_id="c",
            document_id="d",
            document_name="a\u2028{b}.pdf",
            dataset_id="k",
            content="text \u0000 ünï 文",
            positions=(Position(page=2, left=1.5, right=2.25, top=3, bottom=4),),
            similarity=0.1,
            vector_similarity=-0.2,
            term_similarity=0.3,
            image_id="i",
            url="https://example.com",
            kind="table",
        ),
    ),
    documents=(DocumentCount(document_id="d", document_name="a.pdf", count=1),),
)


def test_a_reference_comes_back_as_it_was() -> None:
    assert reference_of_json(orjson.loads(orjson.dumps(reference_to_json(REFERENCE)))) == REFERENCE
    assert reference_of_json(reference_to_json(Reference())) == Reference()


@pytest.mark.parametrize("stored", [None, [], "x", 3])
def test_rows_without_sources_have_none(stored: object) -> None:
    assert reference_of_json(stored) is None


def test_old_and_damaged_rows_are_read_as_far_as_they_go() -> None:
    stored = {
        "chunks": [
            {"chunk_id": "a", "content": "x", "future": 1},
            "no chunk",
            {"index": 5, "positions": [[1, 2, 3, 4, 5], [1], None, "x"], "url": 3, "similarity": None},
        ],
        "documents": ["x", {"document_id": "d"}],
        "unknown": True,
    }
    reference = reference_of_json(stored)
    assert reference is not None
    assert [chunk.index for chunk in reference.chunks] == [0, 5]
    assert reference.total == 2
    assert reference.chunks[1].positions == (Position(page=1, left=2, right=3, top=4, bottom=5),)
    assert reference.chunks[1].url is None
    assert reference.documents == (DocumentCount(document_id="d", document_name="", count=0),)
