"""Whether the built-in model answers what the documents answer, and refuses the rest: MTRAG-UN's last turns.

Each turn is rewritten, searched and answered as a chat without a key does it. The constants of
`rag/llm/quotable.py` were chosen on the half of the questions whose id hashes to an even number.
"""

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.conversations import NAME, conversations
from bench.harness import Row, publish
from bench.retrieval_quality import Bench, opened
from bench.retrieval_sets import public_set
from rag.core.resources import asset_path
from rag.core.types import Hit
from rag.llm.base import Grounding
from rag.llm.extractive import ExtractiveChat
from rag.llm.minilm import MiniLmEmbedder
from rag.llm.question import search_text
from rag.llm.quotable import worth_reading
from rag.nlp.evidence import evidence
from rag.nlp.refine import rewrite
from rag.retrieve.retriever import Retriever

SEARCHED, THRESHOLD, TOP_N = 24, 0.2, 6
"""What a new chat searches for the built-in model, and keeps."""
KEPT = 0.9
REACH = 0.5
CURVE = (0.99, 0.95, 0.9, 0.85, 0.8, 0.7)


@dataclass(frozen=True, slots=True)
class Judged:
    """By how much a turn was worth an answer (below 0: refused), and whether the set has one."""

    margin: float
    answerable: bool
    chosen_on: bool


async def grounding_of(bench: Bench, retriever: Retriever, question: str, searched: str = "") -> Grounding:
    """What the built-in model is given to answer `question`, searched as `searched`."""
    found = await bench.ask(retriever, search_text(searched or question), size=SEARCHED)
    hits: Sequence[Hit] = [hit for hit in found.hits if hit.similarity >= THRESHOLD]
    kept = worth_reading(question, [hit.chunk for hit in hits], TOP_N) if hits else []
    hits = [hits[index] for index in kept]
    return Grounding(question=question, passages=tuple(hit.chunk for hit in hits), evidence=evidence(hits))


async def judged(cache: Path | None = None) -> list[Judged]:
    """All turns of the set that are answerable or not."""
    model = MiniLmEmbedder(asset_path("minilm"), threads=2)
    chat = ExtractiveChat(model)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        bench = await opened(public_set(NAME), Path(folder), model, cache)
        retriever = bench.retriever()
        for each in conversations():
            if each.answerability in ("ANSWERABLE", "UNANSWERABLE"):
                grounding = await grounding_of(bench, retriever, each.question, rewrite(each.turns))
                margin = await asyncio.to_thread(chat.margin, grounding)
                found.append(Judged(margin, each.answerability == "ANSWERABLE", each.chosen_on))
        await bench.store.close()
    return found


def refused_at(turns: Sequence[Judged], kept: float) -> float:
    """The share of unanswerable turns that are refused where `kept` of the answerable ones are answered."""
    margins = sorted(turn.margin for turn in turns if turn.answerable)
    least = margins[int(len(margins) * (1 - kept) + 1e-9)]
    others = [turn for turn in turns if not turn.answerable]
    return sum(turn.margin < least for turn in others) / len(others)


def shares(turns: Sequence[Judged]) -> tuple[float, float]:
    """As it is set: the answerable turns that are answered, and the unanswerable ones that are refused."""
    by_kind: Mapping[bool, list[bool]] = {
        kind: [turn.margin >= 0 for turn in turns if turn.answerable is kind] for kind in (True, False)
    }
    return sum(by_kind[True]) / len(by_kind[True]), 1 - sum(by_kind[False]) / len(by_kind[False])


def rows_of(turns: Sequence[Judged]) -> list[Row]:
    """The curve, and the point that is set."""
    halves = {"": turns, ", half chosen on": [t for t in turns if t.chosen_on]}
    halves[", other half"] = [t for t in turns if not t.chosen_on]
    rows = []
    for name, part in halves.items():
        refused = refused_at(part, KEPT)
        what = f"unanswerable refused at {KEPT:.0%} of the answerable answered{name}"
        rows.append(Row(what, f"{refused:.3f}", f">= {REACH}", refused >= REACH))
    for kept in CURVE:
        rows.append(Row(f"  at {kept:.0%}", f"{refused_at(turns, kept):.3f}"))
    for name, part in halves.items():
        answered, refused = shares(part)
        rows.append(Row(f"  as it is set{name}", f"{answered:.3f} answered, {refused:.3f} refused"))
    return rows


def main() -> bool:
    return publish("refusals", rows_of(asyncio.run(judged())))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
