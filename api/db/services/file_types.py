"""Which files are taken, what kind they are, and the chunk method an upload starts with."""

from api.db.services.names import extension
from rag.core.errors import Unsupported


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_DOC = _set(
    "msg eml doc docx ppt pptx yml xml htm html json jsonl ldjson csv txt ini xls xlsx wps rtf hlp pages numbers "
    "key md py js java c cpp h php go ts sh cs kt sql"
)
_DOC_BEYOND_THE_CONTRACT = _set("epub markdown mdx")
"""Refused by the contract's server; our parser reads them."""
_AURAL = _set("wav flac ape alac wavpack wv mp3 aac ogg vorbis opus")
_VISUAL = _set(
    "jpg jpeg png tif gif pcx tga exif fpx svg psd cdr pcd dxf ufo eps ai raw webp avif apng icon ico mpg mpeg avi "
    "rm rmvb mov wmv asf dat asx wvx mpe mpa mp4 mkv"
)
_KINDS = (
    {"pdf": "pdf"}
    | dict.fromkeys(_DOC | _DOC_BEYOND_THE_CONTRACT, "doc")
    | dict.fromkeys(_AURAL, "aural")
    | dict.fromkeys(_VISUAL, "visual")
)
_REFUSED_KINDS = frozenset({"visual"})
"""Known, but nothing here reads them yet."""
_METHOD_BY_KIND = {"visual": "picture", "aural": "audio"}
_SLIDES = (".ppt", ".pptx", ".pages")
_MAIL = (".msg", ".eml")


def kind_of(name: str) -> str:
    """`pdf`, `doc`, `aural` or `visual`.

    Raises:
        Unsupported: files with this extension are not taken.
    """
    suffix = extension(name)
    kind = _KINDS.get(suffix.lower())
    if kind is None or kind in _REFUSED_KINDS:
        raise Unsupported("This type of file has not been supported yet!", suffix=suffix)
    return kind


def method_at_upload(name: str, kind: str, dataset_method: str) -> str:
    """The chunk method of a new document (the contract looks at lower-case extensions only)."""
    if kind in _METHOD_BY_KIND:
        return _METHOD_BY_KIND[kind]
    if name.endswith(_SLIDES):
        return "presentation"
    if name.endswith(_MAIL):
        return "email"
    return dataset_method


def method_is_fixed(name: str, kind: str) -> bool:
    """Whether the chunk method of such a document cannot be changed (pictures and slides)."""
    return kind == "visual" or name.lower().endswith(_SLIDES)
