"""Markdown by its blocks. Line by line, so that no text is lost: the library's own nodes for HTML and Markdown leave
out description lists, text after nested lists and text after tables."""

import html
import re

from rag.core.types import Element, ElementKind
from rag.parse.tables import table_element

_FRONT_MATTER = re.compile(r"\A---\n.{0,5000}?\n(?:---|\.\.\.)\n", re.S)
_HEADING = re.compile(r"^ {0,3}(#{1,6})\s+(.*?)\s*#*$")
_UNDERLINE = re.compile(r"^ {0,3}(=+|-+)\s*$")
_FENCE = re.compile(r"^\s*(```+|~~~+)")
_ITEM = re.compile(r"^\s*(?:[-*+•]|\d{1,9}[.)])\s+(.*)$")
_QUOTE = re.compile(r"^\s*(?:>\s?)+")
_TABLE_LINE = re.compile(r"^\s*\|.*\|\s*$")
_RULE_LINE = re.compile(r"^\s*\|?[\s:|-]*-[\s:|-]*\|?\s*$")
_THEMATIC = re.compile(r"^\s*(?:[-*_]\s*){3,}$")
_CELL_END = re.compile(r"(?<!\\)\|")
_LINK = re.compile(r"!?\[((?:[^\[\]\n]|\[[^\[\]\n]{0,200}\]){0,1000})\]\((?:[^()\n]|\([^()\n]{0,500}\)){0,2000}\)")
_EMPHASIS = re.compile(
    r"(?<![\w*])(\*{1,3})(?=\S)([^*\n]+?)(?<=\S)\1(?![\w*])|(?<!\w)(__?)(?=\S)([^_\n]+?)(?<=\S)\3(?!\w)"
)
_STRIKE = re.compile(r"~~([^~\n]+)~~")
_TAG = re.compile(r"</?[A-Za-z][^<>\n]{0,500}>|<!--.{0,2000}?-->", re.S)
_ESCAPE = re.compile(r"\\([\\`*_{}\[\]()#+\-.!|<>~$&])")


def markdown_elements(text: str) -> list[Element]:
    """The blocks of a Markdown text: headings, paragraphs, list items, quotes, tables and fenced code."""
    reader = _Blocks()
    for line in _FRONT_MATTER.sub("", text, count=1).split("\n"):
        reader.take(line)
    reader.end()
    return reader.elements


class _Blocks:
    def __init__(self) -> None:
        self.elements: list[Element] = []
        self._kind = ElementKind.PARAGRAPH
        self._lines: list[str] = []
        self._fence = ""

    def take(self, line: str) -> None:
        fence = _FENCE.match(line)
        if self._fence:
            if fence and fence[1].startswith(self._fence):
                self.end()
                self._fence = ""
            else:
                self._lines.append(line)
        elif fence:
            self.end()
            self._kind, self._fence = ElementKind.CODE, fence[1][:3]
        else:
            self._take_text(line)

    def _take_text(self, line: str) -> None:
        heading, item = _HEADING.match(line), _ITEM.match(line)
        underline = _UNDERLINE.match(line)
        if underline and self._kind is ElementKind.PARAGRAPH and len(self._lines) == 1:
            title = self._lines.pop()
            self._heading(title, 1 if underline[1][0] == "=" else 2)
        elif not line.strip() or _THEMATIC.match(line):
            self.end()
        elif heading:
            self.end()
            self._heading(heading[2], len(heading[1]))
        elif _TABLE_LINE.match(line):
            self._begin(ElementKind.TABLE, line)
        elif item:
            self.end()
            self._begin(ElementKind.LIST_ITEM, item[1])
        elif _QUOTE.match(line):
            self._begin(ElementKind.QUOTE, _QUOTE.sub("", line))
        elif self._lines and self._kind is not ElementKind.TABLE:
            self._lines.append(line.strip())
        else:
            self._begin(ElementKind.PARAGRAPH, line.strip())

    def _begin(self, kind: ElementKind, line: str) -> None:
        if self._kind is not kind:
            self.end()
        self._kind = kind
        self._lines.append(line)

    def _heading(self, title: str, level: int) -> None:
        text = plain(title)
        if text:
            self.elements.append(Element(kind=ElementKind.HEADING, text=text, level=level))

    def end(self) -> None:
        """Close the open block."""
        lines, kind = self._lines, self._kind
        self._lines, self._kind = [], ElementKind.PARAGRAPH
        element: Element | None = None
        if kind is ElementKind.TABLE:
            element = table_element([_cells(line) for line in lines if not _RULE_LINE.match(line)])
        else:
            text = "\n".join(lines).strip("\n") if kind is ElementKind.CODE else plain("\n".join(lines))
            element = Element(kind=kind, text=text) if text.strip() else None
        if element:
            self.elements.append(element)


def plain(text: str) -> str:
    """Text without the marks of emphasis, links and tags."""
    for _ in range(2):
        text = _LINK.sub(r"\1", text)
    text = _EMPHASIS.sub(lambda m: m[2] or m[4], _STRIKE.sub(r"\1", _TAG.sub("", text)))
    text = html.unescape(_ESCAPE.sub(r"\1", text))
    return "\n".join(" ".join(line.split()) for line in text.split("\n") if line.strip())


def _cells(line: str) -> list[str]:
    return [plain(cell.replace("\\|", "|").replace("<br>", " ")) for cell in _CELL_END.split(line.strip()[1:-1])]
