"""The search index: a projection of the chunk rows that can be rebuilt from them.

A *place* is one table or index: one tenant and one embedding generation, so that word statistics of tenants
do not mix. Text is analysed once, in `rag/nlp/analysis.py`; a store gets and returns its tokens joined by
single spaces and splits them at white space only.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rag.core.types import Matrix, Vector


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """`name` is made of [a-z0-9_] only; `dim` is the length of its vectors."""

    name: str
    dim: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EntryKey:
    document_id: str
    version_id: str
    chunk_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What the index keeps of a chunk."""

    key: EntryKey
    dataset_id: str
    tokens: str
    vector: Vector
    available: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """What a search may see. Values are ids, quoted by the adapter; never a query language.

    `document_ids` None means all documents of the datasets, () means none. Versions in `without_versions` are
    being written or swept and are left out. Entries that are not available are never found.
    """

    dataset_ids: tuple[str, ...]
    document_ids: tuple[str, ...] | None = None
    without_versions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchQuery:
    """One question. `terms` are analysed tokens (unique, at most 256 are used); `vector` is None for a lexical
    search, `terms` empty for a vector search. `limit` candidates per list, 1 to 1,024."""

    filter: Filter
    terms: tuple[str, ...] = ()
    vector: Vector | None = None
    limit: int = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """`bm25` (k1 1.2, b 0.75) is 0.0 where the lexical list does not hold it; `cosine` is exact
    for every candidate when the query has a vector (also for those only found by words)."""

    key: EntryKey
    bm25: float
    cosine: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Candidates:
    """Both lists as indices into the columns `keys`, `bm25` and `cosines` (float32, see `Candidate`), best first.

    `held` says which of the query's terms each candidate holds: shape (len(keys), len(query.terms)).
    """

    keys: tuple[EntryKey, ...]
    bm25: NDArray[np.float32]
    cosines: NDArray[np.float32]
    lexical: tuple[int, ...]
    vector: tuple[int, ...]
    held: NDArray[np.bool_]

    @classmethod
    def of(
        cls, candidates: Sequence[Candidate], *, lexical: Iterable[int], vector: Iterable[int], held: NDArray[np.bool_]
    ) -> "Candidates":
        """The columns of `candidates`."""
        return cls(
            keys=tuple(candidate.key for candidate in candidates),
            bm25=np.array([candidate.bm25 for candidate in candidates], dtype=np.float32),
            cosines=np.array([candidate.cosine for candidate in candidates], dtype=np.float32),
            lexical=tuple(lexical),
            vector=tuple(vector),
            held=held,
        )

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Row by row."""
        columns = zip(self.keys, self.bm25.tolist(), self.cosines.tolist(), strict=True)
        return tuple(Candidate(key=key, bm25=bm25, cosine=cosine) for key, bm25, cosine in columns)


NOTHING_FOUND = Candidates.of((), lexical=(), vector=(), held=np.zeros((0, 0), dtype=np.bool_))


def held_terms(terms: Sequence[str], texts: Sequence[str]) -> NDArray[np.bool_]:
    """`Candidates.held` of candidates with these tokens, joined by spaces."""
    columns = {term: column for column, term in enumerate(terms)}
    known = frozenset(columns)
    held = np.zeros((len(texts), len(terms)), dtype=np.bool_)
    for row, text in enumerate(texts):
        held[row, [columns[term] for term in known.intersection(text.split())]] = True
    return held


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A fixed sample of the entries a filter's datasets hold (at most 1,000; all of them when there are fewer).

    Gives document frequencies and the spread of scores without a full scan.
    """

    total: int
    tokens: tuple[str, ...]
    vectors: Matrix


@dataclass(frozen=True, kw_only=True, slots=True)
class Selector:
    """Entries to delete: of these versions, or of these documents, or of these datasets (exactly one is given)."""

    version_ids: tuple[str, ...] = ()
    document_ids: tuple[str, ...] = ()
    dataset_ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaceStats:
    entries: int
    unindexed: int


class View(Protocol):
    """One state of a place, in memory."""

    def search(self, query: SearchQuery) -> Candidates:
        """What `SearchStore.search` returns. Takes a few milliseconds at the most and waits for nothing, so it may run
        on the event loop.

        Raises:
            InvalidInput: the vector's length differs from `place.dim`.
        """
        ...


class SearchStore(Protocol):
    """One index backend. All methods raise StoreUnavailable when it does not answer in time.

    A place that was never written is empty: searches find nothing, deletes do nothing.
    """

    async def upsert(self, place: Place, entries: Sequence[Entry], *, visible: bool = True) -> None:
        """Write entries; one with a known key replaces it. Creates the place.

        Args:
            visible: Whether searches must see them, and all that was written to the place before, when this returns;
                also when `entries` is empty. Making writes visible is dear on some backends; a batch nobody can read
                yet goes without. It survives either way, and `delete` finds it.

        Raises:
            InvalidInput: a vector's length differs from `place.dim`.
        """
        ...

    async def delete(self, place: Place, selector: Selector) -> None:
        """Delete what `selector` names; nothing there is not an error. Visible when this returns."""
        ...

    async def search(self, place: Place, query: SearchQuery) -> Candidates:
        """Ask for words and vector at once.

        Raises:
            InvalidInput: the vector's length differs from `place.dim`.
        """
        ...

    async def view(self, place: Place) -> View | None:
        """A view that holds all writes which had returned before this was called, for a search that follows at once;
        None where `search` has to be asked.

        Where many search at the same time, each wait for a thread costs more than the search of a small place.
        """
        ...

    async def sample(self, place: Place, dataset_ids: tuple[str, ...]) -> Sample:
        """The fixed sample of these datasets' available entries, for statistics."""
        ...

    async def optimise(self, place: Place) -> PlaceStats:
        """Index what was added, compact, drop old versions; for one process, when idle."""
        ...

    async def drop(self, place: Place) -> None:
        """Remove the place and all in it; absent is not an error."""
        ...

    async def check(self) -> str:
        """The backend's name and version, if it answers."""
        ...
