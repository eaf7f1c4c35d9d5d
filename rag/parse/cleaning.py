"""Mending the elements of a PDF: what is repeated, what was torn apart."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from rag.core.types import Element, ElementKind, Position
from rag.parse.statements import around, figure_count, join_rows, join_tables

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
_TORN_START = re.compile(r"\b([B-HJ-Z]) ([a-z]{3,})\b")
_TORN_FIGURE = re.compile(r"(?<![\d,])(\d{1,3}(?:,\d{3})*,)(?:(\d) (\d\d)|(\d\d) (\d))(?!\d)")
_LOOSE_MARK = re.compile(r"(?<=\w) (?=[,;](?:\s|$))")
_SAYS_SOMETHING = re.compile(r"[^\W_]|[☐☒☑✓]")
_HEADING_WORDS = 25
_NUMBERED = re.compile(r"^(?:item|note|part|section|article|exhibit|chapter|appendix|table|figure|schedule)\b", re.I)


def clean_pages(elements: Sequence[Element], *, pages: int) -> list[Element]:
    """The elements of a paged document without repeats of table text, running headers and footers and page numbers,
    with words, headings and rows of figures put together again."""
    kept = drop_text_of_tables(elements)
    kept = drop_page_numbers(kept)
    kept = drop_running_lines(kept, pages=pages)
    kept = mend_words(kept)
    kept = [element for element in kept if _SAYS_SOMETHING.search(element.text)]
    kept = join_headings(demote_headings(kept))
    return join_tables(join_rows(kept))


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
        text = _TORN_START.sub(torn, _TORN_END.sub(torn, _HYPHEN.sub(hyphen, text)))
        return _LOOSE_MARK.sub("", _TORN_FIGURE.sub(lambda m: "".join(filter(None, m.groups())), text))

    return [_changed(element, mend) for element in elements]


def demote_headings(elements: Sequence[Element]) -> list[Element]:
    """Make paragraphs of what only looks like a heading: whole sentences, rows of figures, and first lines in bold,
    which are given back to the paragraph below."""
    kept: list[Element] = []
    for element in elements:
        last = kept[-1] if kept else None
        if last is not None and _begins(last, element):
            glue = "" if last.text.endswith("-") else " "
            kept[-1] = replace(
                element,
                text=f"{last.text}{glue}{element.text}",
                page=last.page,
                positions=_together(last.positions, element.positions),
            )
        elif element.kind is ElementKind.HEADING and _no_heading(element.text):
            kept.append(replace(element, kind=ElementKind.PARAGRAPH, level=0))
        else:
            kept.append(element)
    return kept


def _begins(last: Element, element: Element) -> bool:
    """Whether a heading is the first line of the paragraph after it."""
    return (
        last.kind is ElementKind.HEADING
        and element.kind is ElementKind.PARAGRAPH
        and element.text[0].islower()
        and len(last.text.split()) > 3
        and not last.text.rstrip().endswith((".", ":", "?", "!"))
        and (element.page or 0) - (last.page or 0) in (0, 1)
    )


def _no_heading(text: str) -> bool:
    words = text.split()
    if _NUMBERED.match(text):
        return len(words) > 2 * _HEADING_WORDS
    sentence = len(words) > 8 and text.rstrip().endswith(".")
    return sentence or len(words) > _HEADING_WORDS or figure_count(words) >= 0.5 * len(words)


def _together(first: tuple[Position, ...], second: tuple[Position, ...]) -> tuple[Position, ...]:
    if first and second and first[-1].page == second[0].page:
        return (*first[:-1], around((first[-1], second[0])), *second[1:])
    return first + second


def join_headings(elements: Sequence[Element]) -> list[Element]:
    """Make one heading of the lines of one: same page, same level, one close below the other."""
    joined: list[Element] = []
    for element in elements:
        last = joined[-1] if joined else None
        if last is not None and _same_heading(last, element):
            joined[-1] = replace(
                last, text=f"{last.text} {element.text}", positions=(around(last.positions + element.positions),)
            )
        else:
            joined.append(element)
    return joined


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


def _changed(element: Element, change: Callable[[str], str]) -> Element:
    text = change(element.text)
    if text == element.text:
        return element
    cells = tuple(tuple(change(cell) for cell in row) for row in element.cells)
    return replace(element, text=text, cells=cells)
