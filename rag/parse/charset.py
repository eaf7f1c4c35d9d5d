"""From bytes to text: the charset a text file is most likely written in."""

import codecs
import re

from rag.core.errors import IngestError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECLARED = re.compile(rb"(?:charset\s*=\s*|<\?xml[^>]{0,60}encoding\s*=\s*)[\"']?([A-Za-z0-9_.:-]{2,30})", re.I)
_DECLARED_TEXT = re.compile(r"(charset\s*=\s*|<\?xml[^>]{0,60}encoding\s*=\s*)([\"']?)[A-Za-z0-9_.:-]{2,30}", re.I)
_MULTIBYTE = ("gb18030", "big5", "shift_jis", "euc_jp", "euc_kr")
_SAMPLE = 200_000
_COMMON_HAN = frozenset(
    "的一是不了在人有我他这中大来上国个到说们为子和你地出会也时要就可以对生能而那得于着下自之年過發後說時這個們來國對會學經電開關"
)
_BINARY_SHARE = 0.02


def decode(data: bytes) -> str:
    """Return `data` as text: by byte order mark, as UTF-8, by its own declaration, else by the best guess.

    Newlines come out as "\\n".

    Raises:
        IngestError: the bytes are not text.
    """
    # The sample goes first, so that a large file of something else costs nothing.
    if len(data) > _SAMPLE:
        _check(_decode(data[:_SAMPLE]))
    text = _decode(data)
    _check(text)
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")


def recode(data: bytes) -> bytes:
    """Return marked-up text as UTF-8, its declaration of a charset changed accordingly. Raises like `decode`."""
    text = decode(data)
    head = _DECLARED_TEXT.sub(r"\g<1>\g<2>utf-8", text[:4096])
    return (head + text[4096:]).encode("utf-8", "replace")


def _check(text: str) -> None:
    sample = text[:_SAMPLE]
    strange = sum(1 for c in sample if (c < " " and c not in "\t\n\r\f\v\x1b") or c == "\ufffd")
    if strange > max(2, len(sample) * _BINARY_SHARE):
        raise IngestError("The file does not hold text, although its name says so; upload it with its right extension.")


def _decode(data: bytes) -> str:
    for mark, name in _BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(name, "replace")
    wide = _wide_without_mark(data)
    if wide:
        return data.decode(wide, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start > len(data) - 4 and error.reason == "unexpected end of data":
            return data.decode("utf-8", "ignore")
    declared = _DECLARED.search(data[:4096])
    if declared:
        try:
            return data.decode(declared[1].decode("ascii"))
        except (LookupError, UnicodeDecodeError):
            pass
    return data.decode(_guess(data[:_SAMPLE]), "replace")


def _wide_without_mark(data: bytes) -> str:
    """UTF-16 shows as zero bytes on one side of most pairs."""
    sample = data[:2000]
    if len(sample) < 4:
        return ""
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    half = len(sample) // 2
    if odd > half * 0.4 and even < half * 0.05:
        return "utf-16-le"
    if even > half * 0.4 and odd < half * 0.05:
        return "utf-16-be"
    return ""


def _guess(sample: bytes) -> str:
    """The charset whose reading of `sample` looks most like writing; cp1252 where none does."""
    best, best_score = "cp1252", _score(sample.decode("cp1252", "replace"))
    for name in (*_MULTIBYTE, "cp1251"):
        text = _cut(sample, name)
        score = _score(text) if text else -1.0
        if score > best_score + 0.05:
            best, best_score = name, score
    return best


def _cut(sample: bytes, name: str) -> str:
    """`sample` read as `name`; a character cut in two at its end is forgiven; empty if it does not fit."""
    try:
        return codecs.getincrementaldecoder(name)().decode(sample)
    except UnicodeDecodeError:
        return ""


def _score(text: str) -> float:
    """How much the characters beyond ASCII look like ones that texts are made of, 0 to 1."""
    beyond = [c for c in text[:20_000] if c > "\x7f"]
    if not beyond:
        return 1.0
    return sum(map(_plausible, beyond)) / len(beyond)


def _plausible(character: str) -> float:
    if character in _COMMON_HAN:
        return 1.5
    code = ord(character)
    if 0x3040 <= code <= 0x30FF or 0xAC00 <= code <= 0xD7A3:
        return 1.0
    if 0x4E00 <= code <= 0x9FFF or 0x3000 <= code <= 0x3020 or 0xFF01 <= code <= 0xFF5E:
        return 0.7
    if 0x0430 <= code <= 0x044F:
        return 0.75
    if 0x0410 <= code <= 0x042F:
        return 0.3
    if character in "éèêëàâäöüßçñóíáúôîïûùœæåøãõÉÖÜÄ’‘“”–—…€£§°•®©™«»":
        return 0.7
    return 0.1 if character.isalpha() else 0.0
