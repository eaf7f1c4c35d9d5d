"""Why a file could not be read, in a sentence for the person who uploaded it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from rag.core.errors import EmptyDocument, IngestError, ParserLimit, RagError, Unsupported
from rag.parse.kinds import KINDS, FileKind

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED_PACKAGE = "EncryptedPackage".encode("utf-16-le")
_WORD_BLOCK = b"\xec\xa5"
# Source: [MS-PPT] 2.3.2, headerToken of an encrypted presentation; [MS-XLS] 2.4.117, FilePass after the first record.
_ENCRYPTED_SLIDES = b"\xdf\xc4\xd1\xf3"
_ENCRYPTED_SHEET = re.compile(rb"\x09\x08\x10\x00.{16}(?:\x86\x00\x00\x00)?\x2f\x00", re.S)
_ZIPPED = frozenset(
    [
        "docx",
        "docm",
        "dotx",
        "pptx",
        "pptm",
        "ppsx",
        "xlsx",
        "xlsm",
        "xlsb",
        "odt",
        "ods",
        "odp",
        "epub",
        "pages",
        "numbers",
        "key",
    ]
)
_OLD_OFFICE = frozenset(["doc", "dot", "wps", "ppt", "pps", "xls", "msg"])
_MODERN = {"doc": "docx", "dot": "docx", "wps": "docx", "ppt": "pptx", "pps": "pptx", "xls": "xlsx"}
_OLD = {
    "docx": "doc",
    "docm": "doc",
    "dotx": "doc",
    "pptx": "ppt",
    "pptm": "ppt",
    "ppsx": "ppt",
    "xlsx": "xls",
    "xlsm": "xls",
}

PROTECTED = "The file is protected with a password; remove the protection and upload it again."
BROKEN = (
    "The {name} file is damaged or incomplete and cannot be read; "
    "open it in its own program, save it anew and upload that."
)
NOT_WHAT_IT_SAYS = "The file is not a valid {name} file, although its name says so; upload it with its right extension."
TOO_LARGE = "The file unpacks to more than a parser may hold, or is nested too deeply; upload it in smaller parts."
TOO_SLOW = "The file took longer to read than allowed; split it into smaller files."
NO_MEMORY = "The file needs more memory to read than allowed; split it into smaller files."

_PATTERNS: tuple[tuple[re.Pattern[str], type[RagError], str], ...] = (
    (re.compile(r"password|encrypt|decrypt|protected", re.I), IngestError, PROTECTED),
    (re.compile(r"timed? ?out|deadline", re.I), ParserLimit, TOO_SLOW),
    (
        re.compile(
            r"security|bomb|compression ratio|(content|file|archive|document) too large|too (many|deep)|"
            r"exceeds? (the )?(max|limit)|nesting",
            re.I,
        ),
        ParserLimit,
        TOO_LARGE,
    ),
    (re.compile(r"out of memory|allocation", re.I), ParserLimit, NO_MEMORY),
    (
        re.compile(r"unsupported format|no extractor|not supported", re.I),
        Unsupported,
        "Files of type {name} cannot be read.",
    ),
    (
        re.compile(r"no (text|content)|empty (document|file|input)|0 pages", re.I),
        EmptyDocument,
        "There is no text in the file.",
    ),
)


def sentence_for(extension: str, reason: str) -> RagError:
    """The error for what the library said; its own words stay out of the message."""
    name = extension.upper()
    for pattern, error, sentence in _PATTERNS:
        if pattern.search(reason):
            return error(sentence.format(name=name), reason=reason[:500])
    return IngestError(BROKEN.format(name=name), reason=reason[:500])


@contextmanager
def translated(extension: str) -> Iterator[None]:
    """Turn the library's exceptions into ours."""
    import xberg

    try:
        yield
    except xberg.SecurityError as error:
        raise ParserLimit(TOO_LARGE, reason=str(error)[:500]) from error
    except xberg.XbergTimeoutError as error:
        raise ParserLimit(TOO_SLOW, reason=str(error)[:500]) from error
    except xberg.UnsupportedFormatError as error:
        raise Unsupported(NOT_WHAT_IT_SAYS.format(name=extension.upper()), reason=str(error)[:500]) from error
    except xberg.XbergError as error:
        raise sentence_for(extension, str(error)) from error
    except (ValueError, RuntimeError, OSError) as error:
        raise sentence_for(extension, str(error)) from error


def check_start(data: bytes, kind: FileKind) -> FileKind:
    """The kind that the first bytes tell, where they can: an old Office file under a new name is read as what it is.

    Raises:
        IngestError: the bytes are of another type, or the package is encrypted.
    """
    extension = kind.extension
    name = extension.upper()
    if extension == "pdf" and b"%PDF-" not in data[:4096]:
        raise IngestError(NOT_WHAT_IT_SAYS.format(name=name))
    if extension in _ZIPPED:
        if data.startswith(_OLE):
            if _ENCRYPTED_PACKAGE in data:
                raise IngestError(PROTECTED)
            return _as(kind, _OLD.get(extension))
        if not data.startswith(b"PK"):
            raise IngestError(NOT_WHAT_IT_SAYS.format(name=name))
    if extension in _OLD_OFFICE:
        return _check_old_office(data, kind)
    return kind


def _check_old_office(data: bytes, kind: FileKind) -> FileKind:
    if data.startswith(_OLE):
        if _encrypted_word(data) or _ENCRYPTED_SLIDES in data or _ENCRYPTED_SHEET.search(data):
            raise IngestError(PROTECTED)
    else:
        if data.startswith(b"PK"):
            return _as(kind, _MODERN.get(kind.extension))
        if data[:200].lstrip().lower().startswith((b"<html", b"<!doctype html")):
            return _as(kind, "html")
        if data.startswith(b"{\\rtf"):
            return _as(kind, "rtf")
    return kind


def _encrypted_word(data: bytes) -> bool:
    """The flag fEncrypted of a Word file's information block, which begins a sector. Source: [MS-DOC] 2.5.2."""
    at = data.find(_WORD_BLOCK)
    while at >= 0:
        if at % 512 == 0:
            return bool(data[at + 11 : at + 12] and data[at + 11] & 1)
        at = data.find(_WORD_BLOCK, at + 1)
    return False


def _as(kind: FileKind, extension: str | None) -> FileKind:
    if extension is None:
        raise IngestError(NOT_WHAT_IT_SAYS.format(name=kind.extension.upper()))
    return replace(KINDS[extension])
