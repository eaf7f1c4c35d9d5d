"""Financial statements and other tables of figures in PDFs, put together again from the parts the library sees.

A statement arrives as tables with gaps, single rows between them, rows in several pieces, currency signs in columns
of their own and header cells one column beside their figures.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from rag.core.types import Element, ElementKind, Position
from rag.parse.tables import Cells, table_element

_FIGURES = re.compile(r"^[\s$€£¥()\[\]\d.,%—–−-]+$|^(?:N/A|n/a|nm|NM|\*)$")
_ROW_END = re.compile(r"(?<=[\d)%—]) (?=[A-Z][A-Za-z.])")
_SIGNS = "$€£¥"
_HEADER_ROWS = 3
_LINES_APART = 2.2
_LINE_POINTS = 12.0
_ROWS_IN_ONE = 3


def has_figures(text: str) -> bool:
    """Whether a short text is for a good part figures, as the row of a table is."""
    words = text.split()
    return figure_count(words) >= max(1, 0.3 * min(len(words), 12)) and len(words) <= 60


def figure_count(words: Sequence[str]) -> int:
    """How many of the words are figures or stand for one."""
    return sum(bool(_FIGURES.match(word)) for word in words)


def join_rows(elements: Sequence[Element]) -> list[Element]:
    """Make one paragraph, a line for each row, of rows of figures that arrive in pieces or one by one."""
    joined: list[Element] = []
    run: list[Element] = []
    for element in elements:
        if run and _continues(run[-1], element):
            run.append(element)
            continue
        joined.extend(_one_of(run))
        run = [element]
    return joined + _one_of(run)


def join_tables(elements: Sequence[Element]) -> list[Element]:
    """Make one table of tables of as many columns, and rows of as many figures, that follow closely on one page."""
    joined: list[Element] = []
    for element in elements:
        settled = _settled(element) if element.kind is ElementKind.TABLE else element
        last = joined[-1] if joined else None
        rows, rest = _rows_for(last, settled) if last is not None else ((), "")
        table = None
        if last is not None and rows:
            box = (around(last.positions + settled.positions),)
            table = table_element((*last.cells, *rows), page=last.page, positions=box)
        if table is None:
            joined.append(settled)
            continue
        joined[-1] = table
        if rest:
            joined.append(replace(settled, text=rest))
    return joined


def settle_columns(cells: Cells) -> Cells:
    """Currency signs before their figures, header cells above their figures."""
    rows = [_signs_moved(row) for row in cells]
    column = 1
    while column + 1 < len(rows[0]):
        if _is_header_of(rows, column, column + 1) or _is_header_of(rows, column + 1, column):
            rows = [[*row[:column], row[column] or row[column + 1], *row[column + 2 :]] for row in rows]
        else:
            column += 1
    return tuple(tuple(row) for row in rows)


def around(positions: Sequence[Position]) -> Position:
    """The box around boxes of one page."""
    return Position(
        page=positions[0].page,
        left=min(p.left for p in positions),
        right=max(p.right for p in positions),
        top=min(p.top for p in positions),
        bottom=max(p.bottom for p in positions),
    )


def _continues(last: Element, element: Element) -> bool:
    """Whether two paragraphs are pieces of one row, or rows right below each other."""
    if not (last.kind is element.kind is ElementKind.PARAGRAPH) or last.page != element.page:
        return False
    if not last.positions or not element.positions:
        return False
    if _in_one_row(last, element):
        return has_figures(last.text) or has_figures(element.text)
    return _follows(last, element, lines=1.0) and has_figures(last.text) and has_figures(element.text)


def _in_one_row(last: Element, element: Element) -> bool:
    above, below = last.positions[-1], element.positions[0]
    overlap = min(above.bottom, below.bottom) - max(above.top, below.top)
    return overlap > 0.5 * min(above.bottom - above.top, below.bottom - below.top)


def _follows(last: Element, element: Element, *, lines: float) -> bool:
    gap = element.positions[0].top - last.positions[-1].bottom
    return -_LINE_POINTS / 2 <= gap <= lines * _LINE_POINTS


def _one_of(run: Sequence[Element]) -> list[Element]:
    if not run:
        return []
    first = run[0]
    if len(run) == 1:
        words = first.text.split() if first.kind is ElementKind.PARAGRAPH else []
        rows = figure_count(words) >= 0.2 * len(words) and len(_ROW_END.findall(first.text)) >= _ROWS_IN_ONE
        return [replace(first, text=_ROW_END.sub("\n", first.text)) if words and rows else first]
    text = first.text
    for last, element in zip(run, run[1:], strict=False):
        text += (" " if _in_one_row(last, element) else "\n") + element.text
    box = around(tuple(position for element in run for position in element.positions))
    return [replace(first, text=_ROW_END.sub("\n", text), positions=(box,))]


def _settled(table: Element) -> Element:
    cells = settle_columns(table.cells)
    if cells == table.cells:
        return table
    return table_element(cells, page=table.page, positions=table.positions) or table


def _rows_for(last: Element, element: Element) -> tuple[Cells, str]:
    """The rows that `element` adds to the table above it, and the text that is left over."""
    none: tuple[Cells, str] = ((), "")
    if last.kind is not ElementKind.TABLE or last.page != element.page or not last.positions or not element.positions:
        return none
    if not _follows(last, element, lines=_LINES_APART):
        return none
    columns = len(last.cells[0])
    if element.kind is ElementKind.TABLE:
        titles = [cell for cell in element.cells[0][1:] if cell]
        # A table that begins with titles of its own is another table.
        own_titles = len(titles) > 1 and not any(_FIGURES.match(cell) for cell in titles)
        return (element.cells, "") if len(element.cells[0]) == columns and not own_titles else none
    if element.kind is not ElementKind.PARAGRAPH:
        return none
    lines = element.text.split("\n")
    rows = list(takewhile(lambda row: row is not None, (_row(line, columns) for line in lines)))
    return tuple(row for row in rows if row), "\n".join(lines[len(rows) :])


def _row(line: str, columns: int) -> tuple[str, ...] | None:
    """Label and figures of a line, if it has as many as the table has columns."""
    words = line.split()
    cells: list[str] = []
    while len(words) > 1 and _FIGURES.match(words[-1]):
        word = words.pop()
        if word in _SIGNS and cells:
            cells[-1] = f"{word} {cells[-1]}"
        elif word == "%":
            words[-1] += word
        else:
            cells.append(word)
    return (" ".join(words), *reversed(cells)) if columns > 1 and len(cells) == columns - 1 else None


def _signs_moved(row: Sequence[str]) -> list[str]:
    cells = list(row)
    sign = ""
    for number, cell in enumerate(cells):
        text = cell
        if sign and text and text[0] not in _SIGNS:
            text, sign = f"{sign} {text}", ""
        if number and text and text[-1] in _SIGNS and any(cells[number + 1 :]):
            sign, text = text[-1], text[:-1].rstrip()
        cells[number] = text
    return cells


def _is_header_of(rows: Sequence[Sequence[str]], header: int, figures: int) -> bool:
    """Whether one column holds nothing but header cells, and the other lacks exactly those."""
    filled = [number for number, row in enumerate(rows) if row[header]]
    below = [number for number, row in enumerate(rows) if row[figures]]
    return not filled or not below or (filled[-1] < min(_HEADER_ROWS, below[0]) and len(rows) > len(filled))
