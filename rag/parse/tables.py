"""Tables as cells and as Markdown."""

from collections.abc import Sequence

from rag.core.types import Element, ElementKind, Position

Cells = tuple[tuple[str, ...], ...]


def tidy(rows: Sequence[Sequence[str]]) -> Cells:
    """Rows of one width, cells in one line each, without empty rows and empty columns."""
    width = max((len(row) for row in rows), default=0)
    lines = [[" ".join(cell.split()) for cell in row] + [""] * (width - len(row)) for row in rows]
    lines = [line for line in lines if any(line)]
    kept = [column for column in range(width) if any(line[column] for line in lines)]
    return tuple(tuple(line[column] for column in kept) for line in lines)


def markdown(cells: Cells) -> str:
    """The Markdown form; the first row is the header."""
    lines = [_line(row) for row in cells]
    lines.insert(1, "|" + " --- |" * len(cells[0]))
    return "\n".join(lines)


def table_element(
    rows: Sequence[Sequence[str]], *, page: int | None = None, positions: tuple[Position, ...] = ()
) -> Element | None:
    """A table element; a paragraph where there is but one column or cell; None where there is no text."""
    cells = tidy(rows)
    if not cells:
        return None
    if len(cells[0]) == 1:
        text = "\n".join(row[0] for row in cells)
        return Element(kind=ElementKind.PARAGRAPH, text=text, page=page, positions=positions)
    return Element(kind=ElementKind.TABLE, text=markdown(cells), cells=cells, page=page, positions=positions)


def _line(row: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
