"""Rows of parsed tables made readable: signs joined to their figures, columns under their real heads.

Tables of reports come out of files with lone `$` and `)` cells, heads over two lines, two years in one head, figures
where a head belongs, or as plain lines `Inventories 11,461 16,047`. Nothing is guessed: a figure whose column is not
plain gets no head.
"""

import re
from collections.abc import Sequence

_DATE = (
    r"(?:(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|"
    r"nov(?:ember)?|dec(?:ember)?)\.?\s+\d{1,2},?\s+)?(?:19|20)\d{2}\b\*?"
)
_NUMBER = r"(?:[$€£¥]\s?)?\(?-?(?:[$€£¥]\s?)?\d[\d,.]*\s?\)?(?:\s?%\)?)?"
_EMPTY = "[—–-]"
_FIGURE = re.compile(rf"{_NUMBER}|[$€£¥]?\s?{_EMPTY}")
_FIGURES = re.compile(rf"(?:(?:{_NUMBER}|[$€£¥]?\s?{_EMPTY})(?:\s+|$)){{2,}}")
_NUMBERS = re.compile(rf"{_NUMBER}(?=\s|$)|[$€£¥]?\s?{_EMPTY}(?=\s|$)")
_DATES = re.compile(_DATE, re.IGNORECASE)
_YEAR = re.compile(r"(?:19|20)\d{2}\*?")
_DAY = re.compile(_DATE.partition("(?:19|20)")[0].removesuffix(")?").removeprefix("(?:"), re.IGNORECASE)
_LINE = re.compile(
    rf"(?P<label>\S.{{0,110}}?[^\W\d_].{{0,40}}?)\s+(?P<values>(?:{_NUMBER}|[$€£¥]?\s?{_EMPTY})"
    rf"(?:\s+(?:{_NUMBER}|[$€£¥]?\s?{_EMPTY})){{0,7}})"
)
_SIGNS = "$€£¥"
_MOST_HEAD_ROWS = 3
_MOST_LINE_CHARS = 180

Row = list[str]


def is_figure(cell: str) -> bool:
    """Whether `cell` is a number and nothing else, and no year."""
    return bool(_FIGURE.fullmatch(cell)) and not _YEAR.fullmatch(cell)


def joined_signs(cells: Sequence[str]) -> Row:
    """Lone signs joined to their numbers: `$` to the one after, `%` and `)` to the one before; width is kept."""
    result = list(cells)
    for index, cell in enumerate(result):
        if cell and cell in _SIGNS:
            after = next((i for i in range(index + 1, len(result)) if result[i]), None)
            if after is not None and is_figure(result[after]):
                result[after], result[index] = f"{cell} {result[after]}", ""
        elif cell in ("%", ")", ")%", "%)"):
            before = next((i for i in range(index - 1, 0, -1) if result[i]), None)
            if before is not None and (result[before][-1:].isdigit() or cell[0] == "%"):
                result[before], result[index] = result[before] + cell, ""
    return result


def normalised(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[Row, list[Row]]:
    """The table with its real head (empty strings without one) and one figure in a cell; empty columns are gone."""
    body = [joined_signs(row) for row in rows]
    top = list(head)
    if any(is_figure(cell) for cell in top[1:]):
        body.insert(0, joined_signs(top))
        top = [""] * len(top)
    for _ in range(_MOST_HEAD_ROWS):
        if not body or not _is_head(body[0]):
            break
        top = _stacked(top, body.pop(0))
    width = max([len(top), *(len(row) for row in body)], default=0)
    top = top + [""] * (width - len(top))
    body = [row + [""] * (width - len(row)) for row in body]
    return _spread(*_without_empty(top, body))


def _is_head(row: Row) -> bool:
    """A line of years or dates without a label, under a table's first line."""
    values = [cell for cell in row[1:] if cell]
    dated = sum(bool(_DATES.search(cell) or _DAY.fullmatch(cell + " ")) for cell in values)
    label = row[0]
    return bool(values) and dated * 2 > len(values) and (not label or label.startswith("(") or " in " in label.lower())


def _stacked(top: Row, below: Row) -> Row:
    width = max(len(top), len(below))
    top, below = top + [""] * (width - len(top)), below + [""] * (width - len(below))
    parts = all(over for over, under in zip(top[1:], below[1:], strict=True) if under)
    return [
        (f"{over} {under}".strip() if parts or not under or not index else under)
        for index, (over, under) in enumerate(zip(top, below, strict=True))
    ]


def _without_empty(top: Row, body: list[Row]) -> tuple[Row, list[Row]]:
    """Columns that hold a sign or nothing are dropped; the head of one goes to its empty neighbour on the right."""
    used = [index == 0 or any(row[index] for row in body) for index in range(len(top))]
    heads = list(top)
    for index in range(1, len(heads) - 1):
        if not used[index] and heads[index] and not heads[index + 1] and used[index + 1]:
            heads[index + 1], heads[index] = heads[index], ""
    keep = [index for index in range(len(top)) if used[index] or (heads[index] and not _has_dates(heads))]
    return [heads[index] for index in keep], [[row[index] for index in keep] for row in body]


def _has_dates(heads: Row) -> bool:
    return any(_DATES.search(head) for head in heads)


def _spread(top: Row, body: list[Row]) -> tuple[Row, list[Row]]:
    """A column with several dates in its head becomes several; so do its cells where they hold as many figures."""
    counts = [len(found) if _only_dates(head, found := _DATES.findall(head)) else 1 for head in top]
    heads: Row = []
    for index, head in enumerate(top):
        heads.extend([match.strip() for match in _DATES.findall(head)] if counts[index] > 1 else [head])
    if len(heads) == len(top):
        return top, body
    names = [head for head in heads[1:] if head]
    result: list[Row] = []
    misfits = 0
    for row in body:
        cells = [cell for cell in row[1:] if cell]
        figures = [figure for cell in cells for figure in split_figures(cell)]
        fitting = next((each for each in (cells, figures) if len(each) == len(names)), None)
        misfits += fitting is None and bool(cells)
        fitting = fitting or figures[: len(names)] if figures else []
        result.append([row[0], *fitting, *[""] * (len(names) - len(fitting))])
    if misfits * 5 > len(result):
        return top, body
    return [heads[0], *names], result


def _only_dates(head: str, found: Sequence[str]) -> bool:
    return len(found) > 1 and not re.search(r"[^\W\d_]{2,}", _DATES.sub("", head))


def split_figures(cell: str) -> Row:
    """The figures of a cell that holds nothing else; else the cell itself, and nothing of an empty one."""
    if not cell:
        return []
    return [match.strip() for match in _NUMBERS.findall(cell)] if _FIGURES.fullmatch(cell) else [cell]


def figure_line(line: str) -> Row | None:
    """`Inventories 11,461 16,047` as cells; None for prose."""
    if len(line) > _MOST_LINE_CHARS or not line[-1:].strip() or not (line[-1].isdigit() or line[-1] in ")%—–-"):
        return None
    match = _LINE.fullmatch(line)
    if not match:
        return None
    values = [value.strip() for value in _NUMBERS.findall(match["values"])]
    label = match["label"].strip()
    if len(values) < 2 and not re.search(r"\d,\d{3}|[$€£¥]", match["values"]):
        return None
    if sum(bool(_YEAR.fullmatch(value)) for value in values) * 2 >= len(values) or re.search(
        r"[.!?;]\s|\b(?:and|of|in|to|or)$", label
    ):
        return None
    return [label.rpartition(": ")[2] or label, *values]


def heads_in(line: str, columns: int) -> Row | None:
    """The dates that a line above a table names for its `columns`, or None: `December 31, 2016 2017`."""
    if len(line) > _MOST_LINE_CHARS * 2 or line[-1:] in ".;":
        return None
    found = re.search(rf"{_DATE}(?:\s+{_DATE})+", line, re.IGNORECASE)
    if found is None and columns == 1 and len(line) < 60:
        return None
    dates = [date.strip() for date in _DATES.findall(found[0])] if found else []
    if any(len(date) > len("2018*") for date in dates[1:]):
        return dates if len(dates) == columns else None
    return [date[-4:] if date[-1] != "*" else date[-5:] for date in dates] if len(dates) == columns else None
