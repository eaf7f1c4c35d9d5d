"""The figures of a text, and whether another text holds them: `$1.6 billion` rests on `1,577` in millions, 1932 does
not rest on 1923."""

import re
from collections.abc import Collection, Set
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
    values = _Values({figure.value for figure in given} | {figure.value * figure.scale for figure in given})
    return sum(not values.hold(figure) for figure in claimed) / len(claimed)


class _Values:
    """Numbers, and what they are rounded to: looked up, as many figures compared with as many take quadratic time."""

    def __init__(self, values: Set[float]) -> None:
        self._values = values
        self._rounded: dict[int, frozenset[float]] = {}
        self._scaled: dict[int, frozenset[float]] = {}

    def hold(self, figure: Figure) -> bool:
        """Whether one of them is this figure: the same, rounded as it is, or told in another scale."""
        value, digits = figure.value, figure.decimals
        if value in self._values or value * figure.scale in self._values:
            return True
        if digits or value >= _LEAST_ROUNDED:
            if digits not in self._rounded:
                self._rounded[digits] = frozenset(round(each, digits) for each in self._values if each % 1)
            if value in self._rounded[digits]:
                return True
        if figure.scale == 1.0:
            return False
        if digits not in self._scaled:
            self._scaled[digits] = frozenset(round(each * step, digits) for each in self._values for step in _STEPS)
        return value in self._scaled[digits]
