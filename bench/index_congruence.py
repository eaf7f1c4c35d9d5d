"""Whether LanceDB and Elasticsearch rank alike: SciFact in both, asked through the server's own retriever."""

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.retrieval_quality import DATASET, PassageTexts, key_of
from bench.retrieval_sets import JudgedSet, Question, ndcg
from bench.windows import embedded
from rag.core.blocking import Lane, run_in
from rag.core.clock import SystemClock
from rag.core.settings import IndexSettings, RetrievalSettings
from rag.core.types import Matrix, Vector
from rag.ingest.index_text import index_text
from rag.nlp.analysis import index_tokens
from rag.retrieve.retriever import Retriever
from rag.store.base import Entry, Place, SearchStore
from rag.store.elastic import ElasticStore
from rag.store.lance import LanceStore

DEPTH = 10
LEAST_SHARED, MOST_APART = 0.95, 0.005
WEIGHTS = {"fused": 0.3, "lexical": 0.0, "vector": 1.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Congruence:
    """`shared`: of the first ten, on average over the questions; nDCG@10 of each index."""

    shared: float
    lance: float
    elastic: float

    @property
    def alike(self) -> bool:
        return self.shared >= LEAST_SHARED and abs(self.lance - self.elastic) <= MOST_APART


def smaller(judged: JudgedSet, every: int) -> JudgedSet:
    """All passages that a question asks for, and each `every`-th of the others."""
    wanted = {name for question in judged.questions for name in question.judged}
    kept = tuple(p for i, p in enumerate(judged.passages) if i % every == 0 or wanted.intersection(p.names))
    return JudgedSet(name=judged.name, passages=kept, questions=judged.questions)


async def congruence(judged: JudgedSet, url: str, prefix: str, *, shards: int = 1) -> dict[str, Congruence]:
    """By list: fused as the server does by default, and each list alone. The index is dropped afterwards."""
    texts = tuple(index_text(p.document, p.heading_path, p.content) for p in judged.passages)
    questions = [question for question in judged.questions if question.judged]
    vectors = await run_in(Lane.MODEL, embedded, texts)
    asked = await run_in(Lane.MODEL, embedded, tuple(question.text for question in questions))
    entries = [
        Entry(key=key_of(p.document, p.key), dataset_id=DATASET, tokens=index_tokens(text), vector=vector)
        for p, text, vector in zip(judged.passages, texts, vectors, strict=True)
    ]
    place = Place(name=f"t_{judged.name}_g1", dim=vectors.shape[1])
    with tempfile.TemporaryDirectory() as folder:
        lance = LanceStore(Path(folder), clock=SystemClock())
        settings = IndexSettings.model_validate({"url": url, "prefix": prefix, "shards": shards})
        elastic = ElasticStore(settings, clock=SystemClock())
        try:
            rankings = []
            for store in (lance, elastic):
                await _fill(store, place, entries)
                rankings.append(await _rankings(store, place, judged, questions, asked))
            await elastic.drop(place)
        finally:
            await asyncio.gather(lance.close(), elastic.close())
    return {name: _compared(questions, *(ranking[name] for ranking in rankings)) for name in WEIGHTS}


async def _fill(store: SearchStore, place: Place, entries: Sequence[Entry]) -> None:
    for start in range(0, len(entries), 500):
        await store.upsert(place, entries[start : start + 500], visible=False)
    await store.optimise(place)


async def _rankings(
    store: SearchStore, place: Place, judged: JudgedSet, questions: Sequence[Question], asked: Matrix
) -> dict[str, list[list[str]]]:
    """Names of the passages of each question, best first."""
    texts = PassageTexts(judged)
    retriever = Retriever(store=store, chunks=texts, settings=RetrievalSettings(), clock=SystemClock())
    vectors = {question.text: vector for question, vector in zip(questions, asked, strict=True)}

    async def embed(question: str) -> Vector:
        vector: Vector = vectors[question]
        return vector

    found: dict[str, list[list[str]]] = {}
    for name, weight in WEIGHTS.items():
        found[name] = []
        for question in questions:
            hits = await retriever.retrieve(
                place,
                embed=embed,
                question=question.text,
                dataset_ids=(DATASET,),
                page_size=DEPTH,
                threshold=-10.0,
                weight=weight,
            )
            found[name].append([n for hit in hits.hits for n in texts.names[hit.chunk.chunk_id]])
    return found


def _compared(questions: Sequence[Question], lance: list[list[str]], elastic: list[list[str]]) -> Congruence:
    shared = [len(set(a) & set(b)) / DEPTH for a, b in zip(lance, elastic, strict=True)]
    scores = [
        [ndcg(names, question.judged) for names, question in zip(ranking, questions, strict=True)]
        for ranking in (lance, elastic)
    ]
    means = [sum(each) / len(each) for each in scores]
    return Congruence(shared=sum(shared) / len(shared), lance=means[0], elastic=means[1])


def main() -> None:
    import sys

    from bench.retrieval_sets import public_set

    judged = public_set("scifact")
    if len(sys.argv) > 2:
        judged = smaller(judged, int(sys.argv[2]))
    print(len(judged.passages), asyncio.run(congruence(judged, sys.argv[1], "congruence")))


if __name__ == "__main__":
    main()
