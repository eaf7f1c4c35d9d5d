import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.nlp.citation import cited_indices, without_marks
from rag.nlp.citation_check import Findings, claims_of, settled, spans

PIECES = ["[ID:0]", "[ID:2]", " [ID:1]", "Sales grew by 4 %.", " Debt of the firm fell. ", "\n", "`[ID:1]`", "```\n"]
PIECES += ["| a | b [ID:1] |\n", "# Head\n", "- ", "中文。", ".", " ", "x"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


def findings(scores: list[list[float]], *, judged: bool = True, joint: dict[int, float] | None = None) -> Findings:
    matrix = np.array(scores, dtype=np.float32)
    return Findings(scores=matrix, shares=matrix, judged=np.full(matrix.shape, judged), joint=joint or {})


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (
            "Cash was 42 billion [ID:0]. Debt of Acme fell [ID:1].",
            [("Cash was 42 billion", (0,)), ("Debt of Acme fell", (1,))],
        ),
        (
            "Cash was 42 billion. [ID:0] Debt of Acme fell.",
            [("Cash was 42 billion.", (0,)), ("Debt of Acme fell.", ())],
        ),
        ("Cash was 42 billion.\n[ID:0][ID:2]", [("Cash was 42 billion.", (0, 2))]),
        ("公司的总部位于北京。 [ID:1]", [("公司的总部位于北京。", (1,))]),
        ("| Cash | 42 billion at Acme [ID:0] |\n|---|---|", [("Cash | 42 billion at Acme", (0,))]),
        ("- Cash was 42 billion [ID:3]", [("Cash was 42 billion", (3,))]),
        ("`a [ID:0]` b", [("b", ())]),
        (
            "Cash of Acme was 42 billion [ID:0] and debt fell to two billion [ID:1].",
            [("Cash of Acme was 42 billion", (0,)), ("and debt fell to two billion", (1,))],
        ),
    ],
)
def test_a_mark_belongs_to_the_sentence_it_is_in_or_behind(
    answer: str, found: list[tuple[str, tuple[int, ...]]]
) -> None:
    claims = [claim for claim in claims_of(answer) if claim.text.strip(".-| ")]
    assert [(claim.text, tuple(mark.source for mark in claim.marks)) for claim in claims] == found


def test_a_mark_stands_for_the_sentences_without_marks_before_it_in_its_line() -> None:
    claims = claims_of(
        "Sales grew a lot. Debt fell a lot. [ID:0] Cash came home. It rained there [ID:1].\nOther line here."
    )
    assert spans(claims) == [(0, 1), (2, 3)]


ANSWER = "Cash of Acme was 42 billion [ID:0]. Its debt fell by half [ID:1]."


def test_marks_that_are_supported_stay() -> None:
    assert settled(ANSWER, claims_of(ANSWER), findings([[0.9, 0], [0, 0.3]])) == ANSWER


def test_an_unsupported_mark_moves_to_the_source_that_supports_the_sentence() -> None:
    moved = settled(ANSWER, claims_of(ANSWER), findings([[0.1, 0.1, 0.8], [0, 0.9, 0]]))
    assert moved == "Cash of Acme was 42 billion [ID:2]. Its debt fell by half [ID:1]."


def test_an_unsupported_mark_is_dropped_where_no_source_supports_the_sentence() -> None:
    dropped = settled(ANSWER, claims_of(ANSWER), findings([[0.1, 0.4], [0, 0.9]]))
    assert dropped == "Cash of Acme was 42 billion. Its debt fell by half [ID:1]."


def test_a_mark_does_not_move_to_where_another_one_is() -> None:
    answer = "Cash of Acme was 42 billion [ID:0][ID:1]."
    assert settled(answer, claims_of(answer), findings([[0.1, 0.9]])) == "Cash of Acme was 42 billion [ID:1]."


def test_where_nothing_is_known_a_mark_stays() -> None:
    assert settled(ANSWER, claims_of(ANSWER), findings([[0, 0], [0, 0]], judged=False)) == ANSWER


def test_sources_that_support_a_sentence_together_stay() -> None:
    answer = "Cash of Acme was 42 billion and debt fell [ID:0][ID:1][ID:2]."
    together = settled(answer, claims_of(answer), findings([[0.24, 0.249, 0.1]], joint={0: 0.9}))
    assert together == "Cash of Acme was 42 billion and debt fell."
    shares = Findings(
        scores=np.array([[0.1, 0.1, 0.1]], dtype=np.float32),
        shares=np.array([[0.6, 0.4, 0.1]], dtype=np.float32),
        judged=np.full((1, 3), True),
        joint={0: 0.9},
    )
    assert settled(answer, claims_of(answer), shares) == "Cash of Acme was 42 billion and debt fell [ID:0][ID:1]."


def test_a_sentence_has_four_marks_at_most() -> None:
    answer = "Cash of Acme was 42 billion [ID:0][ID:1][ID:2][ID:3][ID:4]."
    kept = settled(answer, claims_of(answer), findings([[0.9, 0.3, 0.8, 0.7, 0.6]]))
    assert kept == "Cash of Acme was 42 billion [ID:0][ID:2][ID:3][ID:4]."


@given(TEXTS, st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_only_marks_change_and_all_of_them_name_a_source(answer: str, row: list[float]) -> None:
    claims = claims_of(answer)
    found = Findings(
        scores=np.tile(np.array(row, dtype=np.float32), (max(1, len(claims)), 1)),
        shares=np.ones((max(1, len(claims)), 3), dtype=np.float32),
        judged=np.full((max(1, len(claims)), 3), True),
    )
    result = settled(answer, claims, found)
    assert all(index < 3 for index in cited_indices(result))
    plain = "".join(without_marks(result.replace("[ID:1]", "[ID:0]").replace("[ID:2]", "[ID:0]")).split())
    assert plain.replace("[ID:0]", "") == "".join(answer.split()).replace("[ID:0]", "").replace("[ID:1]", "").replace(
        "[ID:2]", ""
    )


def test_a_mark_made_of_text_becomes_it_again_and_does_not_move() -> None:
    answer = "The gasket is part [ID:0]. Its debt fell by half [ID:1]."
    found = findings([[0.1, 0.1, 0.8], [0, 0.1, 0]])
    back = settled(answer, claims_of(answer), found, originals={25: "REF0", 55: "(ID:1)"})
    assert back == "The gasket is part REF0. Its debt fell by half (ID:1)."
    supported = settled(answer, claims_of(answer), findings([[0.9, 0], [0, 0.9]]), originals={25: "REF0"})
    assert supported == answer


def test_thousands_of_marks_change_in_no_time() -> None:
    answer = "ab [ID:0]" * 100_000
    began = time.thread_time()
    back = settled(answer, [], findings([[0.1]]), originals=dict.fromkeys(range(9, len(answer) + 1, 9), "ref0"))
    assert back == "ab ref0" * 100_000
    assert time.thread_time() - began < 10
