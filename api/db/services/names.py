"""Names people give: how they are cleaned, compared and told apart.

Names never reach the file system (files are stored under their content hash); they do reach reply headers,
terminals and pages. So separators, control characters and characters that reorder text are taken out.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable
from os.path import splitext

from rag.core.errors import Conflict, InvalidInput, LimitExceeded

MAX_FILE_NAME_BYTES = 255
MAX_LOCATION_CHARS = 768
_MAX_NORM_CHARS = 255
_DIGEST_CHARS = 64
_MAX_TRIES = 1000
_NUMBERED = re.compile(r"(?s)(.*)\((\d{1,9})\)")
_SEPARATORS = re.compile(r"[/\\]")
_SEPARATOR_LOOK_ALIKES = dict.fromkeys(map(ord, "\u2044\u2215\u2216\u29f5\u29f8\u29f9\ufe68\uff0f\uff3c"), "_")
_JOINERS = frozenset("\u200c\u200d")
"""Invisible, but part of words in Indic and Persian writing and of emoji."""


def clean_label(text: str) -> str:
    """`text` without control, reordering and invisible characters, lone surrogates and outer white space.

    Line breaks and tabs become spaces.
    """
    kept = []
    for character in text:
        if character in "\t\n\r\u0085\u2028\u2029":
            kept.append(" ")
            continue
        category = unicodedata.category(character)
        if category == "Cs":
            kept.append("\ufffd")
        elif category == "Cc" or (category == "Cf" and character not in _JOINERS):
            continue
        else:
            kept.append(character)
    return "".join(kept).strip()


def clean_file_name(name: str) -> str:
    """The last part of a file name or path, cleaned and in composed form (NFC).

    Look-alikes of a slash become `_`.

    Raises:
        InvalidInput: nothing that could be a name is left.
    """
    last = _SEPARATORS.split(clean_label(name))[-1]
    cleaned = unicodedata.normalize("NFC", last.translate(_SEPARATOR_LOOK_ALIKES)).strip()
    if not cleaned.strip("."):
        raise InvalidInput(f"{name!r} is not a usable file name.", field="name")
    return cleaned


def clean_folder(path: str) -> str:
    """A `/`-separated folder without empty, `.` and `..` parts; empty if nothing is left."""
    parts = (
        unicodedata.normalize("NFC", clean_label(part).translate(_SEPARATOR_LOOK_ALIKES)).strip()
        for part in _SEPARATORS.split(path)
    )
    return "/".join(part for part in parts if part.strip("."))


def normalise(name: str) -> str:
    """What two names are compared by: NFKC, case folded, at most 255 characters.

    Folding can make a name longer; the rest of a long one is replaced by its hash.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    if len(folded) <= _MAX_NORM_CHARS:
        return folded
    digest = hashlib.sha256(folded.encode("utf-8", "surrogatepass")).hexdigest()
    return folded[: _MAX_NORM_CHARS - _DIGEST_CHARS] + digest


def deduplicate(name: str, is_taken: Callable[[str], bool]) -> str:
    """`name`, or the next free one: `a.pdf`, `a(1).pdf`, `a(2).pdf`, ... (the wire contract's rule).

    Raises:
        Conflict: a thousand names in a row are taken.
    """
    for _ in range(_MAX_TRIES):
        if not is_taken(name):
            return name
        name = _next(name)
    raise Conflict(f"No free name like {name!r} after {_MAX_TRIES} tries; choose another.", field="name")


def _next(name: str) -> str:
    stem, suffix = splitext(name)
    match = _NUMBERED.fullmatch(stem)
    if match:
        return f"{match[1]}({int(match[2]) + 1}){suffix}"
    return f"{stem}(1){suffix}"


def check_file_name_length(name: str) -> None:
    """Raise LimitExceeded if `name` has more than 255 bytes in UTF-8."""
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > MAX_FILE_NAME_BYTES:
        raise LimitExceeded(
            f"The file name has {size} bytes; at most {MAX_FILE_NAME_BYTES} are kept.",
            field="name",
            size=size,
            limit=MAX_FILE_NAME_BYTES,
        )


def extension(name: str) -> str:
    """What follows the last dot, case kept; empty without one (`.bashrc` has none)."""
    return splitext(name)[1].removeprefix(".")
