import time

import pytest

from rag.chunk.base import ChunkConfig
from rag.chunk.naive import NaiveChunker
from rag.chunk.registry import chunkers
from rag.chunk.splitting import delimiters, split_text
from rag.core.types import ChunkDraft, Element, ElementKind, ParsedDocument, Position
from rag.nlp.tokens import count_tokens

WORDS = "The company sold many things in that year and earned more than before in all of its regions. "


def heading(text: str, level: int = 1, page: int | None = None) -> Element:
    return Element(kind=ElementKind.HEADING, text=text, level=level, page=page)


def paragraph(text: str, page: int | None = None, top: float = 100.0) -> Element:
    box = (Position(page=page, left=50, right=500, top=top, bottom=top + 20),) if page else ()
    return Element(kind=ElementKind.PARAGRAPH, text=text, page=page, positions=box)


def table(*rows: tuple[str, ...]) -> Element:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return Element(kind=ElementKind.TABLE, text="\n".join(lines), cells=rows)


def chunk(*elements: Element, limit: int = 128, delimiter: str = "\n", media_type: str = "") -> list[ChunkDraft]:
    document = ParsedDocument(elements=elements, media_type=media_type)
    return NaiveChunker().chunk(document, config=ChunkConfig(chunk_token_num=limit, delimiter=delimiter))


def test_nothing_gives_nothing() -> None:
    assert chunk() == []


def test_short_paragraphs_share_a_chunk_and_long_ones_are_cut() -> None:
    drafts = chunk(*[paragraph(WORDS) for _ in range(20)], paragraph(WORDS * 60))
    assert all(0 < draft.token_count <= 128 * 1.3 for draft in drafts)
    assert "".join(" ".join(d.content for d in drafts).split()) == "".join((WORDS * 80).split())
    assert drafts == chunk(*[paragraph(WORDS) for _ in range(20)], paragraph(WORDS * 60))


def test_top_headings_divide_and_paths_are_kept() -> None:
    drafts = chunk(
        heading("Book"),
        heading("One", 2),
        paragraph(WORDS * 2),
        heading("Detail", 3),
        paragraph(WORDS),
        heading("Two", 2),
        paragraph(WORDS * 2),
    )
    assert [draft.heading_path for draft in drafts] == [("Book", "One"), ("Book", "Two")]
    assert drafts[0].content.startswith("Book\n\nOne\n\nThe company")
    assert not any(draft.content.endswith("Two") for draft in drafts)


def test_pages_close_half_full_chunks() -> None:
    drafts = chunk(*[paragraph(WORDS * 4, page) for page in (1, 2, 3)])
    assert [[p.page for p in draft.positions] for draft in drafts] == [[1], [2], [3]]
    drafts = chunk(*[paragraph("Few words.", page) for page in range(1, 7)], limit=512)
    assert [[p.page for p in draft.positions] for draft in drafts] == [[1, 2], [3, 4], [5, 6]]
    assert [draft.page for draft in drafts] == [1, 3, 5]


def test_boxes_of_one_column_are_joined() -> None:
    drafts = chunk(paragraph("One.", 1, 100), paragraph("Two.", 1, 125), paragraph("Three.", 1, 600))
    assert [(p.top, p.bottom) for p in drafts[0].positions] == [(100, 145), (600, 620)]


def test_a_table_stays_whole_with_its_caption() -> None:
    rows = [("Item", "2022", "2021"), *((f"Row {n}", str(n), str(n * 2)) for n in range(6))]
    drafts = chunk(paragraph(WORDS * 5), paragraph("Income by item"), table(*rows))
    assert len(drafts) == 2
    assert drafts[1].content.startswith("Income by item\n\n| Item | 2022 | 2021 |\n| --- | --- | --- |")
    assert drafts[1].content.count("Row") == 6
    assert (drafts[0].kind, drafts[1].kind) == ("text", "table")


def test_a_long_table_is_cut_by_rows_and_repeats_its_header() -> None:
    rows = [("Item", "2022"), *((f"Row number {n}", str(n)) for n in range(100))]
    drafts = chunk(table(*rows))
    assert len(drafts) > 3
    assert all(draft.content.startswith("| Item | 2022 |\n| --- | --- |\n| Row") for draft in drafts)
    assert sum(draft.content.count("Row number") for draft in drafts) == 100


def test_lists_and_code_stay_whole_where_they_fit() -> None:
    items = [Element(kind=ElementKind.LIST_ITEM, text=f"Point {n} of the list.") for n in range(9)]
    drafts = chunk(paragraph(WORDS * 5), paragraph("The points are:"), *items)
    assert drafts[1].content.startswith("The points are:\n\n- Point 0")
    assert drafts[1].content.count("- Point") == 9
    code = Element(kind=ElementKind.CODE, text="\n".join(f"x{n} = {n}" for n in range(15)))
    assert chunk(paragraph(WORDS * 5), code)[1].content == code.text


def test_rows_of_spreadsheets_become_lines() -> None:
    rows = (("Reading list", "", ""), ("Title", "Author", "Year"), ("Emma", "Austen", "1815"), ("Ulysses", "", "1922"))
    sheet = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    drafts = chunk(heading("Books"), table(*rows), media_type=sheet)
    assert "Title：Emma; Author：Austen; Year：1815 ——Books\nTitle：Ulysses; Year：1922 ——Books" in drafts[0].content
    assert "——" not in chunk(heading("Sheet1"), table(*rows), media_type=sheet)[0].content


@pytest.mark.parametrize(
    ("setting", "text", "parts"),
    [
        ("`##`", "one##two", ["one", "two"]),
        ("\\n", "one\ntwo", ["one\ntwo"]),
    ],
)
def test_marks_are_removed(setting: str, text: str, parts: list[str]) -> None:
    assert delimiters(setting).drop_marks(text) == parts


def test_single_delimiters_cut_long_texts_and_stay() -> None:
    setting = delimiters("。；\\n")
    text = "第一句话说得很长很长。第二句话也说得很长很长；第三句话更长。"
    parts = split_text(text, limit=20, single=setting.single)
    assert len(parts) > 1
    assert "".join(parts) == text
    assert all(part[-1] in "。；" for part in parts)


def test_runs_without_spaces_are_cut_and_counted_fast() -> None:
    drafts = chunk(paragraph("a" * 100_000), limit=64)
    assert sum(len(draft.content) for draft in drafts) >= 100_000
    assert max(draft.token_count for draft in drafts) <= 128


def test_tokens_are_those_of_cl100k() -> None:
    assert [count_tokens(text) for text in ("", "hello world", "Größe 1234567 你好")] == [0, 2, 9]


def test_slides_get_a_chunk_each() -> None:
    document = ParsedDocument(elements=(paragraph("One.", 1), paragraph("Two.", 2)))
    assert len(chunkers()["presentation"].chunk(document, config=ChunkConfig())) == 2
    assert set(chunkers()) == {"naive", "email", "presentation"}


def test_headings_without_text_fill_chunks_too() -> None:
    outline = [heading(f"Chapter {i} of a long outline", i % 6 + 1) for i in range(20_000)]
    began = time.process_time()
    drafts = chunk(*outline)
    assert time.process_time() - began < 5, "the time must not grow with the square of the headings"
    assert max(draft.token_count for draft in drafts) <= 2 * 128
    lines = [line for draft in drafts for line in draft.content.split("\n\n")]
    assert lines == [f"Chapter {i} of a long outline" for i in range(20_000)]


def test_empty_headings_are_left_out() -> None:
    assert chunk(*[heading(" ", i % 6 + 1) for i in range(20_000)], paragraph("Text.")) == chunk(paragraph("Text."))
