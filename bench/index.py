"""The index alone: 100,000 chunks of real text in Elasticsearch and in LanceDB; search, recall, and bulk load.

Takes the Elasticsearch that `PARLEY_TEST_ELASTICSEARCH_URL` names, or starts one as the tests do.
"""

import asyncio
import gc
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import DATA, Row, median, publish, quantile
from bench.index_congruence import LEAST_SHARED, MOST_APART, congruence
from bench.retrieval_sets import public_set
from bench.windows import DATASET, Windows, embedded, windows
from rag.core.clock import SystemClock
from rag.core.settings import IndexSettings
from rag.core.types import Matrix
from rag.nlp.analysis import query_terms
from rag.nlp.fusion import Lists, standout
from rag.nlp.statistics import SampleStatistics
from rag.store.base import Candidates, Entry, Filter, Place, SearchQuery, SearchStore
from rag.store.elastic import ElasticStore
from rag.store.elastic_mapping import index_lines
from rag.store.lance import LanceStore
from tests.servers.elastic import Elasticsearch, fresh_prefix

PLACE = Place(name="t_bench_g1", dim=384)
LIMIT = 128
IN_FLIGHT = 4
ROUNDS = 3
LOADED = 20_000
AT_ONCE = 500


@contextmanager
def elasticsearch() -> Iterator[str]:
    """The address of the server that is measured."""
    given = os.environ.get("PARLEY_TEST_ELASTICSEARCH_URL")
    if given:
        yield given
        return
    server = Elasticsearch(heap="1g")
    try:
        server.start()
        yield server.url
    finally:
        server.close()


def questions() -> list[str]:
    """Those of the reports and of SciFact."""
    reports = (DATA / "financebench" / "questions.jsonl").read_text("utf-8").splitlines()
    articles = [question.text for question in public_set("scifact").questions]
    return [json.loads(line)["question"] for line in reports] + articles[:160]


class Asker:
    """Asks a store and fuses, as the retriever does once it has vector and statistics."""

    def __init__(self, store: SearchStore, statistics: SampleStatistics, asked: Sequence[str], vectors: Matrix) -> None:
        self._store = store
        self._statistics = statistics
        self.queries = [
            SearchQuery(filter=Filter(dataset_ids=(DATASET,)), terms=query_terms(text), vector=vector, limit=LIMIT)
            for text, vector in zip(asked, vectors, strict=True)
        ]

    async def ask(self, query: SearchQuery) -> Candidates:
        found = await self._store.search(PLACE, query)
        weights = self._statistics.weights(query.terms)
        standout(
            Lists(
                cosines=found.cosines,
                bm25=found.bm25,
                lexical=found.lexical,
                vector=found.vector,
                vector_spread=self._statistics.vector_spread(query.vector),
                lexical_spread=self._statistics.lexical_spread(query.terms, weights),
                documents=tuple(key.document_id for key in found.keys),
            )
        )
        return found

    async def alone(self) -> list[float]:
        """Milliseconds of each search, one after the other."""
        taken: list[float] = []
        for query in self.queries * ROUNDS:
            began = time.perf_counter()
            await self.ask(query)
            taken.append((time.perf_counter() - began) * 1000)
        return taken

    async def together(self) -> list[float]:
        """Milliseconds of each search with some in flight."""
        waiting = self.queries * ROUNDS
        taken: list[float] = []

        async def client() -> None:
            while waiting:
                query = waiting.pop()
                began = time.perf_counter()
                await self.ask(query)
                taken.append((time.perf_counter() - began) * 1000)

        await asyncio.gather(*(client() for _ in range(IN_FLIGHT)))
        return taken

    async def recall(self, vectors: Matrix) -> float:
        """The share of the ten exactly nearest among the first ten of the vector list, on average."""
        shares = []
        for query in self.queries:
            assert query.vector is not None
            exact = np.sort(np.einsum("ij,j->i", vectors, query.vector))[-10:]
            found = await self._store.search(PLACE, query)
            cosines = found.cosines[list(found.vector[:10])]
            # By score: windows that overlap in repeated lines have equal vectors.
            shares.append(sum(cosine >= exact[0] - 1e-5 for cosine in cosines) / 10)
        return float(sum(shares) / len(shares))


async def fill(store: SearchStore, entries: Sequence[Entry]) -> float:
    """Write `entries` as ingestion does; seconds until all of them can be found."""
    began = time.perf_counter()
    for start in range(0, len(entries), AT_ONCE):
        await store.upsert(PLACE, entries[start : start + AT_ONCE], visible=False)
    await store.upsert(PLACE, [])
    return time.perf_counter() - began


async def searches(name: str, store: SearchStore, loaded: Windows, asked: Sequence[str], vectors: Matrix) -> list[Row]:
    """Speed and recall of a filled store."""
    # What is left of loading is no part of a server that answers questions.
    gc.collect()
    began = time.perf_counter()
    sample = await store.sample(PLACE, (DATASET,))
    sampled = time.perf_counter() - began
    asker = Asker(store, SampleStatistics(sample.total, sample.tokens, sample.vectors), asked, vectors)
    await asker.alone()
    alone = await asker.alone()
    crowd = await asker.together()
    recall = await asker.recall(loaded.vectors)
    p50, p95, crowd95 = quantile(alone, 0.5), quantile(alone, 0.95), quantile(crowd, 0.95)
    judged = name == "Elasticsearch"
    return [
        Row(
            f"{name}: {sample.total} chunks, lexical + vector + fuse, alone, p50",
            f"{p50:.1f} ms",
            "< 30 ms" if judged else "",
            p50 < 30 if judged else None,
            {"p95_ms": p95},
        ),
        Row("  p95", f"{p95:.1f} ms"),
        Row(
            f"  {IN_FLIGHT} in flight, p95",
            f"{crowd95:.0f} ms",
            "< 250 ms" if judged else "",
            crowd95 < 250 if judged else None,
        ),
        Row("  recall@10 against exact", f"{recall:.4f}", ">= .97", recall >= 0.97),
        Row("  sample of 1,000, once a minute", f"{sampled * 1000:.0f} ms"),
    ]


async def lance_rows(loaded: Windows, asked: Sequence[str], vectors: Matrix) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        store = LanceStore(Path(folder), clock=SystemClock())
        try:
            seconds = await fill(store, loaded.entries())
            began = time.perf_counter()
            await store.optimise(PLACE)
            compacted = time.perf_counter() - began
            rows = await searches("LanceDB", store, loaded, asked, vectors)
        finally:
            await store.close()
    return [*rows, Row("  load, then optimise", f"{seconds:.0f} s + {compacted:.0f} s")]


async def elastic_rows(url: str, loaded: Windows, asked: Sequence[str], vectors: Matrix) -> list[Row]:
    store = ElasticStore(IndexSettings.model_validate({"url": url, "prefix": fresh_prefix()}), clock=SystemClock())
    try:
        await store.drop(PLACE)
        seconds = await fill(store, loaded.entries())
        began = time.perf_counter()
        await store.optimise(PLACE)
        compacted = time.perf_counter() - began
        rows = await searches("Elasticsearch", store, loaded, asked, vectors)
    finally:
        await store.drop(PLACE)
        await store.close()
    return [*rows, Row("  load, then optimise", f"{seconds:.0f} s + {compacted:.0f} s")]


def parallel_bulk(url: str, entries: Sequence[Entry], prefix: str) -> float:
    """Seconds of the driver's own helper for the same documents into an index of the same mapping."""
    from elasticsearch import Elasticsearch as Client
    from elasticsearch import helpers

    alias = f"{prefix}.{PLACE.name}"
    actions: list[dict[str, Any]] = []
    for line in index_lines(PLACE, entries):
        action, document = line.split(b"\n", 1)
        actions.append({"_id": json.loads(action)["index"]["_id"], "_index": alias, "_source": json.loads(document)})
    with Client(url, request_timeout=120) as client:
        began = time.perf_counter()
        for passed, told in helpers.parallel_bulk(client, actions):
            if not passed:
                raise RuntimeError(str(told))
        client.indices.refresh(index=alias)
        return time.perf_counter() - began


async def load_rows(url: str, loaded: Windows) -> list[Row]:
    """Ours and the helper's by turns, on fresh indices; the median of three."""
    entries = loaded.entries()[:LOADED]
    ours: list[float] = []
    helper: list[float] = []
    for _ in range(3):
        for taken, load in ((ours, None), (helper, parallel_bulk)):
            prefix = fresh_prefix()
            store = ElasticStore(IndexSettings.model_validate({"url": url, "prefix": prefix}), clock=SystemClock())
            try:
                gc.collect()
                if load is None:
                    taken.append(await fill(store, entries))
                else:
                    await store.upsert(PLACE, entries[:1])
                    taken.append(await asyncio.to_thread(load, url, entries, prefix))
            finally:
                await store.drop(PLACE)
                await store.close()
    share = median(helper) / median(ours)
    rate, other = LOADED / median(ours), LOADED / median(helper)
    return [
        Row(
            f"Elasticsearch: bulk load of {LOADED} chunks",
            f"{rate:.0f}/s = {share:.0%} of helpers.parallel_bulk ({other:.0f}/s)",
            ">= 70 %",
            share >= 0.7,
            {"ours_s": ours, "parallel_bulk_s": helper},
        )
    ]


async def congruence_rows(url: str) -> list[Row]:
    found = (await congruence(public_set("scifact"), url, fresh_prefix()))["fused"]
    return [
        Row(
            "SciFact in both: of the first ten, shared",
            f"{found.shared:.3f}",
            f">= {LEAST_SHARED}",
            found.shared >= LEAST_SHARED,
        ),
        Row(
            "  nDCG@10 of LanceDB and Elasticsearch",
            f"{found.lance:.4f}, {found.elastic:.4f}",
            f"within {MOST_APART}",
            abs(found.lance - found.elastic) <= MOST_APART,
        ),
    ]


async def measured() -> list[Row]:
    """All figures of this benchmark."""
    loaded = windows()
    asked = questions()
    vectors = embedded(tuple(asked))
    with elasticsearch() as url:
        rows = await elastic_rows(url, loaded, asked, vectors)
        rows += await lance_rows(loaded, asked, vectors)
        rows += await load_rows(url, loaded)
        rows += await congruence_rows(url)
    return rows


def main() -> bool:
    return publish("index", asyncio.run(measured()))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
