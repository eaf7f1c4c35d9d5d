"""The parser: xberg for documents, our own readers for text, code and separated values."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from rag.core.errors import EmptyDocument, IngestError, ParserLimit
from rag.core.types import Element, ParsedDocument, Position
from rag.parse.base import ParseLimits
from rag.parse.charset import decode, recode
from rag.parse.cleaning import clean_pages
from rag.parse.failures import check_start, sentence_for, translated
from rag.parse.kinds import SLIDES, FileKind, Reader, kind_of
from rag.parse.markdown_blocks import markdown_elements
from rag.parse.nodes import elements_of, frames_of
from rag.parse.slides import slide_size, spacing_mender
from rag.parse.text_files import code_elements, row_elements, text_elements

_MAX_PAGES = 20_000
_MARKDOWN = frozenset({"md", "markdown", "mdx"})
# The library writes what the head of a page holds above its text, the last line of it as a heading.
_HTML_HEAD = re.compile(r"\A---\n(?:(?:[\w:.-]+: [^\n]*)?\n){0,200}?## [\w:.-]+: [^\n]*\n")
_HTML = frozenset({"html", "htm", "xhtml"})
_OWN_READERS = {Reader.TEXT: text_elements, Reader.CODE: code_elements, Reader.ROWS: row_elements}
_EMPTY = "There is no text in the file; if it holds scanned pages or pictures only, run text recognition over it first."


class XbergParser:
    """Implements `rag.parse.base.Parser`. Runs in a child process only: the library is native code."""

    def __init__(self, limits: ParseLimits) -> None:
        self._limits = limits

    def parse(self, path: Path, *, filename: str) -> ParsedDocument:
        """Read the file at `path`. Errors as in `Parser.parse`."""
        kind = kind_of(filename)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise IngestError("The stored file cannot be read; upload it again.", reason=str(error)) from error
        if not data.strip(b"\x00\t\n\r "):
            raise EmptyDocument("The file is empty.")
        own = markdown_elements if kind.extension in _MARKDOWN else _OWN_READERS.get(kind.reader)
        if own is not None:
            document = ParsedDocument(elements=tuple(own(decode(data))), media_type=kind.media_type)
        else:
            document = self._with_library(data, kind, filename)
        characters = sum(len(element.text) for element in document.elements)
        if not any(element.text.strip() for element in document.elements):
            raise EmptyDocument(_EMPTY)
        if characters > self._limits.output_chars:
            raise ParserLimit(
                f"The file holds more than {self._limits.output_chars:,} characters of text; "
                "split it into smaller files."
            )
        return document

    def _with_library(self, data: bytes, kind: FileKind, filename: str) -> ParsedDocument:
        if kind.reader is Reader.MARKUP:
            data = recode(data)
        else:
            kind = check_start(data, kind)
        with translated(kind.extension):
            result = asyncio.run(self._extract(data, kind, filename))
        if not result.results:
            raise sentence_for(kind.extension, "; ".join(error.message for error in result.errors))
        return _document(result.results[0], data, kind)

    async def _extract(self, data: bytes, kind: FileKind, filename: str) -> Any:
        # Imported late: 0.2 s and 23 MB that the importer of this module may not need.
        import xberg

        config = xberg.ExtractionConfig(
            use_cache=False,
            enable_quality_processing=False,
            disable_ocr=True,
            include_document_structure=True,
            # Slides come with titles, tables and lists only when Markdown is asked for; other formats are the same.
            output_format="markdown",
            escape_markdown=False,
            pages=xberg.PageConfig(extract_pages=True) if kind.extension == "pdf" else None,
            pdf_options=xberg.PdfConfig(
                hierarchy=xberg.HierarchyConfig(enabled=True, include_bbox=True), extract_form_fields=False
            ),
            extraction_timeout_secs=max(1, int(self._limits.timeout_s)),
            max_archive_depth=1,
            security_limits=xberg.SecurityLimits(
                max_archive_size=min(self._limits.memory_bytes // 2, 500 << 20),
                max_content_size=min(self._limits.output_chars * 2, 200 << 20),
                max_table_cells=2_000_000,
                max_pages=_MAX_PAGES,
            ),
        )
        source = xberg.ExtractInput(
            kind=xberg.ExtractInputKind.BYTES, bytes=data, mime_type=kind.media_type, filename=f"file.{kind.extension}"
        )
        return await xberg.extract(source, config)


def _document(found: Any, data: bytes, kind: FileKind) -> ParsedDocument:
    pdf, slides = kind.extension == "pdf", kind.extension in SLIDES
    frames = frames_of(found.metadata.additional) if pdf else {}
    nodes = found.document.nodes if found.document else ()
    mend = spacing_mender(data) if kind.extension == "pptx" else None
    if kind.extension in _HTML:
        elements = markdown_elements(_HTML_HEAD.sub("", found.content, count=1))
    else:
        elements = elements_of(nodes, frames=frames, paged=pdf or slides, mend=mend)
    if not elements and found.content.strip():
        elements = text_elements(found.content)
    pages = _page_count(found.metadata, elements) if pdf or slides else 0
    if pdf:
        elements = clean_pages(elements, pages=pages)
    elif slides:
        elements = _on_whole_slides(elements, slide_size(data))
    return ParsedDocument(
        elements=tuple(elements),
        pages=pages,
        title=" ".join((found.metadata.title or "").split())[:300],
        media_type=kind.media_type,
        warnings=_warnings(found),
    )


def _warnings(found: Any) -> tuple[str, ...]:
    """What the library left out; its remarks on its own checks are not for readers."""
    messages = (warning.message[:300] for warning in found.processing_warnings if "issue #" not in warning.message)
    return tuple(dict.fromkeys(messages))[:20]


def _page_count(metadata: Any, elements: list[Element]) -> int:
    counted = metadata.pages.total_count if metadata.pages else 0
    return max([counted, *(element.page or 0 for element in elements)])


def _on_whole_slides(elements: list[Element], size: tuple[float, float]) -> list[Element]:
    """A slide's text is cited with the whole slide as its box."""
    width, height = size
    return [
        replace(e, positions=(Position(page=e.page, left=0.0, right=width, top=0.0, bottom=height),))
        if e.page and not e.positions
        else e
        for e in elements
    ]
