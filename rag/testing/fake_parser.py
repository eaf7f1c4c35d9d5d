"""A parser without a library: lines of text are paragraphs, `# ` lines headings."""

from pathlib import Path

from rag.core.errors import EmptyDocument, ParserLimit, Unsupported
from rag.core.types import Element, ElementKind, ParsedDocument
from rag.parse.base import ParseLimits


class FakeParser:
    """Implements `rag.parse.base.Parser` for `.txt` and `.md` files."""

    def __init__(self, limits: ParseLimits) -> None:
        self._limits = limits

    def parse(self, path: Path, *, filename: str) -> ParsedDocument:
        """Errors as in `Parser.parse`."""
        if not filename.lower().endswith((".txt", ".md")):
            raise Unsupported(f"Files like {filename!r} cannot be read; convert the file to text.")
        text = path.read_text("utf-8", "replace")
        if len(text) > self._limits.output_chars:
            raise ParserLimit("The file holds too many characters; split it into smaller files.")
        elements = tuple(_element(line) for line in text.splitlines() if line.strip("# \t\x00"))
        if not elements:
            raise EmptyDocument("The file is empty.")
        return ParsedDocument(elements=elements, media_type="text/plain")


def _element(line: str) -> Element:
    marks = len(line) - len(line.lstrip("#"))
    if 1 <= marks <= 6 and line[marks] == " ":
        return Element(kind=ElementKind.HEADING, text=line[marks:].strip(), level=marks)
    return Element(kind=ElementKind.PARAGRAPH, text=line.strip())
