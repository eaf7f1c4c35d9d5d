"""Words of all entries of a place in memory: exact BM25, and which entries hold which words.

Scores are those of the index in the folder, to its last digit but one: statistics are of the whole place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

K1, B = 1.2, 0.75
_MAX_TERMS = 256
_ROWS_AT_ONCE = 2048
_BYTES_PER_WORD = 150  # A text, a number and a slot of a dict.


@dataclass(frozen=True, slots=True)
class WordIndex:
    """Postings by word: `rows[starts[w]:starts[w + 1]]` hold word `w`, in ascending order; `parts` is what each adds
    to a score for a weight of 1. Source: BM25, Robertson and Zaragoza 2009, k1 = 1.2, b = 0.75."""

    size: int
    vocabulary: dict[str, int]
    starts: NDArray[np.int64]
    rows: NDArray[np.int32]
    parts: NDArray[np.float32]

    @property
    def size_bytes(self) -> int:
        held = self.starts.nbytes + self.rows.nbytes + self.parts.nbytes
        return int(held + len(self.vocabulary) * _BYTES_PER_WORD)

    def scores(self, terms: Sequence[str]) -> NDArray[np.float32]:
        """BM25 of every row; above 0 for rows that hold at least one of the first 256 terms."""
        scores = np.zeros(self.size, dtype=np.float32)
        for term in dict.fromkeys(terms[:_MAX_TERMS]):
            span = self._span(term)
            holders = span.stop - span.start
            if holders:
                weight = np.log1p((self.size - holders + 0.5) / (holders + 0.5))
                scores[self.rows[span]] += np.float32(weight) * self.parts[span]
        return scores

    def held(self, terms: Sequence[str], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of `terms` each of `rows` holds; shape (len(rows), len(terms))."""
        held = np.zeros((len(rows), len(terms)), dtype=np.bool_)
        flags = np.zeros(self.size, dtype=np.bool_)
        for column, term in enumerate(terms):
            holders = self.rows[self._span(term)]
            if len(holders):
                flags[holders] = True
                held[:, column] = flags[rows]
                flags[holders] = False
        return held

    def _span(self, term: str) -> slice:
        word = self.vocabulary.get(term)
        return slice(0, 0) if word is None else slice(int(self.starts[word]), int(self.starts[word + 1]))


def word_index(tokens: Any) -> WordIndex:
    """The index of a column of Arrow (one array of texts, tokens joined by single spaces).

    Splitting and sorting run outside the interpreter's lock: about 80 ms for 700,000 tokens, beside other threads.
    """
    import pyarrow.compute as pc  # Loaded with LanceDB, never before.

    split = pc.split_pattern(tokens, " ")
    words = split.values.dictionary_encode()
    vocabulary = {word: number for number, word in enumerate(words.dictionary.to_pylist())}
    numbers = words.indices.to_numpy()
    lengths = np.diff(split.offsets.to_numpy())
    blank = vocabulary.pop("", None)
    if blank is not None:
        lengths = _without(numbers == blank, lengths)
        numbers = numbers[numbers != blank]
    count = len(words.dictionary)
    entries, held, times = _counted(numbers, lengths, count)
    order = np.argsort(held, kind="stable")
    rows = entries[order]
    norms = K1 * (1 - B + B * lengths / max(float(lengths.mean()) if len(lengths) else 0.0, 1e-9))
    often = times[order]
    parts = often * (K1 + 1) / (often + norms[rows])
    return WordIndex(
        size=len(lengths),
        vocabulary=vocabulary,
        starts=np.concatenate([[0], np.cumsum(np.bincount(held, minlength=count))]).astype(np.int64),
        rows=rows,
        parts=parts.astype(np.float32),
    )


def _without(blank: NDArray[np.bool_], lengths: NDArray[np.int32]) -> NDArray[np.int32]:
    """The lengths of texts whose empty pieces are left out."""
    entries = np.repeat(np.arange(len(lengths)), lengths)
    return (lengths - np.bincount(entries[blank], minlength=len(lengths))).astype(np.int32)


def _counted(
    numbers: NDArray[np.int32], lengths: NDArray[np.int32], count: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Rows, words and how often each row holds each word, row by row; a part of the rows at once, to save memory."""
    ends = np.concatenate([[0], np.cumsum(lengths)])
    found: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]] = []
    for first in range(0, max(len(lengths), 1), _ROWS_AT_ONCE):
        part = lengths[first : first + _ROWS_AT_ONCE]
        entries = np.repeat(np.arange(first, first + len(part), dtype=np.int64), part)
        mine = numbers[ends[first] : ends[first + len(part)]]
        pairs, times = np.unique(entries * count + mine, return_counts=True)
        rows, words = np.divmod(pairs, max(count, 1))
        found.append((rows.astype(np.int32), words.astype(np.int32), times.astype(np.int32)))
    rows, words, times = (np.concatenate(each) for each in zip(*found, strict=True))
    return rows, words, times
