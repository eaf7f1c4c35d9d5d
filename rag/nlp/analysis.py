"""Text to index tokens, once for all stores; a store only splits at spaces.

Words are normalised (NFKC, casefold) and stemmed (Snowball English). Scripts written without spaces, and Hangul,
whose words carry their particles, become single characters and pairs of neighbours. Numbers lose their thousands
separators (`$1,577.00` and `1577` are one token); identifiers (`10-K`, `v1.2`, `FY2018`) are kept whole without
hyphens and in parts, so that either spelling is found.
"""

import re
import sys
import threading
import unicodedata
from collections.abc import Iterable
from functools import cache

import Stemmer

MAX_TOKEN_CHARS = 64
"""Longer runs (encoded data, rows of underscores) are cut here, on both sides alike."""
MAX_QUERY_TERMS = 256

# Han with its marks and radicals, kana, Bopomofo, Hangul, Thai, Lao, Myanmar, Khmer.
_SPACELESS_RANGES = (
    (0x0E01, 0x0E3E), (0x0E40, 0x0E4E), (0x0E80, 0x0ECF), (0x0EDC, 0x0EDF), (0x1000, 0x103F), (0x104C, 0x108F),
    (0x109A, 0x109F), (0x1780, 0x17D3), (0x17D7, 0x17D7), (0x17DC, 0x17DD), (0x1100, 0x11FF), (0x2E80, 0x2FDF),
    (0x3005, 0x3007), (0x3021, 0x3029), (0x3031, 0x3035), (0x303B, 0x303C), (0x3041, 0x3096), (0x3099, 0x309A),
    (0x309D, 0x309F), (0x30A1, 0x30FA), (0x30FC, 0x30FF), (0x3105, 0x312F), (0x31A0, 0x31BF), (0x31F0, 0x31FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA9E0, 0xA9EF), (0xA9FA, 0xA9FE), (0xAA60, 0xAA76), (0xAA7A, 0xAA7F),
    (0xAC00, 0xD7A3), (0xD7B0, 0xD7FB), (0xF900, 0xFAFF), (0x1B000, 0x1B16F), (0x20000, 0x3FFFD),
)  # fmt: skip
# Marks outside the basic plane that are looked for: the Indic scripts of the supplementary plane.
_MARK_SPANS = ((0x0300, 0xD7FF), (0xFB1E, 0xFE2F), (0x10A00, 0x11FFF))

_SEPARATORS = r"(?:[._'-]|(?<=[0-9]),(?=[0-9]{3}(?![0-9])))"
_ASCII_WORDS = re.compile(rf"[a-z0-9]+(?:{_SEPARATORS}[a-z0-9]+)*(?:\+\+|#)?")
_GROUPED = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+\.[0-9]+")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")
_MIXED = re.compile(r"([^\W\d_]{2,})([0-9]{2,})|([0-9]{2,})([^\W\d_]{1,})")
_PART_BREAK = re.compile(r"[._'+#-]+")
_IDENTIFIER = re.compile(r"[0-9_]")
_OTHER_DIGITS = re.compile(r"[^\D0-9]")
_PLAIN_MARKS = str.maketrans(
    dict.fromkeys((*range(0x2010, 0x2016), 0x2212, 0xFE58, 0xFE63, 0xFF0D), "-")
    | dict.fromkeys((0x2018, 0x2019, 0x02BC, 0xFF07), "'")
    # Soft hyphens and joiners stand inside words.
    | dict.fromkeys((0x00AD, 0x200C, 0x200D, 0x2060, 0xFEFF))
)

_stemmers = threading.local()  # A PyStemmer object may be used by one thread at a time.


def analyse(text: str) -> list[str]:
    """Return the tokens of `text` in reading order, repeated as often as they occur.

    No token is empty, longer than `MAX_TOKEN_CHARS` or holds white space of any kind.
    """
    tokens: list[str] = []
    if text.isascii():
        _add_words(tokens, _ASCII_WORDS.findall(text.lower()))
    else:
        spaceless, words = _wide_patterns()
        for index, piece in enumerate(spaceless.split(_normalise(text))):
            if index % 2:
                _add_pairs(tokens, piece)
            elif piece:
                _add_words(tokens, words.findall(piece))
    stems: list[str] = _stemmer().stemWords(tokens)
    return [stem for stem in stems if stem]


def index_tokens(text: str) -> str:
    """The tokens of `text` joined by single spaces: what a store keeps."""
    return " ".join(analyse(text))


def query_terms(text: str) -> tuple[str, ...]:
    """The unique tokens of a question, in order of their first occurrence; as many as it has."""
    return tuple(dict.fromkeys(analyse(text)))


def _normalise(text: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text.translate(_PLAIN_MARKS)).casefold())
    return _OTHER_DIGITS.sub(_plain_digit, folded).translate(_PLAIN_MARKS)


def _plain_digit(match: re.Match[str]) -> str:
    value = unicodedata.decimal(match[0], None)
    return match[0] if value is None else str(value)


def _add_words(tokens: list[str], words: Iterable[str]) -> None:
    for word in words:
        if word.isalpha() and len(word) <= MAX_TOKEN_CHARS:
            tokens.append(word)
        else:
            tokens.extend(token[:MAX_TOKEN_CHARS] for token in _parts(word))


def _parts(word: str) -> Iterable[str]:
    """Take apart what is not a plain word; see the module's docstring."""
    if word.isdigit():
        return (word,)
    if _GROUPED.fullmatch(word):
        whole, _, decimals = word.replace(",", "").partition(".")
        return (f"{whole}.{decimals}" if decimals.strip("0") else whole,)
    if _INITIALS.fullmatch(word):
        return (word.replace(".", ""),)
    parts = [part for part in _PART_BREAK.split(word.replace(",", "")) if part]
    if len(parts) == 1 and parts[0] == word:
        return (word, *_mixed(word))
    if _IDENTIFIER.search(word) or word[-1] in "+#":
        whole = word.replace("-", "").replace("_", "").replace(",", "")
        return (whole, *parts) if whole not in parts else parts
    return (word,) if "'" in word and len(_PART_BREAK.split(word.replace("'", ""))) == 1 else parts


def _mixed(word: str) -> Iterable[str]:
    """Letters and digits of `fy2018` or `10k`; nothing for words that change between them more often."""
    match = _MIXED.fullmatch(word)
    return [group for group in match.groups() if group and len(group) > 1] if match else ()


def _add_pairs(tokens: list[str], run: str) -> None:
    units = _units().findall(run) if not run.isalnum() else list(run)
    tokens.extend(units)
    tokens.extend(left + right for left, right in zip(units, units[1:], strict=False))


def _stemmer() -> Stemmer.Stemmer:
    stemmer: Stemmer.Stemmer | None = getattr(_stemmers, "english", None)
    if stemmer is None:
        stemmer = _stemmers.english = Stemmer.Stemmer("english")
    return stemmer


@cache
def _marks() -> str:
    """Combining marks as the inside of a character class: `\\w` leaves them out, words of many scripts hold them."""
    ranges: list[tuple[int, int]] = []
    for first, last in _MARK_SPANS:
        for code in range(first, min(last, sys.maxunicode) + 1):
            if unicodedata.category(chr(code))[0] != "M":
                continue
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1] = (ranges[-1][0], code)
            else:
                ranges.append((code, code))
    return _as_class(ranges)


@cache
def _wide_patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Runs of scripts without spaces (one group, for `split`), and words of all others."""
    letters = rf"(?:[^\W_][{_marks()}]*)+"
    return (
        re.compile(f"([{_as_class(_SPACELESS_RANGES)}]+)"),
        re.compile(rf"{letters}(?:{_SEPARATORS}{letters})*(?:\+\+|#)?"),
    )


@cache
def _units() -> re.Pattern[str]:
    """One character with its marks; a mark without a base stands alone."""
    return re.compile(rf".[{_marks()}]*", re.DOTALL)


def _as_class(ranges: Iterable[tuple[int, int]]) -> str:
    return "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in ranges)
