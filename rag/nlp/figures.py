"""The figures of a text, and whether another text holds them: `$1.6 billion` rests on `1,577` in millions, 1932 does
not rest on 1923."""

import re
from collections.abc import Collection
from dataclasses import dataclass

_FIGURE = re.compile(
    r"(?<![\w.])\d{1,3}(?:,\d{3})+(?:\.\d+)?|(?<![A-Za-z_])\d+(?:\.\d+)?",
)
_SCALE = re.compile(r"\s?(thousand|million|billion|trillion|mn|bn|[kKmMbB](?![\w]))", re.IGNORECASE)
_SCALES = {"t": 1e3, "k": 1e3, "m": 1e6, "b": 1e9}
_ORDINAL = re.compile(r"\s*(?:\(?\d{1,3}[.)]\s)")
_NUMERALS = {
    word: str(number)
    for number, word in enumerate(
        re.findall(r"\w+", "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen")
    )
}
_NUMERAL = re.compile(rf"\b(?:{'|'.join(_NUMERALS)})\b", re.IGNORECASE)
_MOST_DIGITS = 15
_LEAST_ROUNDED = 10
_STEPS = (1e-9, 1e-6, 1e-3, 1e3, 1e6, 1e9)


@dataclass(frozen=True, slots=True)
class Figure:
    """A number as it is written: its value, the digits behind the point, and its `scale` (1 without a word for it)."""

    value: float
    decimals: int
    scale: float = 1.0


def figures(text: str, *, words: bool = False) -> frozenset[Figure]:
    """The figures of `text`, the number of a list item apart; with `words`, also `zero` to `fourteen`."""
    item = _ORDINAL.match(text)
    found = {_figure(text, match) for match in _FIGURE.finditer(text, item.end() if item else 0)}
    if words:
        found |= {Figure(float(_NUMERALS[match[0].lower()]), 0) for match in _NUMERAL.finditer(text)}
    return frozenset(each for each in found if each is not None)


def _figure(text: str, match: re.Match[str]) -> Figure | None:
    digits = match[0].replace(",", "")
    if len(digits) > _MOST_DIGITS:
        return None
    scale = _SCALE.match(text, match.end())
    word = scale[1].lower() if scale else ""
    factor = 1e12 if word.startswith("tr") else _SCALES.get(word[:1], 1.0)
    return Figure(float(digits), len(digits.partition(".")[2]), factor)


def missing_share(claimed: Collection[Figure], given: Collection[Figure]) -> float:
    """The share of the `claimed` figures that `given` does not hold, 0 to 1; 0 where none is claimed."""
    if not claimed:
        return 0.0
    values = {figure.value for figure in given} | {figure.value * figure.scale for figure in given}
    return sum(not _holds(figure, values) for figure in claimed) / len(claimed)


def _holds(figure: Figure, values: Collection[float]) -> bool:
    """Whether one of `values` is this figure: the same, rounded as it is, or told in another scale."""
    if figure.value in values or figure.value * figure.scale in values:
        return True
    if figure.decimals or figure.value >= _LEAST_ROUNDED:
        fine = (value for value in values if value % 1)
        if any(round(value, figure.decimals) == figure.value for value in fine):
            return True
    if figure.scale == 1.0:
        return False
    return any(round(value * step, figure.decimals) == figure.value for value in values for step in _STEPS)
