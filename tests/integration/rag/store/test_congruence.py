"""LanceDB and Elasticsearch rank alike: design invariant 6."""

import pytest

from bench.harness import DATA
from bench.index_congruence import LEAST_SHARED, MOST_APART, congruence, smaller
from bench.retrieval_sets import public_set
from bench.windows import is_kept
from rag.core.blocking import Lane, run_in
from rag.ingest.index_text import index_text
from tests.servers.elastic import fresh_prefix

OTHERS = 8


@pytest.mark.shared_data
@pytest.mark.timeout(600)
@pytest.mark.holds_loop("analyses and judges the set on the loop, as a benchmark may")
async def test_both_rank_scifact_alike(elasticsearch_url: str) -> None:
    """On all of SciFact where its vectors are kept from a benchmark; else on the passages that are asked for and each
    eighth of the others, as embedding all takes minutes. `bench/index.py` always takes all."""
    if not (DATA / "retrieval").is_dir():
        pytest.skip("needs ../shared/data")
    judged = public_set("scifact")
    texts = tuple(index_text(p.document, p.heading_path, p.content) for p in judged.passages)
    if not await run_in(Lane.FILES, is_kept, texts):
        judged = smaller(judged, OTHERS)
    found = await congruence(judged, elasticsearch_url, fresh_prefix())
    for name, lists in found.items():
        assert lists.shared >= LEAST_SHARED, (name, lists)
        assert abs(lists.lance - lists.elastic) <= MOST_APART, (name, lists)
