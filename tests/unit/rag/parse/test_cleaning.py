import time

from rag.core.types import Element, ElementKind, Position
from rag.parse.cleaning import clean_pages, demote_headings, drop_text_of_tables, mend_words
from rag.parse.statements import join_rows, join_tables, settle_columns
from rag.parse.tables import table_element


def at(top: float, height: float = 10, left: float = 50, right: float = 550, page: int = 1) -> tuple[Position, ...]:
    return (Position(page=page, left=left, right=right, top=top, bottom=top + height),)


def text(words: str, top: float = 100, kind: ElementKind = ElementKind.PARAGRAPH, **box: float) -> Element:
    level = 2 if kind is ElementKind.HEADING else 0
    return Element(kind=kind, text=words, level=level, page=1, positions=at(top, **box))  # type: ignore[arg-type]


def table(top: float, height: float, *rows: tuple[str, ...]) -> Element:
    element = table_element(rows, page=1, positions=at(top, height))
    assert element
    return element


def test_text_of_a_table_does_not_come_again() -> None:
    held = table(100, 60, ("Item", "2022"), ("Sales", "1,200"))
    elements = [held, text("Sales 1,200", 130), text("Something else stands here", 140), text("Sales 1,200", 300)]
    assert drop_text_of_tables(elements) == [held, *elements[2:]]


def test_rows_in_pieces_become_lines() -> None:
    pieces = [
        text("Less: interest", 100, right=200),
        text("14", 100, left=300, right=320),
        text("11 8 Net income", 100, height=24),
        text("$ 5,349", 114, left=300, right=340),
        text("$ 4,858 $ 5,050", 114, left=350),
    ]
    assert [e.text for e in join_rows(pieces)] == ["Less: interest 14 11 8\nNet income $ 5,349 $ 4,858 $ 5,050"]


def test_prose_with_figures_stays_as_it_is() -> None:
    prose = text("In 2018 and 2017 the Company sold 5 plants in Ohio, 3 in Texas and bought 12 in Europe.")
    assert join_rows([prose]) == [prose]


def test_a_statement_in_parts_becomes_one_table() -> None:
    parts = [
        table(100, 40, ("(Millions)", "2018", "2017"), ("Net sales", "$ 32,765 $", "31,657")),
        text("Other expense, net 207 (26)", 150),
        table(165, 30, ("Income", "7,000", "7,548"), ("Taxes", "1,637", "2,679")),
        text("Net income $ 5,363 $ 4,869\nThe notes are part of this.", 200, height=24),
        table(240, 30, ("Assets", "Book", "Market"), ("Cash", "1", "2")),
    ]
    joined = join_tables(parts)
    assert [e.kind.value for e in joined] == ["table", "paragraph", "table"]
    assert joined[0].cells[1:3] == (("Net sales", "$ 32,765", "$ 31,657"), ("Other expense, net", "207", "(26)"))
    assert joined[0].cells[-1] == ("Net income", "$ 5,363", "$ 4,869")
    assert joined[1].text == "The notes are part of this."


def test_header_cells_stand_above_their_figures() -> None:
    cells = (("", "2018", "", "2017"), ("Sales", "", "$ 5", "6"), ("Costs", "", "3", "4"))
    assert settle_columns(cells) == (("", "2018", "2017"), ("Sales", "$ 5", "6"), ("Costs", "3", "4"))


def test_long_lines_of_figures_take_no_time() -> None:
    begun = time.perf_counter()
    join_tables([table(100, 40, ("a", "1"), ("b", "2")), text("x " + "1,234 5.6 (7) % " * 5000, 145)])
    assert time.perf_counter() - begun < 1.0


def test_torn_words_are_joined_where_the_document_knows_them() -> None:
    elements = [
        text("Statement of Incom e and T otal of re- search, short- and long-term"),
        text("income total research 1,1 16 , plan b"),
    ]
    assert [e.text for e in mend_words(elements)] == [
        "Statement of Income and Total of research, short- and long-term",
        "income total research 1,116, plan b",
    ]


def test_first_lines_and_figures_are_no_headings() -> None:
    heading = ElementKind.HEADING
    elements = [
        text("Sales of the business grew, driven by over-the-", 100, heading),
        text("counter products.", 112),
        text("Sales 0.9% 6.1%", 140, heading),
        text("Note 7. Debt", 160, heading),
    ]
    kept = demote_headings(elements)
    assert [e.kind.value for e in kept] == ["paragraph", "paragraph", "heading"]
    assert kept[0].text == "Sales of the business grew, driven by over-the-counter products."
    assert [e.text for e in clean_pages([*elements[3:], text("____", 180)], pages=1)] == ["Note 7. Debt"]
