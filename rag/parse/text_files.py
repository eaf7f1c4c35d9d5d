"""Plain text, source code and separated values, read without a library."""

import csv
import io
import re
from collections import Counter

from rag.core.types import Element, ElementKind
from rag.parse.tables import table_element

_BLANK_LINES = re.compile(r"\n(?:[ \t\v]*\n)+")
_DELIMITERS = ",;\t|"
_SAMPLE_LINES = 50


def text_elements(text: str) -> list[Element]:
    """One paragraph for each block between blank lines."""
    blocks = (block.strip("\n") for block in _BLANK_LINES.split(text.replace("\f", "\n\n")))
    return [Element(kind=ElementKind.PARAGRAPH, text=block) for block in blocks if block.strip()]


def code_elements(text: str) -> list[Element]:
    """One code element for each block between blank lines that starts at the margin, so functions stay whole."""
    elements: list[Element] = []
    block = ""
    for part in _BLANK_LINES.split(text.strip("\n")):
        if block and not part.startswith((" ", "\t", "}", ")", "]")):
            elements.append(Element(kind=ElementKind.CODE, text=block))
            block = part
        else:
            block = f"{block}\n\n{part}" if block else part
    if block.strip():
        elements.append(Element(kind=ElementKind.CODE, text=block))
    return elements


def row_elements(text: str) -> list[Element]:
    """The one table of a file of separated values; the separator is found by how evenly it divides the lines."""
    # Fields may be as long as the file itself; the default limit of 128 KiB would refuse them.
    csv.field_size_limit(max(len(text), 131_072))
    delimiter = find_delimiter(text)
    rows = list(csv.reader(io.StringIO(text.replace("\x00", ""), newline=""), delimiter=delimiter))
    element = table_element(rows)
    return [element] if element else []


def find_delimiter(text: str) -> str:
    """The separator among comma, semicolon, tab and bar; a comma where none divides the lines."""
    lines = [line for line in text.split("\n", _SAMPLE_LINES)[:_SAMPLE_LINES] if line.strip()]
    best, best_score = ",", 0.0
    for delimiter in _DELIMITERS:
        widths = Counter(len(row) for row in csv.reader(lines, delimiter=delimiter) if row)
        if not widths:
            continue
        width, count = max(widths.items(), key=lambda item: (item[1] * (item[0] > 1), item[0]))
        score = (count / max(len(lines), 1)) * (min(width, 10) - 1)
        if score > best_score:
            best, best_score = delimiter, score
    return best
