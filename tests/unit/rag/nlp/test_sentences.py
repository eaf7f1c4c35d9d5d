import pytest

from rag.nlp.sentences import Unit, sentences, units


@pytest.mark.parametrize(
    "parts",
    [
        ["The U.S. economy grew by $1.5 billion in the U.S.", "The Fed acted."],
        ["Mr. Smith of Acme Inc. said so.", "See No. 5 and Fig. 3 for details."],
        ["J. P. Morgan paid 3.5 percent.", "Is it?", "Yes!", '"Quoted."', "Next one."],
        ["Sales (incl. taxes) rose vs. 2017, i.e. by 4.2%.", "Costs fell."],
        ["It cost approx. 5 dollars at 9 a.m. on Jan. 3, 2018.", "Then it rained."],
        ["本公司成立于1998年。", "总部位于北京！", "员工有多少？"],
        ["He said “stop.”", "Then he left…", "They stayed."],
        ["Version 1.2.3 is out.", "See example.com for more."],
        ["no end"],
    ],
)
def test_sentences(parts: list[str]) -> None:
    glue = "" if "。" in parts[0] else " "
    assert sentences(glue.join(parts)) == parts


def test_nothing_is_lost() -> None:
    text = "One. Two! Three? Four... five; six: U.S. seven."
    assert " ".join(sentences(text)) == text


def test_paragraphs_lists_headings() -> None:
    text = "# Title\nA line that goes on and on, wrap-\nped and continued\nto its end. Done.\n"
    text += "\n1. First item. More.\n- Second"
    assert [(unit.kind, unit.text) for unit in units(text)] == [
        ("heading", "Title"),
        ("sentence", "A line that goes on and on, wrapped and continued to its end."),
        ("sentence", "Done."),
        ("sentence", "1. First item."),
        ("sentence", "More."),
        ("sentence", "- Second"),
    ]


def test_a_table_gives_rows_under_its_head() -> None:
    table = "Before.\n| Item | 2018 |\n|---|---:|\n| PP&E | $ 1,577 |\n| | |\n| A \\| B | 5 |\nAfter."
    rows = [unit for unit in units(table) if unit.kind == "row"]
    assert rows == [
        Unit(text="PP&E | $ 1,577", kind="row", block=1, cells=("PP&E", "$ 1,577"), header=("Item", "2018")),
        Unit(text="A | B | 5", kind="row", block=1, cells=("A | B", "5"), header=("Item", "2018")),
    ]
    assert [unit.text for unit in units(table) if unit.kind == "sentence"] == ["Before.", "After."]


def test_a_table_without_a_head_has_empty_names() -> None:
    (row,) = units("| a | b |")
    assert row.header == ("", "")


@pytest.mark.parametrize("text", ["", "\n\n", "|", "||", "|---|", "#", "...", "。", "- "])
def test_oddities_do_not_break_it(text: str) -> None:
    assert all(unit.text for unit in units(text))
