import pytest

from rag.nlp.figures import figures, missing_share


@pytest.mark.parametrize(
    ("claimed", "given"),
    [
        ("in 1932", "born in 1932"),
        ("$1.577 billion", "Purchases 1,577 (in millions)"),
        ("$1,577 million", "1.577 billion dollars"),
        ("about 19.8 feet", "cresting at 19.83 feet"),
        ("20 feet", "19.83 feet"),
        ("two disks, 2", "a two disk instance"),
        ("3. Spacecraft found water", "Spacecraft found water"),
        ("no figure", ""),
        ("1,577", "1577"),
        ("12 %", "12%"),
    ],
)
def test_a_figure_is_found_as_it_is_rounded_or_in_another_scale(claimed: str, given: str) -> None:
    assert missing_share(figures(claimed), figures(given, words=True)) == 0.0


@pytest.mark.parametrize(
    ("claimed", "given"),
    [
        ("in 1932", "in 1923"),
        ("1,577", "15,770"),
        ("4.2 %", "4.3 %"),
        ("5", "5.4"),
        ("1577", "1.577 billion"),
        ("7", ""),
    ],
)
def test_another_figure_is_not_it(claimed: str, given: str) -> None:
    assert missing_share(figures(claimed), figures(given)) == 1.0


def test_the_share_counts_each_figure_once() -> None:
    assert missing_share(figures("1932 and 1932 and 1940"), figures("1932")) == 0.5


def test_a_number_without_end_is_no_figure() -> None:
    assert figures("1" * 5000) == frozenset()
