"""The main job on 16 annual reports: ingestion, retrieval, first token and page recall, through a real server."""

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from bench.floors import embed_floor, parse_floor
from bench.harness import DATA, Row, Server, TreeMeter, call, ingest, median, publish, quantile, server

REPORT = "3M_2018_10K.pdf"
PDFS = DATA / "financebench" / "pdfs"
INGEST_RUNS = 3


def questions() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / "financebench" / "questions.jsonl").read_text().splitlines()]


def read(paths: Sequence[Path]) -> list[tuple[str, bytes]]:
    return [(path.name, path.read_bytes()) for path in paths]


def one_report() -> list[Row]:
    """Upload to searchable of one 160-page report, over all processes."""
    seconds: list[float] = []
    peaks: list[float] = []
    pss: list[float] = []
    for _ in range(INGEST_RUNS):
        with server() as running, running.client() as client:
            dataset = call(client, "POST", "/api/v1/datasets", json={"name": "one"})["id"]
            with TreeMeter(running.process.pid) as meter:
                seconds.append(ingest(client, dataset, read([PDFS / REPORT])))
            peaks.append(meter.peak_rss / 2**20)
            pss.append(meter.peak_pss / 2**20)
    return [
        Row("one 160-page report, upload to searchable", f"{median(seconds):.1f} s", "< 45 s", median(seconds) < 45),
        Row(
            "peak over all processes",
            f"{median(peaks):.0f} MB resident, {median(pss):.0f} MB proportional",
            "< 1,200 MB",
            median(peaks) < 1200,
        ),
    ]


def all_reports(running: Server, client: httpx.Client, dataset: str) -> list[Row]:
    """Wall time of 16 reports against the CPU time of parsing and embedding, each alone, over two cores."""
    paths = sorted(PDFS.glob("*.pdf"))
    parsed = asyncio.run(parse_floor(paths))
    embedded = embed_floor(parsed.texts)
    floor = (parsed.cpu_s + embedded) / 2
    wall = ingest(client, dataset, read(paths))
    ratio = wall / floor
    return [
        Row(
            f"{len(paths)} reports, {parsed.pages} pages, {len(parsed.texts)} chunks",
            f"{wall:.1f} s = {ratio:.2f} x floor",
            "<= 1.3 x floor",
            ratio <= 1.3,
            {"wall_s": wall, "parse_cpu_s": parsed.cpu_s, "embed_cpu_s": embedded, "floor_s": floor},
        )
    ]


def stage_times(headers: Sequence[str]) -> str:
    """Medians of the `Server-Timing` stages."""
    stages: dict[str, list[float]] = {}
    for header in headers:
        for part in filter(None, header.split(",")):
            name, _, duration = part.strip().partition(";dur=")
            stages.setdefault(name, []).append(float(duration))
    return ", ".join(f"{name} {median(values):.1f}" for name, values in stages.items())


def retrieval_speed(client: httpx.Client, url: str, dataset: str) -> list[Row]:
    """Latency of `/api/v1/retrieval`, alone and with 16 questions in flight."""
    asked = [item["question"] for item in questions()]
    bodies = [{"dataset_ids": [dataset], "question": question} for question in asked]
    alone: list[float] = []
    headers: list[str] = []
    for body in bodies + bodies * 3:
        began = time.perf_counter()
        response = client.post("/api/v1/retrieval", json=body)
        alone.append((time.perf_counter() - began) * 1000)
        headers.append(response.headers.get("Server-Timing", ""))
    alone, headers = alone[len(bodies) :], headers[len(bodies) :]

    async def in_flight() -> list[float]:
        taken: list[float] = []
        slots = asyncio.Semaphore(16)
        async with httpx.AsyncClient(
            base_url=url, headers=dict(client.headers), timeout=60, trust_env=False
        ) as together:

            async def one(body: dict[str, Any]) -> None:
                async with slots:
                    began = time.perf_counter()
                    (await together.post("/api/v1/retrieval", json=body)).raise_for_status()
                    taken.append((time.perf_counter() - began) * 1000)

            await asyncio.gather(*(one(body) for body in bodies * 8))
        return taken

    crowd = asyncio.run(in_flight())
    p50, p95, crowd95 = quantile(alone, 0.5), quantile(alone, 0.95), quantile(crowd, 0.95)
    return [
        Row("retrieval alone, p50", f"{p50:.1f} ms", "< 20 ms", p50 < 20),
        Row("retrieval alone, p95", f"{p95:.1f} ms", "< 40 ms", p95 < 40),
        Row("  stages, median ms", stage_times(headers)),
        Row("16 questions in flight, p95", f"{crowd95:.0f} ms", "< 200 ms", crowd95 < 200),
    ]


def make_chat(client: httpx.Client, dataset: str) -> str:
    """A chat over the dataset with the extractive model; its id."""
    body = {"name": f"bench {dataset}", "dataset_ids": [dataset], "llm": {"model_name": "extractive@Builtin"}}
    return str(call(client, "POST", "/api/v1/chats", json=body)["id"])


def first_text_ms(client: httpx.Client, chat: str, question: str) -> float:
    """Milliseconds to the first text of a streamed answer in a new session, over the contract's completions route."""
    session = call(client, "POST", f"/api/v1/chats/{chat}/sessions", json={"name": "bench"})["id"]
    began = time.perf_counter()
    ask = {"question": question, "session_id": session, "stream": True}
    first = None
    with client.stream("POST", f"/api/v1/chats/{chat}/completions", json=ask) as response:
        for line in response.iter_lines():
            if first is None and line.startswith("data:"):
                frame = json.loads(line[5:])
                if isinstance(frame["data"], dict) and frame["data"].get("answer"):
                    first = (time.perf_counter() - began) * 1000
    if first is None:
        raise RuntimeError("an answer had no text")
    return first


def first_token(client: httpx.Client, dataset: str) -> list[Row]:
    """First text of a streamed extractive answer, alone."""
    chat = make_chat(client, dataset)
    taken = [first_text_ms(client, chat, item["question"]) for item in questions() * 2]
    p50 = quantile(taken[len(taken) // 2 :], 0.5)
    p95 = quantile(taken[len(taken) // 2 :], 0.95)
    return [Row("first token of an extractive answer, p50", f"{p50:.0f} ms (p95 {p95:.0f})", "< 150 ms", p50 < 150)]


def page_recall(client: httpx.Client, dataset: str) -> list[Row]:
    """Share of evidence pages among the first 10 pages of the ranking, over the shared store."""
    found = wanted = 0
    for item in questions():
        body = {"dataset_ids": [dataset], "question": item["question"], "page_size": 64, "similarity_threshold": 0.0}
        pages: list[tuple[str, int]] = []
        for chunk in call(client, "POST", "/api/v1/retrieval", json=body)["chunks"]:
            name = chunk["document_keyword"].removesuffix(".pdf")
            pages += [(name, position[0] - 1) for position in chunk["positions"]]
        first = list(dict.fromkeys(pages))[:10]
        evidence = {(e["doc_name"], e["page"]) for e in item["evidence"]}
        found += len(evidence & set(first))
        wanted += len(evidence)
    recall = found / wanted
    return [Row("page recall@10, 40 FinanceBench questions", f"{recall:.3f}", ">= .50", recall >= 0.5)]


def main() -> bool:
    rows = one_report()
    with server() as running, running.client() as client:
        dataset = call(client, "POST", "/api/v1/datasets", json={"name": "reports"})["id"]
        rows += all_reports(running, client, dataset)
        time.sleep(40)  # the index is compacted when the worker has been idle for a while
        rows += retrieval_speed(client, running.url, dataset)
        rows += first_token(client, dataset)
        rows += page_recall(client, dataset)
    return publish("reports", rows)


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
