"""CPU time of parsing alone and of embedding alone: the floor that ingestion is measured against."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from rag.chunk.base import ChunkConfig
from rag.chunk.registry import chunkers
from rag.core.resources import asset_path
from rag.core.settings import Settings
from rag.ingest.index_text import index_text
from rag.llm.minilm import MiniLmEmbedder
from rag.parse.base import ParseLimits
from rag.parse.pool import ParsePool


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsed:
    cpu_s: float
    pages: int
    texts: list[str]


async def parse_floor(paths: Sequence[Path]) -> Parsed:
    """CPU seconds of one parser child over `paths`, and the chunks that embedding would get."""
    ingest = Settings().ingest
    limits = ParseLimits(
        memory_bytes=ingest.parse_memory_bytes,
        timeout_s=ingest.parse_timeout_s,
        output_chars=ingest.parse_output_chars,
    )
    pool = ParsePool(children=1, limits=limits, recycle_files=10_000)
    await pool.open()
    me = psutil.Process()
    chunker, pages, cpu = chunkers()["naive"], 0, 0.0
    texts: list[str] = []
    try:
        for path in paths:
            before = _children_cpu(me)
            document = await pool.parse(path, filename=path.name)
            cpu += _children_cpu(me) - before
            pages += document.pages
            for draft in chunker.chunk(document, config=ChunkConfig()):
                texts.append(index_text(path.name, draft.heading_path, draft.content))
    finally:
        await pool.close()
    return Parsed(cpu_s=cpu, pages=pages, texts=texts)


def _children_cpu(process: psutil.Process) -> float:
    return sum(sum(child.cpu_times()[:2]) for child in process.children(recursive=True))


def embed_floor(texts: Sequence[str]) -> float:
    """CPU seconds of embedding `texts` on two threads with nothing else running."""
    ingest, models = Settings().ingest, Settings().models
    embedder = MiniLmEmbedder(
        asset_path("minilm"), threads=models.embed_threads, batch_tokens=ingest.embed_batch_tokens
    )
    embedder.open()
    before = time.process_time()
    for start in range(0, len(texts), 500):
        embedder.encode(texts[start : start + 500])
    return time.process_time() - before


def main() -> None:
    from bench.harness import DATA

    parsed = asyncio.run(parse_floor(sorted((DATA / "financebench" / "pdfs").glob("*.pdf"))))
    cpu = embed_floor(parsed.texts)
    print(f"parse {parsed.cpu_s:.1f} s CPU, {parsed.pages} pages; embed {len(parsed.texts)} chunks {cpu:.1f} s CPU")


if __name__ == "__main__":
    main()
