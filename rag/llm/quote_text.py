"""How a quotation reads: table rows in words, sentences without what extraction left at their ends."""

import re
from collections.abc import Sequence

from rag.nlp.sentences import Unit

_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_OPENING = "The|We|Our|In|On|As|At|For|If|During|This|These|It|An|Under|Since|When"
_GLUED = re.compile(
    r"[A-Z0-9](?:[^.!?;:,]|, (?=[A-Z\d])){2,110}?[\w)] "
    rf"(?=(?:{_OPENING})\s(?:[a-z]|(?:{_MONTHS})\b|\d))"
)
_BULLETS = re.compile(r"^(?:(?:[-*+•●▪◦‣–—·|\ue000-\uf8ff]|\(?\d{1,3}[.)]|\([a-z]\))\s+)+")
_TRAILING = "•●▪◦‣|"


def row_text(unit: Unit, columns: Sequence[int], scale: str = "", part: str = "") -> str:
    """A table row in words: section and label, `head: value` of the given columns (else of all), and their scale."""
    label = unit.cells[0].rstrip(": ")
    values = []
    for index, cell in enumerate(unit.cells[1:], 1):
        if cell and (not columns or index in columns):
            head = unit.header[index].rstrip("* ")
            values.append(f"{head}: {cell}" if head else cell)
    if not values:
        return f"{unit.header[0]}: {label}" if unit.header[0] and unit.header[0] != label else label
    joined = "; ".join(values) + (f" (in {scale})" if scale else "")
    label = f"{part}, {label}" if part and label else label
    return f"{label}: {joined}" if label else joined


def readable(text: str) -> str:
    """A sentence without the heading, bullets and numbers that extraction left at its ends."""
    bare = _BULLETS.sub("", text)
    if bare and bare[-1] in _TRAILING:
        bare = bare.rstrip(_TRAILING).rstrip()
    if bare[:1] in '"“' and not re.search(r'["”]', bare[1:]):
        bare = bare[1:]
    return _GLUED.sub("", bare, count=1) if _GLUED.match(bare) else bare
