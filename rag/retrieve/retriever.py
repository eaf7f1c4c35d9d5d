"""From a question to ranked chunks: embed, search words and vectors at once, fuse, cut off, fetch the texts."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rag.core.blocking import Lane, run_in
from rag.core.clock import Clock
from rag.core.errors import StoreError
from rag.core.settings import RetrievalSettings
from rag.core.types import ChunkText, Hit, Retrieved, Vector
from rag.nlp.analysis import MAX_QUERY_TERMS, query_terms
from rag.nlp.fusion import DEFAULT_WEIGHT, FUSIONS, Lists, absolute_similarity
from rag.nlp.statistics import SampleStatistics, Scores, coverage
from rag.store.base import Candidates, EntryKey, Filter, Place, SearchQuery, SearchStore, View

EmbedQuestion = Callable[[str], Awaitable[Vector]]
_Name = tuple[str, tuple[str, ...]]
"""A place and some of its datasets, in order."""

_FRESH_S = 5.0
_STALE_S = 60.0
_KEPT_STATISTICS = 32


class ChunkSource(Protocol):
    """Where the texts are: the rows, which know the live versions."""

    async def texts(self, keys: Sequence[EntryKey]) -> dict[EntryKey, ChunkText]:
        """The available chunks of live versions among `keys`; others are left out."""
        ...

    async def hidden_versions(self, place: str) -> tuple[str, ...]:
        """Versions of this place that are being written or wait to be swept."""
        ...


@dataclass(frozen=True, slots=True)
class _Ranking:
    """All candidates with their scores, and the indices of those above the threshold, best first."""

    found: Candidates
    order: list[int]
    similarity: Scores
    covered: Scores
    fused: Scores


@dataclass(slots=True)
class _Kept:
    statistics: SampleStatistics
    checked_at: float
    refresh: asyncio.Task[None] | None = None


class Retriever:
    """One for all places of a store."""

    def __init__(self, *, store: SearchStore, chunks: ChunkSource, settings: RetrievalSettings, clock: Clock) -> None:
        self._store = store
        self._chunks = chunks
        self._settings = settings
        self._clock = clock
        self._kept: OrderedDict[_Name, _Kept] = OrderedDict()
        self._reading: dict[_Name, asyncio.Task[SampleStatistics]] = {}

    async def retrieve(
        self,
        place: Place,
        *,
        embed: EmbedQuestion,
        question: str,
        dataset_ids: tuple[str, ...],
        document_ids: tuple[str, ...] | None = None,
        without_versions: tuple[str, ...] | None = None,
        page: int = 1,
        page_size: int = 30,
        threshold: float = 0.2,
        weight: float = DEFAULT_WEIGHT,
        top_k: int = 1024,
    ) -> Retrieved:
        """Return one page of the chunks that answer `question`, best first.

        The order is one ranking of all candidates, cut into pages afterwards: pages never overlap.

        Args:
            place: Holds all of `dataset_ids`.
            embed: The embedding model of these datasets: a unit vector of `place.dim` numbers.
            document_ids: Only these documents; None for all of them, () for none.
            without_versions: What `ChunkSource.hidden_versions` said a moment ago; None asks it now.
            page: From 1.
            threshold: Least `similarity` (see `rag.nlp.fusion.absolute_similarity`).
            weight: Of the cosine in `similarity`; scales the two lists against the default of .3.
            top_k: Candidates of each list, at most `retrieval.candidates`.
        Returns:
            Hits with both partial scores; `total` counts all above the threshold; `timings_ms` has `embed`,
            `statistics`, `search`, `fuse`, `texts` and `total`.
        Raises:
            StoreUnavailable: the index did not answer.
            InvalidInput: the vector does not fit the place.
            ModelError: the question could not be embedded.
        """
        if not question.strip() or not dataset_ids or document_ids == ():
            return Retrieved(hits=(), total=0)
        watch = _Watch(self._clock)
        view, vector = await asyncio.gather(self._store.view(place), embed(question))
        watch.lap("embed")
        statistics = await self._statistics(place, dataset_ids)
        terms, weights = _weighty(query_terms(question), statistics)
        watch.lap("statistics")

        async def ranked(hidden: tuple[str, ...], view: View | None) -> _Ranking:
            query = SearchQuery(
                filter=Filter(dataset_ids=dataset_ids, document_ids=document_ids, without_versions=hidden),
                terms=terms,
                vector=vector if vector.any() else None,
                limit=max(1, min(top_k, self._settings.candidates)),
            )
            found = view.search(query) if view else await self._store.search(place, query)
            watch.lap("search")
            ranking = self._rank(found, query, statistics, weights, weight=weight, threshold=threshold)
            watch.lap("fuse")
            return ranking

        if without_versions is None:
            without_versions = await self._chunks.hidden_versions(place.name)
        ranking = await ranked(without_versions, view)
        hits, total = await self._page(ranking, page, page_size)
        if total < len(ranking.order) and (now := await self._chunks.hidden_versions(place.name)) != without_versions:
            # A document has just changed to a new version, which this search was told to leave out; the view may be
            # older than that version's last entries.
            hits, total = await self._page(await ranked(now, None), page, page_size)
        watch.lap("texts")
        return Retrieved(hits=hits, total=total, timings_ms=watch.timings())

    def _rank(
        self,
        found: Candidates,
        query: SearchQuery,
        statistics: SampleStatistics,
        weights: Scores,
        *,
        weight: float,
        threshold: float,
    ) -> _Ranking:
        keys = found.keys
        if not keys:
            nothing = np.zeros(0, dtype=np.float32)
            return _Ranking(found, [], nothing, nothing, nothing)
        covered = coverage(weights, found.held)
        similarity = absolute_similarity(found.cosines, covered, weight)
        fused = FUSIONS[self._settings.fusion](
            Lists(
                cosines=found.cosines,
                bm25=found.bm25,
                lexical=found.lexical,
                vector=found.vector,
                vector_spread=statistics.vector_spread(query.vector),
                lexical_spread=statistics.lexical_spread(query.terms, weights),
                weight=weight,
                documents=tuple([key.document_id for key in keys]),
            )
        )
        above = np.flatnonzero(similarity.astype(np.float64) >= threshold)
        order = above[_best_first(fused[above], similarity[above], [keys[i] for i in above.tolist()])]
        return _Ranking(found, order.tolist(), similarity, covered, fused)

    async def _page(self, ranking: _Ranking, page: int, page_size: int) -> tuple[tuple[Hit, ...], int]:
        """The texts of one page. A chunk whose version died since the search is left out as if never found."""
        start, end = max(page - 1, 0) * max(page_size, 0), max(page, 0) * max(page_size, 0)
        keys, order = ranking.found.keys, ranking.order
        texts = await self._texts(ranking, order[start:end])
        if len(texts) < len(order[start:end]):
            texts = await self._texts(ranking, order)
            order = [index for index in order if keys[index] in texts]
        return tuple(
            Hit(
                chunk=texts[keys[index]],
                rank=rank,
                similarity=float(ranking.similarity[index]),
                vector_similarity=float(ranking.found.cosines[index]),
                term_similarity=float(ranking.covered[index]),
                fused=float(ranking.fused[index]),
            )
            for rank, index in enumerate(order[start:end], start + 1)
        ), len(order)

    async def _texts(self, ranking: _Ranking, order: list[int]) -> dict[EntryKey, ChunkText]:
        return await self._chunks.texts([ranking.found.keys[index] for index in order]) if order else {}

    async def _statistics(self, place: Place, dataset_ids: tuple[str, ...]) -> SampleStatistics:
        """Those of these datasets. Old ones are used while new ones are read, unless they are of a small or empty
        dataset, whose words change much with every document."""
        name = (place.name, tuple(sorted(set(dataset_ids))))
        kept = self._kept.get(name)
        age_s = self._clock.monotonic() - kept.checked_at if kept else _STALE_S
        if kept is None or (age_s >= _STALE_S and kept.statistics.size < self._settings.sample_size):
            return await self._read_statistics(place, name)
        self._kept.move_to_end(name)
        if age_s >= _FRESH_S and (kept.refresh is None or kept.refresh.done()):
            kept.refresh = asyncio.create_task(self._refresh(place, name))
        return kept.statistics

    async def _refresh(self, place: Place, name: _Name) -> None:
        # The next search tries again; this one has its statistics.
        with suppress(StoreError):
            await self._read_statistics(place, name)

    async def _read_statistics(self, place: Place, name: _Name) -> SampleStatistics:
        """Those who ask meanwhile wait for the same reading; one who leaves does not end it for the others."""
        reading = self._reading.get(name)
        if reading is None:
            reading = self._reading[name] = asyncio.create_task(self._sampled(place, name), name="read-statistics")
            reading.add_done_callback(partial(self._was_read, name))
        return await asyncio.shield(reading)

    def _was_read(self, name: _Name, reading: "asyncio.Task[SampleStatistics]") -> None:
        del self._reading[name]
        if not reading.cancelled():
            reading.exception()  # Who waited for it may have left: the error has been looked at.

    async def _sampled(self, place: Place, name: _Name) -> SampleStatistics:
        sample = await self._store.sample(place, name[1])
        kept = self._kept.get(name)
        if kept is not None and kept.statistics.total == sample.total:
            kept.checked_at = self._clock.monotonic()
            return kept.statistics
        statistics = await run_in(Lane.INDEX, SampleStatistics, sample.total, sample.tokens, sample.vectors)
        self._kept[name] = _Kept(statistics, self._clock.monotonic(), kept.refresh if kept else None)
        while len(self._kept) > _KEPT_STATISTICS:
            self._kept.popitem(last=False)
        return statistics


class _Watch:
    """Milliseconds of the stages of one search."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = self._last = clock.monotonic()
        self._laps: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        now = self._clock.monotonic()
        self._laps[stage] = self._laps.get(stage, 0.0) + (now - self._last) * 1000
        self._last = now

    def timings(self) -> dict[str, float]:
        """Each stage, and the `total` so far."""
        return {**self._laps, "total": (self._last - self._began) * 1000}


def _best_first(fused: Scores, similarity: Scores, keys: Sequence[EntryKey]) -> NDArray[np.int64]:
    """Indices by `fused`, then `similarity`, descending; those that are equal in both by their keys, ascending.

    Equal scores are rare, so keys, which only Python can compare, are looked at where they decide.
    """
    order = np.lexsort((-similarity, -fused))
    tied = (np.diff(fused[order]) == 0) & (np.diff(similarity[order]) == 0)
    if tied.any():
        ranks, closeness = fused.tolist(), similarity.tolist()
        by_key = sorted(
            range(len(keys)), key=lambda i: (-ranks[i], -closeness[i], keys[i].document_id, keys[i].chunk_id)
        )
        order = np.array(by_key, dtype=np.int64)
    return order


def _weighty(terms: tuple[str, ...], statistics: SampleStatistics) -> tuple[tuple[str, ...], Scores]:
    """The terms and their weights; of a very long question the heaviest ones."""
    weights = statistics.weights(terms)
    if len(terms) <= MAX_QUERY_TERMS:
        return terms, weights
    heaviest = np.sort(np.argsort(-weights, kind="stable")[:MAX_QUERY_TERMS])
    return tuple(terms[i] for i in heaviest), weights[heaviest]
