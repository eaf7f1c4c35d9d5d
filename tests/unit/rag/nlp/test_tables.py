import pytest

from rag.nlp.sentences import units
from rag.nlp.tables import figure_line, heads_in, is_figure, joined_signs, normalised


def test_lone_signs_join_their_figures() -> None:
    assert joined_signs(["A", "$", "(13", ")", "7", "%"]) == ["A", "", "$ (13)", "", "7%", ""]
    assert joined_signs(["Note", "$", "due"]) == ["Note", "$", "due"]


@pytest.mark.parametrize(
    ("cell", "figure"),
    [("$ 13,411", True), ("(1,577)", True), ("7.0 %", True), ("—", True), ("2018", False), ("", False)],
)
def test_figures(cell: str, figure: bool) -> None:
    assert is_figure(cell) is figure


def test_a_head_of_figures_is_a_row() -> None:
    head, rows = normalised(
        ["Medium-term note", "3.07", "%", "2021", "$ 13,411"], [["Eurobond", "1.9", "%", "2030", "199"]]
    )
    assert not any(head)
    assert rows == [["Medium-term note", "3.07%", "2021", "$ 13,411"], ["Eurobond", "1.9%", "2030", "199"]]


def test_two_years_in_one_head_become_two_columns() -> None:
    head, rows = normalised(
        ["(Dollars in millions)", "2018* 2017", "2016 2015", "2014"],
        [["Net sales", "$ 32,765 $ 31,657", "$ 30,109 $ 30,274", "$ 31,821"], ["Per share:", "", "", ""]],
    )
    assert head == ["(Dollars in millions)", "2018*", "2017", "2016", "2015", "2014"]
    assert rows == [
        ["Net sales", "$ 32,765", "$ 31,657", "$ 30,109", "$ 30,274", "$ 31,821"],
        ["Per share:", *[""] * 5],
    ]


def test_dates_spread_over_the_empty_heads_beside_them() -> None:
    head, rows = normalised(
        ["Fiscal Years Ended", "January 28, 2023", "January 29, 2022 January 30, 2021", ""],
        [["Net earnings", "$ 1,419", "$ 2,454", "$ 1,798"], ["Other, net", "12", "1 1", "3"]],
    )
    assert head == ["Fiscal Years Ended", "January 28, 2023", "January 29, 2022", "January 30, 2021"]
    assert rows[1] == ["Other, net", "12", "1 1", "3"]


def test_a_head_of_several_lines() -> None:
    head, rows = normalised(
        ["", "", "Years Ended", ""],
        [
            ["", "December 2,", "December 3,", "November 27,"],
            ["", "2022", "2021", "2020"],
            ["Product", "532", "555", "507"],
        ],
    )
    assert head == ["", "December 2, 2022", "December 3, 2021", "November 27, 2020"]
    assert rows == [["Product", "532", "555", "507"]]


@pytest.mark.parametrize(
    ("line", "cells"),
    [
        ("Total current assets 45,781 60,197", ["Total current assets", "45,781", "60,197"]),
        ("Current assets: Cash and equivalents $ 19,334 $ 20,522", ["Cash and equivalents", "$ 19,334", "$ 20,522"]),
        ("December 31, 2016 2017", None),
        ("The years 2016 and 2017", None),
        ("See page 12", None),
        ("", None),
    ],
)  # fmt: skip
def test_lines_of_figures(line: str, cells: list[str] | None) -> None:
    assert figure_line(line) == cells


def test_the_dates_above_a_table_are_its_heads() -> None:
    assert heads_in("Balance Sheet (Dollars in millions) 2018 2017 Assets", 2) == ["2018", "2017"]
    assert heads_in("December 31, 2016 2017", 2) == ["2016", "2017"]
    assert heads_in("December 31, 2016 2017", 3) is None


def test_lines_of_a_statement_are_rows_with_heads_and_sections() -> None:
    text = "BALANCE SHEETS\n\nDecember 31, 2016 2017\nLIABILITIES\nUnearned revenue 4,768 5,097\nTotal 43,816 57,883"
    row = units(text)[-1]
    assert (row.cells, row.header, row.section) == (("Total", "43,816", "57,883"), ("", "2016", "2017"), "LIABILITIES")
