"""Text to sentences and table rows: the units an answer can quote.

Reports are the measure: abbreviations (`U.S.`, `Inc.`, `No. 5`), numbers (`$1.5 billion`), list items, headings,
tables in Markdown, and scripts that end sentences without a space.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rag.nlp.tables import figure_line, heads_in, normalised

UnitKind = Literal["sentence", "heading", "row"]


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\S+", text))


_ABBREVIATIONS = _words("""
    mr mrs ms dr prof sr jr st vs etc inc corp co ltd llc plc cos bros no nos fig figs eq sec secs art pp p vol ed eds
    approx est dept gov gen col lt sgt rev hon jan feb mar apr jun jul aug sept sep oct nov dec mon tue tues wed thu
    thur thurs fri sat sun i.e e.g cf al ca viz resp incl excl avg max min u.s u.k u.n e.u d.c a.m p.m ph.d b.v n.v s.a
""")
# These end a sentence where a new one plainly begins.
_MAY_END = _words("inc corp co ltd llc plc etc u.s u.k u.n e.u d.c a.m p.m ph.d b.v n.v s.a al jr sr")
_STARTERS = _words("""
    the a an this these those that it its we our they their he she his her in on at for as if when while although
    however moreover additionally during since after before under there such some all both each no not to by with from
""")
_STOP = re.compile(
    r"[。！？｡]+[”’」』）】\"')\]]*"  # CJK ends a sentence without a space.
    r"|(?<![.!?…])[.!?…]++[\"'”’)\]]*+(?=\s)"  # Tried once in a row of dots, however long.
    r"|[।۔؟](?=\s|$)"
)
_LIST_ITEM = re.compile(r"(?:[-*+•●▪◦‣–]|\(?(?:\d{1,3}|[a-z]|[ivx]{1,4})[.)])\s+", re.IGNORECASE)
_HEADING = re.compile(r"#{1,6}\s+")
_RULE = re.compile(r"\|?\s*:?-{2,}:?\s*(?:\|\s*:?-{2,}:?\s*)*\|?")
_LAST_WORD = re.compile(r"[\w.]+$")
_TWO_YEARS = re.compile(r"(?:19|20)\d{2}\*?\s+(?:[A-Z][a-z]+ \d{1,2}, )?(?:19|20)\d{2}")
_LETTER = re.compile(r"[^\W\d_]")
_MAX_DATED_CHARS = 360
_MAX_SECTION_CHARS = 60
_CELL = re.compile(r"(?<!\\)\|")
_MARKS = re.compile(r"^\s*[*_`>]+|[*_`]{2,}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """A sentence, a heading or a row. `block` numbers the paragraph, list item or table it stands in.

    A row keeps its `cells` and those of its table's head (`header`, as long as `cells`; empty strings without one),
    made readable; `section` is the line without figures above it, as `Cash flows from investing activities`.
    """

    text: str
    kind: UnitKind
    block: int
    cells: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    section: str = ""


def units(text: str) -> list[Unit]:
    """The units of `text` in reading order; none is empty."""
    found: list[Unit] = []
    dated, section = "", ""
    for block, (kind, lines) in enumerate(_blocks(text)):
        if kind == "table":
            found.extend(_rows(lines, block, dated))
        elif kind == "figures":
            found.append(_line_row(lines[0], block, dated, section))
        elif kind == "heading":
            title = _HEADING.sub("", lines[0]).strip(" #*_")
            if title:
                found.append(Unit(text=title, kind="heading", block=block))
        else:
            joined = _MARKS.sub("", _join(lines)).strip()
            dated = joined if _TWO_YEARS.search(joined) and len(joined) < _MAX_DATED_CHARS else dated
            section = (
                joined.rstrip(": ")
                if len(joined) < _MAX_SECTION_CHARS and _LETTER.search(joined) and joined[-1] not in ".!?"
                else ""
            )
            found.extend(Unit(text=part, kind="sentence", block=block) for part in sentences(joined))
    return found


def sentences(text: str) -> list[str]:
    """The sentences of one paragraph, stripped; their white space between is lost, nothing else."""
    parts: list[str] = []
    start = 0
    for stop in _STOP.finditer(text):
        if stop[0][0] in ".…" and not _ends(text, start, stop):
            continue
        part = text[start : stop.end()].strip()
        if part:
            parts.append(part)
        start = stop.end()
    rest = text[start:].strip()
    if rest:
        parts.append(rest)
    return parts


def _ends(text: str, start: int, stop: re.Match[str]) -> bool:
    """Whether the full stop ends a sentence."""
    rest = text[stop.end() : stop.end() + 40].lstrip()
    if not rest:
        return True
    if rest[0].islower() or rest[0] in ",;:)%&":
        return False
    match = _LAST_WORD.search(text, max(start, stop.start() - 40), stop.start())
    word = match[0].casefold() if match else ""
    next_word = re.split(r"\W", rest.lstrip("\"'“‘(["), maxsplit=1)[0].casefold()
    if word in _ABBREVIATIONS:
        return word in _MAY_END and next_word in _STARTERS
    if len(word) == 1 and word.isalpha():  # An initial, as in `J. Smith`.
        return next_word in _STARTERS
    # The number of a list item ends nothing.
    return not (word.isdigit() and len(word) <= 3 and text[start : stop.start()].strip() == word)


def _blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Paragraphs, list items, headings and tables, in order, as lists of lines."""
    kind, lines = "text", list[str]()
    for raw in text.splitlines():
        line = raw.strip()
        if not line or _starts_block(line, kind, lines):
            if lines:
                yield kind, lines
            kind, lines = "text", []
        if not line:
            continue
        if line.startswith("|"):
            kind = "table"
        lines.append(line)
        if _HEADING.match(line) or (kind == "text" and len(lines) == 1 and figure_line(line)):
            yield ("heading" if _HEADING.match(line) else "figures"), lines
            kind, lines = "text", []
    if lines:
        yield kind, lines


def _starts_block(line: str, kind: str, lines: list[str]) -> bool:
    if line.startswith("|") != (kind == "table"):
        return True
    if kind == "table":
        return False
    if _HEADING.match(line) or _LIST_ITEM.match(line) or figure_line(line):
        return True
    # A short line without an end above one that begins anew is a title or a field of its own.
    above = lines[-1] if lines else ""
    return len(above) < 60 and bool(above) and above[-1] not in ",;-" and not line[0].islower()


def _join(lines: list[str]) -> str:
    """Lines of a paragraph as one; a word broken by a hyphen at a line's end is mended."""
    joined = [lines[0]]
    for line in lines[1:]:
        above = joined[-1]
        if above.endswith("-") and above[-2:-1].isalpha() and line[0].islower():
            joined[-1] = above[:-1]
        elif not (_is_wide(above[-1]) and _is_wide(line[0])):
            joined.append(" ")
        joined.append(line)
    return "".join(joined)


def _is_wide(character: str) -> bool:
    return "\u2e80" <= character <= "\u9fff" or "\uff00" <= character <= "\uffef"


def _rows(lines: list[str], block: int, dated: str) -> Iterator[Unit]:
    """The rows of a Markdown table under its head, else under the dates of the line `dated` above it."""
    table = [[cell.replace("\\|", "|").strip(" *_") for cell in _CELL.split(line.strip("|"))] for line in lines]
    rules = [index for index, line in enumerate(lines) if _RULE.fullmatch(line)]
    first = rules[0] - 1 if rules and rules[0] > 0 else -1
    body = [cells for index, cells in enumerate(table) if index not in rules and index != first]
    head, rows = normalised(table[first] if first >= 0 else [], body)
    if not any(head[1:]):
        head = [head[0], *(heads_in(dated, len(head) - 1) or head[1:])] if head else []
    section = head[0].rstrip(": ") if head and head[0].endswith(":") else ""
    for cells in rows:
        if not any(cells):
            continue
        yield Unit(
            text=" | ".join(cell for cell in cells if cell),
            kind="row",
            block=block,
            cells=tuple(cells),
            header=tuple(head),
            section=section,
        )
        if len(cells) > 1 and cells[0] and not any(cells[1:]):
            section = cells[0].rstrip(": ")


def _line_row(line: str, block: int, dated: str, section: str) -> Unit:
    """A line that ends in figures as a row."""
    cells = figure_line(line) or [line]
    head = heads_in(dated, len(cells) - 1) or [""] * (len(cells) - 1)
    return Unit(text=line, kind="row", block=block, cells=tuple(cells), header=("", *head), section=section)
