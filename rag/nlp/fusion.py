"""Two ranked lists become one order; and what a hit's absolute score means.

The fused score only ranks: it is made from the best of its own lists and says nothing between questions.
Whether anything was found is decided by absolute signals: the cosine and the covered share of the question's
term weight.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag.nlp.statistics import Scores, Spread

DEFAULT_WEIGHT = 0.3
"""The wire contract's default of `vector_similarity_weight`: both lists count as the fusion says."""

RRF_K = 60
"""Source: Cormack et al. 2009, reciprocal rank fusion."""

VECTOR_LEAD, LEXICAL_LEAD, LEXICAL_SHARE, LEAST_FACTOR = 2.5, 5.0, 0.5, 0.05
"""Deviations by which an ordinary best hit leads its list, and how much the lexical list counts beside the vector
list. Source: measured on SciFact, XQuAD, MTRAG-UN and FinanceBench; see bench/retrieval_quality.py."""

DOCUMENT_SHARE, DOCUMENT_CHUNKS = 0.4, 3
"""How much the best chunks of a document count for each of its chunks. Source: page recall@10 on the 40 questions of
FinanceBench, .546 with .2 and .571 with .4 to .8: chosen and measured on the same questions, each worth .025, so no
more than a sign. The other sets, of one chunk a document, are left as they are by construction."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lists:
    """Scores of all candidates, in one order. `bm25` is 0 outside the lexical list; `lexical` and `vector` hold
    indices of candidates, best first. `weight` is the request's `vector_similarity_weight`. `documents` names each
    candidate's document; () leaves documents out of account."""

    cosines: Scores
    bm25: Scores
    lexical: tuple[int, ...]
    vector: tuple[int, ...]
    vector_spread: Spread
    lexical_spread: Spread
    weight: float = DEFAULT_WEIGHT
    documents: tuple[str, ...] = ()

    def scales(self) -> tuple[float, float]:
        """How the request scales (vector list, lexical list) against the default weight; never negative."""
        return max(self.weight, 0.0) / DEFAULT_WEIGHT, max(1 - self.weight, 0.0) / (1 - DEFAULT_WEIGHT)


Fusion = Callable[[Lists], Scores]


def standout(lists: Lists) -> Scores:
    """Weight each list by how far its best stands out of the whole: no labels, no language detection.

    A list whose best hit is no better than chance has a factor of `LEAST_FACTOR`; so an English model does not
    spoil Chinese questions, and words that every chunk repeats do not spoil a good vector match.
    """
    vector_scale, lexical_scale = lists.scales()
    cosines, bm25 = lists.cosines, lists.bm25
    fused = np.zeros(len(cosines), dtype=np.float32)
    best = float(cosines.max(initial=0.0))
    if best > 0.0:
        factor = max(lists.vector_spread.standout(best) - VECTOR_LEAD, LEAST_FACTOR)
        fused += (cosines / best) * (factor * vector_scale)
    most = float(bm25.max(initial=0.0))
    if most > 0.0:
        factor = max(lists.lexical_spread.standout(most) - LEXICAL_LEAD, LEAST_FACTOR)
        fused += (bm25 / most) * (LEXICAL_SHARE * factor * lexical_scale)
    return lifted_by_document(fused, lists.documents) if lists.documents else fused


def lifted_by_document(fused: Scores, documents: Sequence[str]) -> Scores:
    """Add to each candidate what the best three of its document have together: finding the right one of many long
    documents is most of the battle. Leaves the order as it is where every document is one chunk."""
    best = float(fused.max(initial=0.0))
    if best <= 0.0:
        return fused
    shares = fused / best
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    values = shares.tolist()
    for index in np.argsort(-shares, kind="stable").tolist():
        document = documents[index]
        count = counts[document] = counts.get(document, 0) + 1
        if count <= DOCUMENT_CHUNKS:
            sums[document] = sums.get(document, 0.0) + max(values[index], 0.0)
    most = max(sums.values())
    lift = np.array([sums[document] for document in documents], dtype=np.float32)
    return np.asarray(shares + DOCUMENT_SHARE * lift / most, dtype=np.float32)


def rrf(lists: Lists) -> Scores:
    """Reciprocal rank fusion: the sum of 1 / (60 + rank) over the lists that hold a candidate."""
    fused = np.zeros(len(lists.cosines), dtype=np.float32)
    for members, scale in zip((lists.vector, lists.lexical), lists.scales(), strict=True):
        fused[list(members)] += scale / (RRF_K + 1 + np.arange(len(members), dtype=np.float32))
    return fused


FUSIONS: Mapping[str, Fusion] = {"standout": standout, "rrf": rrf}


def absolute_similarity(cosines: Scores, covered: Scores, weight: float) -> NDArray[np.float32]:
    """`weight * cosine + (1 - weight) * share of the question's term weight covered`.

    Compares between questions and datasets: it is 1 only for a chunk that equals the question and holds all of
    its words, whatever the other hits are. With the default weight of .3, a chunk that holds all of the
    question's rare words and is otherwise about something else has about .7; one that means the same in other
    words (cosine .7) about .2, the default threshold.
    """
    return np.asarray(weight * cosines + (1 - weight) * covered, dtype=np.float32)
