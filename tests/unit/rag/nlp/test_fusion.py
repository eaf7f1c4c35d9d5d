from dataclasses import replace

import numpy as np
import pytest

from rag.nlp.fusion import FUSIONS, Lists, absolute_similarity, lifted_by_document, rrf, standout
from rag.nlp.statistics import Spread

WIDE, NARROW = Spread(mean=0.0, deviation=1.0), Spread(mean=0.0, deviation=0.1)


def lists(cosines: list[float], bm25: list[float], *, vector: Spread = NARROW, lexical: Spread = WIDE) -> Lists:
    order = np.argsort(-np.array(cosines)), np.argsort(-np.array(bm25))
    return Lists(
        cosines=np.array(cosines, dtype=np.float32),
        bm25=np.array(bm25, dtype=np.float32),
        lexical=tuple(int(i) for i in order[1] if bm25[i] > 0),
        vector=tuple(int(i) for i in order[0]),
        vector_spread=vector,
        lexical_spread=lexical,
    )


def test_the_list_that_stands_out_decides() -> None:
    words_stand_out = lists([0.5, 0.4], [1.0, 12.0], vector=Spread(mean=0.3, deviation=0.1), lexical=WIDE)
    assert np.argmax(standout(words_stand_out)) == 1
    vectors_stand_out = lists([0.7, 0.4], [3.0, 4.0], vector=Spread(mean=0.1, deviation=0.1), lexical=WIDE)
    assert np.argmax(standout(vectors_stand_out)) == 0


@pytest.mark.parametrize("fusion", list(FUSIONS.values()))
def test_the_request_scales_the_lists(fusion: object) -> None:
    both = lists([0.8, 0.2], [1.0, 9.0])
    assert callable(fusion)
    assert np.argmax(fusion(replace(both, weight=1.0))) == 0
    assert np.argmax(fusion(replace(both, weight=0.0))) == 1
    assert np.argmax(fusion(replace(both, weight=10.0))) == 0


@pytest.mark.parametrize("fusion", list(FUSIONS.values()))
def test_empty_and_single_lists(fusion: object) -> None:
    assert callable(fusion)
    assert fusion(lists([], [])).shape == (0,)
    assert np.isfinite(fusion(lists([0.0, -0.2], [0.0, 0.0], vector=Spread(mean=0.0, deviation=0.0)))).all()
    assert np.argmax(fusion(lists([0.0, 0.0], [0.0, 2.0], vector=Spread(mean=0.0, deviation=0.0)))) == 1


def test_reciprocal_ranks() -> None:
    assert rrf(lists([0.9, 0.1], [0.0, 5.0])).tolist() == pytest.approx([1 / 61, 1 / 62 + 1 / 61])


def test_absolute_similarity_does_not_depend_on_other_hits() -> None:
    alone = absolute_similarity(np.array([0.5], dtype=np.float32), np.array([0.2], dtype=np.float32), 0.3)
    assert alone.tolist() == pytest.approx([0.3 * 0.5 + 0.7 * 0.2])


def test_the_best_chunks_of_a_document_lift_each_other() -> None:
    shares = np.array([1.0, 0.95, 0.9, 0.9], dtype=np.float32)
    assert np.argmax(lifted_by_document(shares, ("alone", "long", "long", "long"))) == 1


def test_documents_of_one_chunk_keep_their_order() -> None:
    scores = np.array([0.3, -0.1, 0.7, 0.0, 0.65], dtype=np.float32)
    lifted = lifted_by_document(scores, ("a", "b", "c", "d", "e"))
    assert np.argsort(-lifted).tolist() == np.argsort(-scores).tolist()
    assert lifted_by_document(np.zeros(2, dtype=np.float32), ("a", "b")).tolist() == [0.0, 0.0]
