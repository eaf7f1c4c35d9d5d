"""Mending the elements of a PDF: what is repeated, what was torn apart."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from rag.core.types import Element, ElementKind, Position

_TEXTS = (ElementKind.PARAGRAPH, ElementKind.LIST_ITEM, ElementKind.HEADING)
_EDGE_ELEMENTS = 2
_REPEATED_SHARE = 0.15
_REPEATED_LENGTH = 160
_PAGE_NUMBER = re.compile(
    r"^\W*(?:page\s+|seite\s+|第\s*)?([A-Z]-)?(\d{1,4})(?:\s*(?:of|/|von)\s*\d{1,4})?(?:\s*页)?\W*$", re.I
)
_DIGITS = re.compile(r"\d+")
_WORD = re.compile(r"[^\W\d_]+")
_HYPHEN = re.compile(r"([^\W\d_]+)- ([a-zà-ÿ]+)")
_SUSPENDED = frozenset(["and", "or", "to", "und", "oder", "bis", "et", "ou", "y", "o", "e"])
_TORN_END = re.compile(r"\b([^\W\d_]{3,}) ([b-hj-z])(?=[\s.,;:)]|$)")
_FIGURES = re.compile(r"^[\s$€£¥()\[\]\d.,%—–−-]+$|^(?:N/A|n/a|nm|NM|\*)$")
_ROW_END = re.compile(r"(?<=[\d)%—]) (?=[A-Z(]?[A-Za-z][a-z]+)")


def clean_pages(elements: Sequence[Element], *, pages: int) -> list[Element]:
    """The elements of a paged document without repeats of table text, running headers and footers and page numbers,
    with words, headings and rows of figures put together again."""
    kept = drop_text_of_tables(elements)
    kept = drop_page_numbers(kept)
    kept = drop_running_lines(kept, pages=pages)
    kept = mend_words(kept)
    return join_rows(join_headings(kept))


def drop_text_of_tables(elements: Sequence[Element]) -> list[Element]:
    """Leave out texts that lie in a table's box and say no more than the table."""
    tables: dict[int, list[tuple[Position, frozenset[str]]]] = defaultdict(list)
    for element in elements:
        if element.kind is ElementKind.TABLE and element.positions:
            words = frozenset(word for row in element.cells for cell in row for word in cell.split())
            tables[element.positions[0].page].append((element.positions[0], words))

    def repeats(element: Element) -> bool:
        if element.kind is ElementKind.TABLE or not element.positions:
            return False
        box = element.positions[0]
        words = element.text.split()
        return any(
            _share_within(box, outer) > 0.8 and sum(word in known for word in words) >= 0.6 * len(words)
            for outer, known in tables.get(box.page, ())
        )

    return [element for element in elements if not repeats(element)]


def drop_page_numbers(elements: Sequence[Element]) -> list[Element]:
    """Leave out numbers at the top or bottom of pages that count up with the pages."""
    found: dict[tuple[str, int], list[int]] = defaultdict(list)
    for index in _edges(elements):
        element = elements[index]
        match = _PAGE_NUMBER.match(element.text) if element.kind is not ElementKind.TABLE else None
        if match:
            found[(match[1] or "", int(match[2]) - (element.page or 0))].append(index)
    counted = {index for indexes in found.values() if len(indexes) >= 3 for index in indexes}
    return [element for index, element in enumerate(elements) if index not in counted]


def drop_running_lines(elements: Sequence[Element], *, pages: int) -> list[Element]:
    """Leave out lines that stand at the same height at the edge of many pages; the first of a header stays."""
    found: dict[tuple[str, int], list[int]] = defaultdict(list)
    for index in _edges(elements):
        element = elements[index]
        if element.kind in _TEXTS and len(element.text) <= _REPEATED_LENGTH:
            line = _DIGITS.sub("#", " ".join(element.text.lower().split()))
            found[(line, _edge_height(element))].append(index)
    enough = max(3, pages * _REPEATED_SHARE)
    dropped: set[int] = set()
    for (line, _), indexes in found.items():
        if len({elements[index].page for index in indexes}) >= enough:
            dropped.update(indexes if "#" in line else indexes[1:])
    return [element for index, element in enumerate(elements) if index not in dropped]


def mend_words(elements: Sequence[Element]) -> list[Element]:
    """Join words that a line end or loose setting split, where the document itself knows the whole word."""
    known = Counter(word.lower() for element in elements for word in _WORD.findall(element.text))
    hyphened = {match.lower() for element in elements for match in re.findall(r"[^\W\d_]+-[^\W\d_]+", element.text)}

    def hyphen(match: re.Match[str]) -> str:
        left, right = match[1], match[2]
        if right in _SUSPENDED:
            return match[0]
        if known[(left + right).lower()]:
            return left + right
        return f"{left}-{right}" if f"{left}-{right}".lower() in hyphened else match[0]

    def torn(match: re.Match[str]) -> str:
        whole = match[1] + match[2]
        return whole if known[whole.lower()] else match[0]

    def mend(text: str) -> str:
        return _TORN_END.sub(torn, _HYPHEN.sub(hyphen, text))

    return [_changed(element, mend) for element in elements]


def join_headings(elements: Sequence[Element]) -> list[Element]:
    """Make one heading of the lines of one: same page, same level, one close below the other."""
    joined: list[Element] = []
    for element in elements:
        last = joined[-1] if joined else None
        if last is not None and _same_heading(last, element):
            joined[-1] = replace(
                last, text=f"{last.text} {element.text}", positions=(_around(last.positions + element.positions),)
            )
        else:
            joined.append(element)
    return joined


def join_rows(elements: Sequence[Element]) -> list[Element]:
    """Make one paragraph, a line for each row, of rows of figures that arrive in pieces side by side.

    A statement whose columns the library does not see as a table comes as label, figure, "figures next label".
    """
    joined: list[Element] = []
    run: list[Element] = []
    for element in (*elements, None):
        if element is not None and _continues_row(run, element):
            run.append(element)
            continue
        joined.extend(_one_of(run))
        run = [element] if element is not None else []
    return joined


def _continues_row(run: Sequence[Element], element: Element) -> bool:
    if not run or element.kind is not ElementKind.PARAGRAPH or run[-1].kind is not ElementKind.PARAGRAPH:
        return False
    if not element.positions or not run[-1].positions or element.page != run[-1].page:
        return False
    above, below = run[-1].positions[-1], element.positions[0]
    overlap = min(above.bottom, below.bottom) - max(above.top, below.top)
    return overlap > 0.5 * min(above.bottom - above.top, below.bottom - below.top) and (
        _has_figures(element.text) or _has_figures(run[-1].text)
    )


def _has_figures(text: str) -> bool:
    words = text.split()
    return sum(bool(_FIGURES.match(word)) for word in words) >= max(1, 0.3 * min(len(words), 12)) and len(words) <= 60


def _one_of(run: Sequence[Element]) -> list[Element]:
    if len(run) < 2:
        return list(run)
    text = _ROW_END.sub("\n", " ".join(element.text for element in run))
    box = _around(tuple(position for element in run for position in element.positions))
    return [replace(run[0], text=text, positions=(box,))]


def _same_heading(last: Element, element: Element) -> bool:
    if not (
        last.kind is element.kind is ElementKind.HEADING and last.level == element.level and last.page == element.page
    ):
        return False
    if not last.positions or not element.positions or len(last.text) + len(element.text) > 200:
        return False
    above, below = last.positions[-1], element.positions[0]
    return -2.0 <= below.top - above.bottom < 0.5 * (below.bottom - below.top)


def _edges(elements: Sequence[Element]) -> Iterable[int]:
    """Indexes of the highest and lowest elements of each page."""
    pages: dict[int, list[int]] = defaultdict(list)
    for index, element in enumerate(elements):
        if element.positions:
            pages[element.positions[0].page].append(index)
    for indexes in pages.values():
        indexes.sort(key=lambda index: elements[index].positions[0].top)
        yield from dict.fromkeys(indexes[:_EDGE_ELEMENTS] + indexes[-_EDGE_ELEMENTS:])


def _edge_height(element: Element) -> int:
    return round(element.positions[0].top / 12)


def _share_within(inner: Position, outer: Position) -> float:
    width = min(inner.right, outer.right) - max(inner.left, outer.left)
    height = min(inner.bottom, outer.bottom) - max(inner.top, outer.top)
    area = (inner.right - inner.left) * (inner.bottom - inner.top)
    return width * height / area if area > 0 and width > 0 and height > 0 else 0.0


def _around(positions: Sequence[Position]) -> Position:
    return Position(
        page=positions[0].page,
        left=min(p.left for p in positions),
        right=max(p.right for p in positions),
        top=min(p.top for p in positions),
        bottom=max(p.bottom for p in positions),
    )


def _changed(element: Element, change: Callable[[str], str]) -> Element:
    text = change(element.text)
    if text == element.text:
        return element
    cells = tuple(tuple(change(cell) for cell in row) for row in element.cells)
    return replace(element, text=text, cells=cells)
