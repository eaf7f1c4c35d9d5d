"""How well and how fast the retriever finds, on real stores: LanceDB in a folder, the built-in embedding model.

All sets run with the same settings. The order alone is judged (threshold off); times are those of the reports.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from bench.harness import Row, publish, quantile
from bench.retrieval_sets import PUBLIC, JudgedSet, ndcg, public_set, recall, reports
from rag.core.blocking import Lane, run_in
from rag.core.clock import SystemClock
from rag.core.resources import asset_path
from rag.core.settings import RetrievalSettings
from rag.core.types import ChunkText, Matrix, Retrieved, Vector
from rag.ingest.index_text import index_text
from rag.llm.minilm import MiniLmEmbedder
from rag.nlp.analysis import index_tokens
from rag.retrieve.retriever import Retriever
from rag.store.base import Entry, EntryKey, Place
from rag.store.lance import LanceStore

DATASET = "dataset"
REACH = {"scifact": 0.725, "xquad_zh": 0.93, "financebench": 0.50}
IN_FLIGHT = 16
Embed = Callable[[str], Awaitable[Vector]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """A way to rank that is compared; weight 1 leaves the vector list alone, 0 the lexical one."""

    name: str
    fusion: str = "standout"
    weight: float = 0.3


RANKINGS = (
    Ranking(name="standout"),
    Ranking(name="rrf", fusion="rrf"),
    Ranking(name="lexical only", weight=0.0),
    Ranking(name="vector only", weight=1.0),
)


class PassageTexts:
    """The texts of one set, as rows would give them."""

    def __init__(self, judged: JudgedSet) -> None:
        self.names = {passage.key: passage.names for passage in judged.passages}
        self._texts = {
            key_of(passage.document, passage.key): ChunkText(
                chunk_id=passage.key,
                document_id=passage.document,
                version_id="v1",
                dataset_id=DATASET,
                document_name=passage.document,
                ordinal=ordinal,
                content=passage.content,
                heading_path=passage.heading_path,
            )
            for ordinal, passage in enumerate(judged.passages)
        }

    async def texts(self, keys: Sequence[EntryKey]) -> dict[EntryKey, ChunkText]:
        return {key: self._texts[key] for key in keys}

    async def hidden_versions(self, place: str) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """One set in a store, ready to be asked."""

    judged: JudgedSet
    place: Place
    store: LanceStore
    texts: PassageTexts
    embed: Embed

    def retriever(self, fusion: str = "standout") -> Retriever:
        settings = RetrievalSettings.model_validate({"fusion": fusion})
        return Retriever(store=self.store, chunks=self.texts, settings=settings, clock=SystemClock())

    async def ask(self, retriever: Retriever, question: str, *, weight: float = 0.3, size: int = 60) -> Retrieved:
        return await retriever.retrieve(
            self.place,
            embed=self.embed,
            question=question,
            dataset_ids=(DATASET,),
            page_size=size,
            threshold=-10.0,
            weight=weight,
        )


def key_of(document: str, chunk: str) -> EntryKey:
    return EntryKey(document_id=document, version_id="v1", chunk_id=chunk)


async def opened(judged: JudgedSet, folder: Path, model: MiniLmEmbedder, cache: Path | None = None) -> Bench:
    """Index a set; `cache` keeps the vectors of equal texts between runs."""
    texts = [index_text(p.document, p.heading_path, p.content) for p in judged.passages]
    vectors = await run_in(Lane.MODEL, _embedded, model, texts, cache)
    place = Place(name=f"t_{judged.name}_g1", dim=model.dim)
    store = LanceStore(folder, clock=SystemClock())
    entries = [
        Entry(key=key_of(p.document, p.key), dataset_id=DATASET, tokens=index_tokens(text), vector=vector)
        for p, text, vector in zip(judged.passages, texts, vectors, strict=True)
    ]
    for start in range(0, len(entries), 500):
        await store.upsert(place, entries[start : start + 500])
    await store.optimise(place)

    async def embed(question: str) -> Vector:
        vector: Vector = (await run_in(Lane.MODEL, model.encode_query, question)).vectors[0]
        return vector

    return Bench(judged=judged, place=place, store=store, texts=PassageTexts(judged), embed=embed)


def _embedded(model: MiniLmEmbedder, texts: list[str], cache: Path | None) -> Matrix:
    digest = xxhash.xxh64("\0".join(texts).encode("utf-8", "replace")).hexdigest()
    kept = cache / f"{digest}.npy" if cache else None
    if kept and kept.exists():
        vectors: Matrix = np.load(kept)
        return vectors
    vectors = model.encode(texts).vectors
    if kept:
        np.save(kept, vectors)
    return vectors


async def quality(bench: Bench, ranking: Ranking) -> float:
    """Page recall@10 for the reports, nDCG@10 for the others."""
    retriever, scores = bench.retriever(ranking.fusion), []
    for question in bench.judged.questions:
        if question.judged:
            found = await bench.ask(retriever, question.text, weight=ranking.weight)
            names = list(dict.fromkeys(n for hit in found.hits for n in bench.texts.names[hit.chunk.chunk_id]))
            score = recall if bench.judged.name == "financebench" else ndcg
            scores.append(score(names, question.judged))
    return sum(scores) / len(scores)


async def times(bench: Bench, rounds: int = 5) -> list[Row]:
    """Alone and with 16 questions in flight, on a warm store."""
    retriever, questions = bench.retriever(), [question.text for question in bench.judged.questions]
    for question in questions[:20]:
        await bench.ask(retriever, question, size=30)
    await asyncio.sleep(1)
    alone = [await bench.ask(retriever, text, size=30) for _ in range(rounds) for text in questions]
    waiting = [text for _ in range(rounds * 2) for text in questions]
    crowded: list[float] = []

    async def client() -> None:
        clock = SystemClock()
        while waiting:
            began = clock.monotonic()
            await bench.ask(retriever, waiting.pop(), size=30)
            crowded.append((clock.monotonic() - began) * 1000)

    await asyncio.gather(*(client() for _ in range(IN_FLIGHT)))
    rows = []
    for stage in alone[0].timings_ms:
        taken = [found.timings_ms[stage] for found in alone]
        p50, p95 = quantile(taken, 0.5), quantile(taken, 0.95)
        reach = "p50 < 20, p95 < 40 ms" if stage == "total" else ""
        rows.append(
            Row(
                f"  alone: {stage}",
                f"p50 {p50:.1f} ms, p95 {p95:.1f} ms",
                reach,
                (p50 < 20 and p95 < 40) if reach else None,
            )
        )
    p50, p95 = quantile(crowded, 0.5), quantile(crowded, 0.95)
    rows.append(Row(f"  {IN_FLIGHT} in flight", f"p50 {p50:.0f} ms, p95 {p95:.0f} ms", "p95 < 200 ms", p95 < 200))
    return rows


async def measured(cache: Path | None = None) -> list[Row]:
    """All figures of this benchmark."""
    rows: list[Row] = []
    model = MiniLmEmbedder(asset_path("minilm"), threads=2)
    for name in (*PUBLIC, "financebench"):
        judged = await run_in(Lane.PARSE, reports) if name == "financebench" else public_set(name)
        with tempfile.TemporaryDirectory() as folder:
            bench = await opened(judged, Path(folder), model, cache)
            for ranking in RANKINGS:
                score = await quality(bench, ranking)
                reach = REACH.get(name) if ranking.name == "standout" else None
                metric = "page recall@10" if name == "financebench" else "nDCG@10"
                rows.append(
                    Row(
                        f"{name}, {ranking.name}: {metric}",
                        f"{score:.3f}",
                        f">= {reach}" if reach else "",
                        score >= reach if reach else None,
                    )
                )
            if name == "financebench":
                rows.append(Row(f"  {len(judged.passages)} chunks", "one dataset"))
                rows.extend(await times(bench))
            await bench.store.close()
    return rows


def main() -> bool:
    return publish("retrieval_quality", asyncio.run(measured()))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
