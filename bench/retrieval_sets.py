"""The judged sets as passages: public retrieval sets, and annual reports read and chunked as ingestion does it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness import DATA
from rag.chunk.base import ChunkConfig
from rag.chunk.naive import NaiveChunker
from rag.core.ids import chunk_id
from rag.parse.base import ParseLimits
from rag.parse.xberg_parser import XbergParser

PUBLIC = ("xquad_zh", "xquad_en", "mtragun_507", "scifact")
_LIMITS = ParseLimits(memory_bytes=1 << 31, timeout_s=300, output_chars=64_000_000)


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """`names` are what judgements call it: the passage's id, or the pages it stands on."""

    key: str
    document: str
    content: str
    names: tuple[str, ...]
    heading_path: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    text: str
    judged: Mapping[str, int]
    answerable: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedSet:
    name: str
    passages: tuple[Passage, ...]
    questions: tuple[Question, ...]


def public_set(name: str) -> JudgedSet:
    """A BEIR set; each passage is a document of its own, named by a number as an upload of many files would be."""
    folder = DATA / "retrieval" / name
    judged: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels.tsv").read_text("utf-8").splitlines()[1:]:
        query, document, score = line.split("\t")
        judged.setdefault(query, {})[document] = int(score)
    passages = tuple(
        Passage(
            key=f"{number:016x}",
            document=f"{number}.txt",
            content=f"{row.get('title', '')}\n{row['text']}".strip(),
            names=(row["_id"],),
        )
        for number, row in enumerate(_lines(folder / "corpus.jsonl"))
    )
    questions = tuple(
        Question(
            text=row["text"],
            judged=judged.get(row["_id"], {}),
            answerable=(row.get("metadata") or {}).get("answerability") != "UNANSWERABLE",
        )
        for row in _lines(folder / "queries.jsonl")
        if row["_id"] in judged or (row.get("metadata") or {}).get("answerability") == "UNANSWERABLE"
    )
    return JudgedSet(name=name, passages=passages, questions=questions)


def reports() -> JudgedSet:
    """The annual reports in one set; names are `<document>#<page>`, pages from 1."""
    folder = DATA / "financebench"
    passages: list[Passage] = []
    for path in sorted((folder / "pdfs").glob("*.pdf")):
        parsed = XbergParser(_LIMITS).parse(path, filename=path.name)
        seen: set[str] = set()
        for draft in NaiveChunker().chunk(parsed, config=ChunkConfig()):
            key = chunk_id(draft.content, path.name)
            pages = dict.fromkeys(position.page for position in draft.positions)
            if key not in seen:
                seen.add(key)
                names = tuple(f"{path.stem}#{page}" for page in pages or [draft.page])
                passages.append(
                    Passage(
                        key=key,
                        document=path.name,
                        content=draft.content,
                        names=names,
                        heading_path=draft.heading_path,
                    )
                )
    questions = tuple(
        Question(
            text=row["question"],
            judged={f"{e['doc_name']}#{e['page'] + 1}": 1 for e in row["evidence"]},
        )
        for row in _lines(folder / "questions.jsonl")
    )
    return JudgedSet(name="financebench", passages=tuple(passages), questions=questions)


def ndcg(ranked: Sequence[str], judged: Mapping[str, int], depth: int = 10) -> float:
    """Normalised discounted cumulative gain with gain = judgement (Järvelin and Kekäläinen 2002)."""
    gain = sum(judged.get(name, 0) / math.log2(rank + 2) for rank, name in enumerate(ranked[:depth]))
    best = sum(g / math.log2(rank + 2) for rank, g in enumerate(sorted(judged.values(), reverse=True)[:depth]))
    return gain / best if best else 0.0


def recall(ranked: Sequence[str], judged: Mapping[str, int], depth: int = 10) -> float:
    """The share of what is judged relevant among the first `depth`."""
    return len(set(ranked[:depth]) & set(judged)) / len(judged) if judged else 0.0


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
