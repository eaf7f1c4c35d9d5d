"""From xberg's typed nodes to our elements."""

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from rag.core.types import Element, ElementKind, Position
from rag.parse.tables import table_element

_SKIPPED_ENTRIES = frozenset({"Message-ID", "In-Reply-To", "References"})
_IMAGE_MARK = re.compile(r"!\[([^\]]*)\]\([^)]*\)")
_BREAK = re.compile(r"<br\s*/?>", re.I)
_SPACES = re.compile(r"[^\S\n]+")
_MANY_LINES = re.compile(r"\n\s*\n\s*")
_UNWANTED = dict.fromkeys([0x00AD, 0x200B, 0x2060, 0xFEFF, *range(0x09), 0x0B, *range(0x0E, 0x20), 0x7F])


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a page lies in PDF coordinates: points, origin at the bottom left."""

    left: float
    bottom: float
    width: float
    height: float


def frames_of(additional: Mapping[str, str]) -> dict[int, Frame]:
    """The frame of each page, by its number, as xberg notes them in a document's metadata."""
    noted = additional.get("pdf_page_coordinate_frames")
    if not noted:
        return {}
    return {
        item["page_number"]: Frame(item["origin_x"], item["origin_y"], item["width"], item["height"])
        for item in orjson.loads(noted)
    }


def position(page: int | None, box: Any, frames: Mapping[int, Frame]) -> tuple[Position, ...]:
    """A node's box as a position from the top left corner; empty where it has none.

    Kept within the page: text that is drawn outside of it exists.
    """
    frame = frames.get(page or 0)
    if box is None or page is None or frame is None:
        return ()
    left, right = sorted((box.x0 - frame.left, box.x1 - frame.left))
    top, bottom = sorted((frame.bottom + frame.height - box.y1, frame.bottom + frame.height - box.y0))
    return (
        Position(
            page=page,
            left=min(max(left, 0.0), frame.width),
            right=min(max(right, 0.0), frame.width),
            top=min(max(top, 0.0), frame.height),
            bottom=min(max(bottom, 0.0), frame.height),
        ),
    )


def elements_of(
    nodes: Sequence[Any], *, frames: Mapping[int, Frame], paged: bool, mend: Callable[[str], str] | None = None
) -> list[Element]:
    """Elements in reading order, running headers and footers that the format itself marks left out.

    Args:
        nodes: xberg's document nodes.
        frames: The frame of each page; empty where boxes mean nothing.
        paged: Whether page numbers of this format can be trusted.
        mend: Applied to the text of every node.
    """
    reader = _Reader(frames, paged, mend)
    for node in nodes:
        reader.take(node)
    return reader.elements


class _Reader:
    """`slide` is the slide that nodes without a page of their own belong to."""

    def __init__(self, frames: Mapping[int, Frame], paged: bool, mend: Callable[[str], str] | None) -> None:
        self._frames = frames
        self._paged = paged
        self._mend = mend or (lambda text: text)
        self._slide: int | None = None
        self.elements: list[Element] = []

    def take(self, node: Any) -> None:
        if str(node.content_layer) in ("header", "footer"):
            return
        # The typed content gives its fields away only as JSON.
        content = orjson.loads(str(node.content))
        handler = _HANDLERS.get(content["node_type"])
        page = (node.page or self._slide) if self._paged else None
        if content["node_type"] == "slide" and self._paged:
            page = self._slide = content.get("number") or self._slide
        if handler is None:
            return
        kind, text_of = handler
        where = position(page, node.bbox, self._frames)
        if kind is ElementKind.TABLE:
            element = table_element(_rows(content["grid"], self._clean), page=page, positions=where)
            if element:
                self.elements.append(element)
            return
        text = self._clean(text_of(content), keep_lines=kind is ElementKind.CODE)
        level = min(max(int(content.get("level") or 1), 1), 6) if kind is ElementKind.HEADING else 0
        if text:
            self.elements.append(Element(kind=kind, text=text, level=level, page=page, positions=where))

    def _clean(self, text: str, *, keep_lines: bool = False) -> str:
        text = self._mend(text.translate(_UNWANTED))
        if keep_lines:
            return text.strip("\n").rstrip()
        return _MANY_LINES.sub("\n", _SPACES.sub(" ", _IMAGE_MARK.sub(r"\1", text))).strip()


def _rows(grid: Mapping[str, Any], clean: Callable[[str], str]) -> list[list[str]]:
    rows: dict[int, dict[int, str]] = {}
    for cell in grid["cells"]:
        text = html.unescape(_BREAK.sub(" ", clean(cell["content"]))).replace("**", "")
        rows.setdefault(cell["row"], {})[cell["col"]] = text
    width = max((max(row) + 1 for row in rows.values()), default=0)
    return [[rows[number].get(column, "") for column in range(width)] for number in sorted(rows)]


def _entries(content: Mapping[str, Any]) -> str:
    return "\n".join(f"{e['key']}: {e['value']}" for e in content["entries"] if e["key"] not in _SKIPPED_ENTRIES)


def _field(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda content: content.get(name) or ""


_TextOf = Callable[[Mapping[str, Any]], str]
_HANDLERS: dict[str, tuple[ElementKind, _TextOf]] = {
    "title": (ElementKind.HEADING, _field("text")),
    "heading": (ElementKind.HEADING, _field("text")),
    "slide": (ElementKind.HEADING, _field("title")),
    "paragraph": (ElementKind.PARAGRAPH, _field("text")),
    "footnote": (ElementKind.PARAGRAPH, _field("text")),
    "comment": (ElementKind.PARAGRAPH, _field("text")),
    "citation": (ElementKind.PARAGRAPH, _field("text")),
    "image": (ElementKind.PARAGRAPH, _field("description")),
    "admonition": (ElementKind.PARAGRAPH, _field("title")),
    "metadata_block": (ElementKind.PARAGRAPH, _entries),
    "definition_item": (ElementKind.PARAGRAPH, lambda c: f"{c.get('term', '')}: {c.get('definition', '')}"),
    "list_item": (ElementKind.LIST_ITEM, _field("text")),
    "quote": (ElementKind.QUOTE, _field("text")),
    "code": (ElementKind.CODE, _field("text")),
    "raw_block": (ElementKind.CODE, lambda c: "" if c.get("format") == "html" else c.get("content", "")),
    "formula": (ElementKind.FORMULA, _field("text")),
    "table": (ElementKind.TABLE, _field("")),
}
"""Node type -> kind and text. Groups, lists and page breaks carry nothing of their own."""
