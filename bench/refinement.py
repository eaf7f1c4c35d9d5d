"""What completing the last turn of a conversation without a model is worth to the search: MTRAG-UN's conversations.

The turn as asked, with the whole history appended, and as `rag.nlp.refine` rewrites it, each through the product's own
retriever. The constants of the rewrite were chosen on one half (by the hash of the conversation's id); the other one
was not looked at. Threshold off, as in `retrieval_quality`.
"""

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness import DATA, Row, publish
from bench.retrieval_quality import Bench, opened
from bench.retrieval_sets import ndcg, public_set, recall
from rag.core.resources import asset_path
from rag.core.types import Turn
from rag.llm.minilm import MiniLmEmbedder
from rag.nlp.refine import rewrite

NAME = "mtragun_507"
DEPTH = 5
LEAST_GAIN = 1.05
Way = Callable[[Sequence[Turn]], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """`turns` end with the user's question; `judged` are the passages that answer it."""

    key: str
    turns: tuple[Turn, ...]
    judged: dict[str, int]

    @property
    def held_out(self) -> bool:
        return _number(self.key) % 2 == 1


def as_asked(turns: Sequence[Turn]) -> str:
    return turns[-1].content


def with_history(turns: Sequence[Turn]) -> str:
    return "\n".join((turns[-1].content, *(turn.content for turn in turns[:-1])))


WAYS: dict[str, Way] = {"as asked": as_asked, "whole history appended": with_history, "our rewrite": rewrite}


def conversations() -> list[Conversation]:
    """Those of the set whose answers are judged."""
    folder = DATA / "retrieval" / NAME
    judged: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels.tsv").read_text("utf-8").splitlines()[1:]:
        query, passage, score = line.split("\t")
        judged.setdefault(query, {})[passage] = int(score)
    rows: list[dict[str, Any]] = [
        json.loads(line) for line in (folder / "queries.jsonl").read_text("utf-8").split("\n") if line
    ]
    return [
        Conversation(
            key=row["_id"], turns=(*_history(row), Turn(role="user", content=row["text"])), judged=judged[row["_id"]]
        )
        for row in rows
        if row["_id"] in judged
    ]


def changed_subject(told: Sequence[Conversation]) -> list[Conversation]:
    """First questions, each after the history of another conversation."""
    histories = [each.turns[:-1] for each in told if len(each.turns) > 1]
    return [
        Conversation(
            key=each.key,
            turns=(*histories[_number(f"{each.key} changed") % len(histories)], each.turns[-1]),
            judged=each.judged,
        )
        for each in told
        if len(each.turns) == 1
    ]


async def measured(cache: Path | None = None) -> list[Row]:
    """All figures of this benchmark."""
    told = conversations()
    with tempfile.TemporaryDirectory() as folder:
        bench = await opened(public_set(NAME), Path(folder), MiniLmEmbedder(asset_path("minilm"), threads=2), cache)
        rows: list[Row] = []
        halves = [each for each in told if not each.held_out], [each for each in told if each.held_out]
        for name, part in (("chosen on", halves[0]), ("held out", halves[1]), ("both halves", told)):
            rows += await _compared(bench, name, part, least_gain=LEAST_GAIN)
        follow_ups = [each for each in told if len(each.turns) > 1]
        rows += await _compared(bench, "follow-ups of both halves", follow_ups)
        rows += await _compared(bench, "changes of the subject", changed_subject(told))
        await bench.store.close()
    return rows


async def _compared(
    bench: Bench, name: str, told: Sequence[Conversation], *, least_gain: float | None = None
) -> list[Row]:
    """The ways on one part of the set; with `least_gain`, what the last way must reach over each of the others."""
    scores = {way: await _scores(bench, told, WAYS[way]) for way in WAYS}
    rows = [
        Row(f"{name} ({len(told)}), {way}: nDCG@5, recall@5", f"{gain:.3f}, {found:.3f}")
        for way, (gain, found) in scores.items()
    ]
    if least_gain is not None:
        plain = max(scores[way][0] for way in WAYS if WAYS[way] is not rewrite)
        ratio = scores["our rewrite"][0] / plain
        rows[-1] = Row(
            rows[-1].what, f"{rows[-1].figure} = {ratio:.3f} x the better", f">= {least_gain} x", ratio >= least_gain
        )
    return rows


async def _scores(bench: Bench, told: Sequence[Conversation], way: Way) -> tuple[float, float]:
    """Mean nDCG@5 and recall@5."""
    retriever, gains, founds = bench.retriever(), [], []
    for each in told:
        found = await bench.ask(retriever, way(each.turns), size=2 * DEPTH)
        names = [name for hit in found.hits for name in bench.texts.names[hit.chunk.chunk_id]]
        gains.append(ndcg(names, each.judged, DEPTH))
        founds.append(recall(names, each.judged, DEPTH))
    return sum(gains) / len(gains), sum(founds) / len(founds)


def _history(row: dict[str, Any]) -> list[Turn]:
    told = row["metadata"]["history"]
    return [Turn(role="user" if turn["role"] == "user" else "assistant", content=turn["content"]) for turn in told]


def _number(key: str) -> int:
    """The same at every run, and on every machine."""
    return hashlib.sha256(key.encode()).digest()[0]


def main() -> bool:
    return publish("refinement", asyncio.run(measured()))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
