"""What is read from a PPTX package itself: the size of its slides, and texts that the library pulls apart.

A word set in several runs ("S" + "ome") comes from the library as "S ome"; the paragraphs of the package say how
it is really written. Reading is by patterns, not by an XML parser: nothing here expands entities.
"""

import html
import io
import re
import zipfile
from collections.abc import Callable
from zlib import error as ZlibError  # noqa: N812  (the module names it in lower case)

_POINTS_PER_EMU = 1 / 12_700
_WIDE = (960.0, 540.0)
_MAX_PART = 8 << 20
_MAX_SLIDES = 2_000
_SIZE = re.compile(rb"<p:sldSz\b[^>]*>")
_PARAGRAPH = re.compile(r"<a:p[ >].*?</a:p>", re.S)
_RUN = re.compile(r"<a:t[^>]*>([^<]*)</a:t>|(<a:(?:br|tab)\b)")
_SPLIT = re.compile(r"\s+")


def slide_size(data: bytes) -> tuple[float, float]:
    """Width and height of the slides of a PPTX file in points; 16:9 where it does not say."""
    for part in _parts(data, ("ppt/presentation.xml",)):
        tag = _SIZE.search(part)
        if tag:
            sides = [re.search(name + rb'="(\d{1,9})"', tag[0]) for name in (rb"cx", rb"cy")]
            if sides[0] and sides[1]:
                return int(sides[0][1]) * _POINTS_PER_EMU, int(sides[1][1]) * _POINTS_PER_EMU
    return _WIDE


def spacing_mender(data: bytes) -> Callable[[str], str]:
    """A function that gives a paragraph of the slides its own spacing back; other texts come back unchanged."""
    written: dict[str, str] = {}
    for part in _parts(data, tuple(f"ppt/slides/slide{n}.xml" for n in range(1, _MAX_SLIDES))):
        for paragraph in _PARAGRAPH.findall(part.decode("utf-8", "replace")):
            text = "".join(run if not gap else " " for run, gap in _RUN.findall(paragraph))
            text = " ".join(html.unescape(text).split())
            if text:
                written.setdefault(_SPLIT.sub("", text), text)
    return lambda text: written.get(_SPLIT.sub("", text), text)


def _parts(data: bytes, names: tuple[str, ...]) -> list[bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            known = set(package.namelist())
            return [package.open(name).read(_MAX_PART) for name in names if name in known]
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError, ZlibError):
        return []
