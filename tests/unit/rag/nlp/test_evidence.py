import pytest

from rag.core.types import ChunkText, Hit
from rag.nlp.evidence import evidence, found_anything


def hit(cosine: float, covered: float) -> Hit:
    chunk = ChunkText(
        chunk_id="c", document_id="d", version_id="v", dataset_id="s", document_name="n", ordinal=0, content="x"
    )
    return Hit(chunk=chunk, rank=1, similarity=0, vector_similarity=cosine, term_similarity=covered, fused=0)


@pytest.mark.parametrize(
    ("hits", "value"),
    [
        ([], 0.0),
        ([hit(0.6, 1.0)], 0.6),
        ([hit(0.6, 0.0), hit(0.4, 1.0)], 0.4),
        ([hit(-0.3, 1.0)], 0.0),
        ([hit(0.0, 0.4), hit(0.0, 0.7)], 0.7),
    ],
)
def test_evidence(hits: list[Hit], value: float) -> None:
    assert evidence(hits) == pytest.approx(value)


def test_nothing_found_is_an_absolute_judgement() -> None:
    assert not found_anything([])
    assert not found_anything([hit(0.2, 0.2), hit(0.15, 0.1)]), "the best of bad hits stays bad"
    assert found_anything([hit(0.5, 0.5)])
