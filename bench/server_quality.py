"""nDCG@10 on public retrieval sets through the server's own search: every passage is uploaded as a document."""

import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from bench.harness import DATA, Row, call, ingest, publish, server

SETS = {"scifact": 0.725, "xquad_zh": 0.93}


def load(name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, dict[str, int]]]:
    """Corpus, questions and judgements of one set."""
    folder = DATA / "retrieval" / name
    corpus = _lines(folder / "corpus.jsonl")
    judged: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels.tsv").read_text().splitlines()[1:]:
        query, document, score = line.split("\t")
        judged.setdefault(query, {})[document] = int(score)
    return corpus, [q for q in _lines(folder / "queries.jsonl") if q["_id"] in judged], judged


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def ndcg(ranked: Sequence[str], judged: Mapping[str, int], depth: int = 10) -> float:
    """Normalised discounted cumulative gain with gain = judgement (Järvelin and Kekäläinen 2002)."""
    gain = sum(judged.get(name, 0) / math.log2(rank + 2) for rank, name in enumerate(ranked[:depth]))
    best = sum(g / math.log2(rank + 2) for rank, g in enumerate(sorted(judged.values(), reverse=True)[:depth]))
    return gain / best if best else 0.0


def measure(client: httpx.Client, name: str) -> tuple[float, float, int]:
    """nDCG@10, seconds of ingestion, passages."""
    corpus, queries, judged = load(name)
    dataset = call(client, "POST", "/api/v1/datasets", json={"name": name})["id"]
    files = [(f"{i}.txt", f"{d.get('title', '')}\n{d['text']}".strip().encode()) for i, d in enumerate(corpus)]
    seconds = ingest(client, dataset, files, per_request=100)

    def one(query: dict[str, Any]) -> float:
        body = {
            "dataset_ids": [dataset],
            "question": query["text"],
            "page_size": 30,
            "similarity_threshold": 0.0,
            "vector_similarity_weight": 0.3,
        }
        chunks = call(client, "POST", "/api/v1/retrieval", json=body)["chunks"]
        names = dict.fromkeys(corpus[int(c["document_keyword"].removesuffix(".txt"))]["_id"] for c in chunks)
        return ndcg(list(names), judged[query["_id"]])

    with ThreadPoolExecutor(2) as pool:
        scores = list(pool.map(one, queries))
    return sum(scores) / len(scores), seconds, len(corpus)


def main() -> bool:
    rows = []
    for name, reach in SETS.items():
        with server() as running, running.client() as client:
            score, seconds, passages = measure(client, name)
            rows.append(Row(f"nDCG@10 {name}, through the server", f"{score:.3f}", f">= {reach}", score >= reach))
            rows.append(Row(f"  {passages} documents ingested", f"{passages / seconds:.0f} documents/s"))
    return publish("server_quality", rows)


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
