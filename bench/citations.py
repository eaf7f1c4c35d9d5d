"""Whether citations can be trusted: the check of a sentence against passages, and what the built-in model cites.

The check: sentences of MTRAG-UN's reference answers with the passages they rest on, against the same sentences with the
other passages of the question's top ten. Sentences that stand in a passage word for word, and those that say nothing by
themselves (`Yes, that is correct.`), are left out. Its constants were chosen on one half, see `bench/conversations.py`.

What is cited: the 40 questions of FinanceBench, 16 reports in one set, answered by the built-in model.
"""

import asyncio
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.conversations import NAME, conversations
from bench.harness import Row, publish
from bench.refusals import grounding_of
from bench.retrieval_quality import Bench, opened
from bench.retrieval_sets import JudgedSet, public_set, reports
from rag.core.blocking import Lane, run_in
from rag.core.resources import asset_path
from rag.core.types import Matrix
from rag.llm.base import ChatRequest
from rag.llm.extractive import ExtractiveChat
from rag.llm.minilm import MiniLmEmbedder
from rag.nlp.citation import citable_sentences, cited_indices
from rag.nlp.citation_check import KEPT
from rag.nlp.support import FEWEST_TERMS, Overlap, overlap, support_scores, telling

TOP, REACH_AUC, REACH_PAGES, MOST_CITED = 10, 0.97, 0.60, 4


@dataclass(slots=True)
class Pairs:
    """Support of sentences by the best passage they rest on, and by each other one of the top ten."""

    resting: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)

    def add(self, scores: Sequence[float], resting: int) -> None:
        self.resting.append(max(scores[:resting]))
        self.others.extend(scores[resting:])

    def auc(self) -> float:
        """The share of pairs of one of either kind in the right order; ties count half."""
        every = np.array([*self.resting, *self.others])
        _, inverse, counts = np.unique(every, return_inverse=True, return_counts=True)
        ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
        first = len(self.resting)
        return float((ranks[:first].sum() - first * (first + 1) / 2) / (first * len(self.others)))

    def kept(self) -> tuple[float, float]:
        """The share of either kind on which a mark of the model's would stay."""
        return float(np.mean(np.array(self.resting) >= KEPT)), float(np.mean(np.array(self.others) >= KEPT))


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _cosines(model: MiniLmEmbedder, claims: Sequence[str], words: Overlap) -> Matrix:
    """Of each claim with its window of each passage; NaN where there is none."""
    texts = list(dict.fromkeys(window for row in words.windows for window in row if window))
    vectors = model.encode([*claims, *texts]).vectors
    place = {text: len(claims) + index for index, text in enumerate(texts)}
    found = np.full(words.near.shape, np.nan, dtype=np.float32)
    for row, windows in enumerate(words.windows):
        for column, window in enumerate(windows):
            if window:
                found[row, column] = vectors[row] @ vectors[place[window]]
    return found


async def checked(model: MiniLmEmbedder, cache: Path | None) -> dict[str, tuple[Pairs, Pairs]]:
    """By half: pairs scored as the check does it, and by words alone."""
    judged = public_set(NAME)
    texts = {passage.names[0]: passage.content for passage in judged.passages}
    halves = {"chosen on": (Pairs(), Pairs()), "held out": (Pairs(), Pairs())}
    with tempfile.TemporaryDirectory() as folder:
        bench = await opened(judged, Path(folder), model, cache)
        retriever = bench.retriever()
        for each in conversations():
            if each.answerability != "ANSWERABLE" or not each.passages:
                continue
            found = await bench.ask(retriever, each.question, size=TOP)
            names = [bench.texts.names[hit.chunk.chunk_id][0] for hit in found.hits]
            others = [name for name in names if name not in each.passages]
            resting = [texts[name] for name in each.passages]
            claims = _claims(each.answer, resting) if others else []
            if claims:
                half = halves["chosen on" if each.chosen_on else "held out"]
                passages = [*resting, *(texts[name] for name in others)]
                words = await run_in(Lane.TEXT, overlap, claims, passages)
                cosines = await run_in(Lane.MODEL, _cosines, model, claims, words)
                for pairs, scores in zip(half, (support_scores(words, cosines), support_scores(words)), strict=True):
                    for row in scores.tolist():
                        pairs.add(row, len(resting))
        await bench.store.close()
    return halves


def _claims(answer: str, resting: Sequence[str]) -> list[str]:
    plain = [_plain(passage) for passage in resting]
    sentences = [sentence.text for sentence in citable_sentences(answer)]
    return [
        text
        for text in sentences
        if telling(text) >= FEWEST_TERMS and not any(_plain(text) in passage for passage in plain)
    ]


def check_rows(halves: dict[str, tuple[Pairs, Pairs]]) -> list[Row]:
    """AUC of the check on each half and on both."""
    both = tuple(
        Pairs([*a.resting, *b.resting], [*a.others, *b.others])
        for a, b in zip(halves["chosen on"], halves["held out"], strict=True)
    )
    rows = []
    for name, (full, words) in {**halves, "both halves": (both[0], both[1])}.items():
        auc = full.auc()
        what = f"citation check, {name}: AUC, {len(full.resting)} sentences, {len(full.others)} other passages"
        rows.append(Row(what, f"{auc:.3f}", f">= {REACH_AUC}", auc >= REACH_AUC))
        stays, wrong = full.kept()
        rows.append(
            Row(
                "  words alone; marks that stay on the best and on others",
                f"{words.auc():.3f}; {stays:.2f}, {wrong:.3f}",
            )
        )
    return rows


async def quoted(model: MiniLmEmbedder, cache: Path | None) -> list[Row]:
    """The evidence pages among what the built-in model cites."""
    judged: JudgedSet = await run_in(Lane.PARSE, reports)
    with tempfile.TemporaryDirectory() as folder:
        bench = await opened(judged, Path(folder), model, cache)
        rows = await _quoted(bench, ExtractiveChat(model))
        await bench.store.close()
    return rows


async def _quoted(bench: Bench, chat: ExtractiveChat) -> list[Row]:
    retriever = bench.retriever()
    cited_counts: list[int] = []
    given, right, answered = 0, 0, 0
    for question in bench.judged.questions:
        grounding = await grounding_of(bench, retriever, question.text)
        request = ChatRequest(turns=(), grounding=grounding)
        answer = "".join([delta.text for delta in await asyncio.to_thread(lambda r: list(chat.stream(r)), request)])
        cited = cited_indices(answer)
        pages = [set(bench.texts.names[passage.chunk_id]) for passage in grounding.passages]
        evidence = set(question.judged)
        given += any(evidence & page for page in pages)
        right += any(evidence & pages[index] for index in cited)
        answered += bool(cited)
        cited_counts.append(len(cited))
    share, mean = right / given, sum(cited_counts) / max(1, answered)
    total = len(bench.judged.questions)
    return [
        Row(
            f"FinanceBench, citations with an evidence page, of {given} questions that had one in the prompt",
            f"{share:.2f}",
            f">= {REACH_PAGES}",
            share >= REACH_PAGES,
        ),
        Row(f"  of all {total}; {answered} were answered", f"{right / total:.2f}"),
        Row(
            "  cited chunks: mean, most",
            f"{mean:.2f}, {max(cited_counts)}",
            f"at most {MOST_CITED}",
            max(cited_counts) <= MOST_CITED,
        ),
    ]


async def measured(cache: Path | None = None) -> list[Row]:
    """All figures of this benchmark."""
    model = MiniLmEmbedder(asset_path("minilm"), threads=2)
    return [*check_rows(await checked(model, cache)), *await quoted(model, cache)]


def main() -> bool:
    return publish("citations", asyncio.run(measured()))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
