"""Tables as text of chunks: Markdown cut by rows, and lines of `title：value` for spreadsheets."""

from collections.abc import Sequence

from rag.nlp.tokens import count_tokens

Cells = Sequence[Sequence[str]]

_SHEET_MARK = "sheet"


def split_table(cells: Cells, *, limit: int) -> list[str]:
    """The table as Markdown parts of up to `limit` tokens, each with the header row; a single row may exceed it."""
    header, rule = _line(cells[0]), "|" + " --- |" * len(cells[0])
    head_tokens = count_tokens(f"{header}\n{rule}\n")
    if head_tokens > limit // 2:
        # A header as long as this is text; repeating it would leave no room for rows.
        header, rule, head_tokens = "", "", 0
    parts: list[str] = []
    lines: list[str] = []
    tokens = head_tokens
    for row in cells[1:] if header else cells:
        line = _line(row)
        size = count_tokens(line) + 1
        if lines and tokens + size > limit:
            parts.append(_joined(header, rule, lines))
            lines, tokens = [], head_tokens
        lines.append(line)
        tokens += size
    if lines or not parts:
        parts.append(_joined(header, rule, lines))
    return parts


def row_lines(cells: Cells, *, sheet: str) -> list[str]:
    """One line for each data row: `title：value; title：value`, with ` ——sheet` where the sheet's name says something.

    The header is the first row that fills at least half as many cells as the fullest; rows above it stay plain.
    """
    filled = [sum(map(bool, row)) for row in cells]
    enough = max(2, (max(filled, default=0) + 1) // 2)
    at = next((number for number, count in enumerate(filled) if count >= enough), 0)
    titles = cells[at] if cells else ()
    ending = f" ——{sheet}" if sheet and _SHEET_MARK not in sheet.lower() else ""
    lines = [" ".join(filter(None, row)) + ending for row in cells[:at]]
    data = [_pairs(titles, row) + ending for row in cells[at + 1 :] if any(row)]
    # A table of a header alone has no data to name; its titles are then all there is.
    return lines + (data or ["; ".join(filter(None, titles)) + ending])


def _pairs(titles: Sequence[str], row: Sequence[str]) -> str:
    named = zip(titles, row, strict=False)
    return "; ".join(f"{title}：{value}" if title else value for title, value in named if value)


def _joined(header: str, rule: str, lines: Sequence[str]) -> str:
    return "\n".join([header, rule, *lines] if header else lines)


def _line(row: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
