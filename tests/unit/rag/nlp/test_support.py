import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.nlp.support import overlap, support_scores, telling

BRIDGE = (
    "The Old Bridge crosses the Aare in Bern. It was rebuilt in 1932 after the flood. Trams do not use it. "
    "In 1923 the tower beside it burnt down."
)
TABLE = "| (Millions) | 2018 | 2017 |\n|---|---|---|\n| Purchases of property and equipment | 1,577 | 1,373 |\n"
RAIN = "Rain fell on most days of the month. The river rose by two metres."


def score(claim: str, passage: str, cosine: float | None = None, title: str = "") -> float:
    words = overlap([claim], [passage, RAIN], [title, ""])
    cosines = None if cosine is None else np.array([[cosine, 0.1]], dtype=np.float32)
    return float(support_scores(words, cosines)[0, 0])


def test_a_sentence_in_other_words_is_supported_by_its_passage_and_no_other() -> None:
    claim = "After the flood, the Old Bridge was rebuilt in 1932."
    scores = support_scores(overlap([claim], [BRIDGE, RAIN]))
    assert scores.shape == (1, 2)
    assert scores[0, 0] > 0.8
    assert scores[0, 1] < 0.05


@pytest.mark.parametrize(
    "wrong",
    [
        "It was rebuilt in 1923 after the flood.",
        "It was rebuilt in 1933 after the flood.",
        "It was not rebuilt in 1932 after the flood.",
        "After the flood in Geneva it was rebuilt in 1932.",
        "Trams do use it every day.",
    ],
)
def test_another_figure_another_name_and_a_denial_are_no_support(wrong: str) -> None:
    assert score("It was rebuilt in 1932 after the flood.", BRIDGE) > 0.9
    assert score(wrong, BRIDGE, cosine=0.95) <= 0.2


def test_a_denial_is_supported_by_a_denial() -> None:
    assert score("The Old Bridge is not used: trams do not use it.", BRIDGE) > 0.4
    assert not overlap(["Trams do not use it."], [BRIDGE]).contradicted.any()


def test_a_row_holds_the_heads_of_its_table() -> None:
    claim = "Purchases of property and equipment were 1,577 million in 2018."
    assert not overlap([claim], [TABLE]).contradicted.any()
    assert overlap(["Purchases of property and equipment were 1,577 million in 2015."], [TABLE]).wrong_figure.all()


def test_a_name_or_a_year_may_stand_in_the_title_alone() -> None:
    claim = "The purchases of property and equipment by Nike were 1,577 million in 2019."
    assert overlap([claim], [TABLE]).contradicted.all()
    assert not overlap([claim], [TABLE], ["NIKE_2019_10K.pdf"]).contradicted.any()


def test_meaning_adds_to_words() -> None:
    claim = "Once the water had gone, the Old Bridge got built again."
    assert score(claim, BRIDGE, cosine=0.1) < score(claim, BRIDGE, cosine=0.9)


def test_where_no_cosine_is_known_words_decide() -> None:
    words = overlap(["The Old Bridge crosses the river."], [BRIDGE, RAIN])
    nothing = np.full((1, 2), np.nan, dtype=np.float32)
    assert np.array_equal(support_scores(words, nothing), support_scores(words))


def test_another_language_cannot_be_told_from_words() -> None:
    german = "Die alte Brücke wurde nach der Flut im Jahr 1932 wieder neu aufgebaut."
    words = overlap([german, "The Old Bridge crosses the Aare in Bern."], [BRIDGE])
    assert words.alien.tolist() == [[True], [False]]


def test_verbatim_is_certain() -> None:
    assert score("it was rebuilt in 1932, after the flood", BRIDGE) > 0.99


@pytest.mark.parametrize(("text", "terms"), [("Yes, it is.", 0), ("The bridge [x](http://a.b/c)", 2), ("", 0)])
def test_telling_terms(text: str, terms: int) -> None:
    assert telling(text) == terms


def test_a_short_sentence_is_judged_by_its_figures_and_names() -> None:
    assert score("In 1932.", BRIDGE) == 0.5
    assert score("In 1940.", BRIDGE) == 0.0
    assert score("The answer: 1932", BRIDGE) == 0.5
    assert score("Paris.", BRIDGE) == 0.0
    words = overlap(["Yes, it is."], [BRIDGE])
    assert words.alien.all()


@given(st.lists(st.text(max_size=40), max_size=3), st.lists(st.text(max_size=60), max_size=3))
def test_scores_are_shares_whatever_is_written(claims: list[str], passages: list[str]) -> None:
    scores = support_scores(overlap(claims, passages))
    assert scores.shape == (len(claims), len(passages))
    assert ((scores >= 0) & (scores <= 1)).all()


def test_many_sentences_and_long_passages_take_bounded_time() -> None:
    passages = [f"{BRIDGE} {number}\n" * 200 for number in range(8)]
    began = time.process_time()
    overlap([f"The Old Bridge number {number} crosses the Aare." for number in range(16)], passages)
    assert time.process_time() - began < 5
