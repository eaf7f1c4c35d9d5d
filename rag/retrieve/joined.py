"""One list of hits from the searches for several wordings of a question."""

from collections.abc import Sequence
from dataclasses import replace

from rag.core.types import Hit, Retrieved

_RANK = 60
_LEAST = 0.01


def joined(lists: Sequence[Retrieved], most: int) -> Retrieved:
    """The hits of all lists, each once, best first, at most `most`; one list stays as it is.

    Reciprocal ranks are added up, each list weighing as much as its best hit's similarity: a wording that fits nothing
    well moves little. A hit keeps the highest of its similarities. Milliseconds are the longest of each stage.

    Source: Cormack et al. 2009, reciprocal rank fusion, k = 60.
    """
    if len(lists) == 1:
        return lists[0]
    best: dict[tuple[str, str], Hit] = {}
    scores: dict[tuple[str, str], float] = {}
    timings: dict[str, float] = {}
    for found in lists:
        weight = max((hit.similarity for hit in found.hits), default=0.0)
        for rank, hit in enumerate(found.hits, 1):
            key = (hit.chunk.document_id, hit.chunk.chunk_id)
            scores[key] = scores.get(key, 0.0) + max(weight, _LEAST) / (_RANK + rank)
            if key not in best or hit.similarity > best[key].similarity:
                best[key] = hit
        for stage, took_ms in found.timings_ms.items():
            timings[stage] = max(timings.get(stage, 0.0), took_ms)
    order = sorted(best, key=lambda key: (-scores[key], -best[key].similarity, key))[:most]
    hits = tuple(replace(best[key], rank=rank, fused=scores[key]) for rank, key in enumerate(order, 1))
    return Retrieved(hits=hits, total=max([len(best), *(found.total for found in lists)]), timings_ms=timings)
