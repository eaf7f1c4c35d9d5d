"""Which file types are read, by extension, and by which reader."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath

from rag.core.errors import Unsupported


class Reader(StrEnum):
    """TEXT and CODE are split here, ROWS is separated values, LIBRARY goes to xberg as it is,
    MARKUP goes to xberg as UTF-8."""

    TEXT = "text"
    CODE = "code"
    ROWS = "rows"
    MARKUP = "markup"
    LIBRARY = "library"


@dataclass(frozen=True, slots=True)
class FileKind:
    """`extension` is lower case, without the dot."""

    extension: str
    reader: Reader
    media_type: str


_OFFICE = "application/vnd.openxmlformats-officedocument."
_LIBRARY = {
    "pdf": "application/pdf",
    "docx": _OFFICE + "wordprocessingml.document",
    "docm": "application/vnd.ms-word.document.macroEnabled.12",
    "dotx": _OFFICE + "wordprocessingml.template",
    "doc": "application/msword",
    "dot": "application/msword",
    "wps": "application/msword",
    "pptx": _OFFICE + "presentationml.presentation",
    "pptm": "application/vnd.ms-powerpoint.presentation.macroEnabled.12",
    "ppsx": _OFFICE + "presentationml.slideshow",
    "ppt": "application/vnd.ms-powerpoint",
    "pps": "application/vnd.ms-powerpoint",
    "xlsx": _OFFICE + "spreadsheetml.sheet",
    "xlsm": "application/vnd.ms-excel.sheet.macroEnabled.12",
    "xlsb": "application/vnd.ms-excel.sheet.binary.macroEnabled.12",
    "xls": "application/vnd.ms-excel",
    "odt": "application/vnd.oasis.opendocument.text",
    "ods": "application/vnd.oasis.opendocument.spreadsheet",
    "odp": "application/vnd.oasis.opendocument.presentation",
    "pages": "application/x-iwork-pages-sffpages",
    "numbers": "application/x-iwork-numbers-sffnumbers",
    "key": "application/x-iwork-keynote-sffkey",
    "rtf": "application/rtf",
    "epub": "application/epub+zip",
    "eml": "message/rfc822",
    "msg": "application/vnd.ms-outlook",
}
_MARKUP = {
    "html": "text/html",
    "htm": "text/html",
    "xhtml": "application/xhtml+xml",
    "md": "text/markdown",
    "markdown": "text/markdown",
    "mdx": "text/mdx",
    "xml": "application/xml",
    "rst": "text/prs.fallenstein.rst",
    "adoc": "text/asciidoc",
    "asciidoc": "text/asciidoc",
    "org": "text/org",
    "tex": "application/x-latex",
    "ipynb": "application/x-ipynb+json",
    "fb2": "application/x-fictionbook+xml",
    "vtt": "text/vtt",
}
_TEXT = ("txt", "text", "log", "ini", "cfg", "conf", "properties", "mbox", "srt")
_CODE = (
    *("json", "jsonl", "ldjson", "ndjson", "yml", "yaml", "toml"),
    *("py", "js", "java", "c", "cpp", "h", "php", "go", "ts", "sh", "cs", "kt", "sql"),
    *("rs", "rb", "css", "scala", "swift", "r", "pl", "lua", "hpp", "cc", "jsx", "tsx", "bat", "ps1"),
)

KINDS: dict[str, FileKind] = {
    **{e: FileKind(e, Reader.LIBRARY, media) for e, media in _LIBRARY.items()},
    **{e: FileKind(e, Reader.MARKUP, media) for e, media in _MARKUP.items()},
    **{e: FileKind(e, Reader.TEXT, "text/plain") for e in _TEXT},
    **{e: FileKind(e, Reader.CODE, "text/plain") for e in _CODE},
    "csv": FileKind("csv", Reader.ROWS, "text/csv"),
    "tsv": FileKind("tsv", Reader.ROWS, "text/tab-separated-values"),
}
"""Every type that is read, by extension."""

SLIDES = frozenset({"pptx", "pptm", "ppsx", "ppt", "pps", "odp", "key"})
"""Types whose pages are slides."""


def kind_of(filename: str) -> FileKind:
    """The kind of a file by its name.

    Raises:
        Unsupported: files of this type are not read.
    """
    extension = PurePath(filename).suffix.lower().removeprefix(".")
    if not extension:
        raise Unsupported(
            "The file name has no extension, so its type is unknown; rename the file and upload it again."
        )
    kind = KINDS.get(extension)
    if kind is None:
        raise Unsupported(
            f"Files of type {extension[:20]!r} cannot be read; convert the file to PDF, DOCX, HTML or text."
        )
    return kind
