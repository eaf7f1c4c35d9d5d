import math

import numpy as np
import pytest

from rag.nlp.statistics import SampleStatistics, coverage


def statistics(*tokens: str) -> SampleStatistics:
    return SampleStatistics(len(tokens), tokens, np.eye(max(len(tokens), 1), 4, dtype=np.float32)[: len(tokens)])


def test_weights_are_inverse_document_frequencies() -> None:
    weights = statistics("a b", "a", "c c").weights(("a", "c", "unseen"))
    assert weights.tolist() == pytest.approx(
        [math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5), math.log(1 + 3.5 / 0.5)]
    )


def test_lexical_spread_counts_entries_without_a_match_as_zero() -> None:
    known = statistics("x y y z", "y", "z z")
    spread = known.lexical_spread(("x",), known.weights(("x",)))
    score = math.log(1 + 2.5 / 1.5) * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 4 / (7 / 3)))
    assert spread.mean == pytest.approx(score / 3, rel=1e-5)
    assert spread.deviation == pytest.approx(np.std([score, 0, 0]), rel=1e-5)
    assert spread.standout(score) == pytest.approx((score - score / 3) / np.std([score, 0, 0]), rel=1e-4)


def test_vector_spread() -> None:
    vector = np.array([1, 0, 0, 0], dtype=np.float32)
    spread = statistics("a", "b").vector_spread(vector)
    assert (spread.mean, spread.deviation) == (0.5, 0.5)
    assert statistics("a").vector_spread(None).standout(1.0) == 0.0


def test_an_empty_dataset_has_statistics() -> None:
    empty = statistics()
    assert (empty.total, empty.size) == (0, 0)
    weights = empty.weights(("a",))
    assert weights.shape == (1,)
    assert empty.lexical_spread(("a",), weights).standout(3.0) == 0.0
    assert empty.vector_spread(np.ones(4, dtype=np.float32)).mean == 0.0


def test_coverage_is_the_share_of_term_weight() -> None:
    weights = np.array([3.0, 1.0], dtype=np.float32)
    held = np.array([[True, False], [False, True], [False, False], [True, True]])
    assert coverage(weights, held).tolist() == [0.75, 0.25, 0, 1]
    assert coverage(np.zeros(0, dtype=np.float32), np.zeros((1, 0), dtype=np.bool_)).tolist() == [0.0]
