"""Messages between the pool and its children: a length of four bytes, then JSON.

The child sends `begin` when it has taken a file up, then one of `document` and `error`. JSON, not pickle: what a
parser of hostile files sends must be data and nothing else.
"""

import struct
from typing import Any

import orjson

from rag.core.errors import EmptyDocument, IngestError, ParserLimit, Unsupported
from rag.core.types import Element, ElementKind, ParsedDocument, Position

HEADER = struct.Struct(">I")
_ERRORS: dict[str, type[IngestError]] = {
    error.code: error for error in (IngestError, EmptyDocument, ParserLimit, Unsupported)
}


def frame(message: dict[str, Any]) -> bytes:
    """`message` as it goes over the pipe."""
    body = orjson.dumps(message)
    return HEADER.pack(len(body)) + body


def document_message(document: ParsedDocument) -> dict[str, Any]:
    """A document as plain lists."""
    return {
        "elements": [
            [e.kind.value, e.text, e.level, e.cells, e.page, [_flat(p) for p in e.positions]] for e in document.elements
        ],
        "pages": document.pages,
        "title": document.title,
        "media_type": document.media_type,
        "warnings": document.warnings,
    }


def document_of(message: dict[str, Any]) -> ParsedDocument:
    """The document of a message.

    Raises:
        KeyError, TypeError, ValueError: the message is not one of a document.
    """
    return ParsedDocument(
        elements=tuple(_element(item) for item in message["elements"]),
        pages=int(message["pages"]),
        title=str(message["title"]),
        media_type=str(message["media_type"]),
        warnings=tuple(str(warning) for warning in message["warnings"]),
    )


def error_message(error: IngestError) -> dict[str, Any]:
    """An error as code, sentence and the library's own words."""
    return {"code": error.code, "message": error.message, "reason": str(error.facts.get("reason", ""))[:500]}


def error_of(message: dict[str, Any]) -> IngestError:
    """The error of a message."""
    error = _ERRORS.get(str(message.get("code")), IngestError)
    reason = str(message.get("reason") or "")
    return error(str(message.get("message")), **({"reason": reason} if reason else {}))


def _flat(position: Position) -> list[float]:
    return [position.page, position.left, position.right, position.top, position.bottom]


def _element(item: list[Any]) -> Element:
    kind, text, level, cells, page, positions = item
    return Element(
        kind=ElementKind(kind),
        text=str(text),
        level=int(level),
        cells=tuple(tuple(str(cell) for cell in row) for row in cells),
        page=None if page is None else int(page),
        positions=tuple(
            Position(page=int(n), left=float(left), right=float(right), top=float(top), bottom=float(bottom))
            for n, left, right, top, bottom in positions
        ),
    )
