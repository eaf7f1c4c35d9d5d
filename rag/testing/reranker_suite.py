"""What every reranker does: inherit `RerankerSuite` and give it a `reranker` fixture."""

import inspect
from collections.abc import Sequence

import numpy as np

from rag.llm.base import Reranked, Reranker

QUESTION = "how much do cats sleep"
PASSAGES = (
    "Revenue grew by 5 % in the third quarter.",
    "Cats sleep most of the day; how much depends on their age.",
    "",
    "Dogs sleep less.",
    "数据 挖掘",
    "a\ud800b",
)


async def reranked(reranker: Reranker, question: str, passages: Sequence[str]) -> Reranked:
    result = reranker.rerank(question, passages)
    found = await result if inspect.isawaitable(result) else result
    assert isinstance(found, Reranked)
    return found


class RerankerSuite:
    """The contract of `rag.llm.base.Reranker`."""

    async def test_one_score_per_passage_from_0_to_1(self, reranker: Reranker) -> None:
        found = await reranked(reranker, QUESTION, PASSAGES)
        assert found.scores.shape == (len(PASSAGES),)
        assert found.scores.dtype == np.float32
        assert np.isfinite(found.scores).all()
        assert found.scores.min() >= 0
        assert found.scores.max() <= 1
        assert found.tokens > 0

    async def test_scores_are_in_the_order_of_the_passages(self, reranker: Reranker) -> None:
        found = await reranked(reranker, QUESTION, PASSAGES)
        assert int(np.argmax(found.scores)) == 1
        turned = await reranked(reranker, QUESTION, PASSAGES[::-1])
        assert int(np.argmax(turned.scores)) == len(PASSAGES) - 2

    async def test_an_empty_passage_scores_nothing(self, reranker: Reranker) -> None:
        assert (await reranked(reranker, QUESTION, PASSAGES)).scores[2] == 0

    async def test_no_passages_give_no_scores(self, reranker: Reranker) -> None:
        found = await reranked(reranker, QUESTION, ())
        assert found.scores.shape == (0,)
        assert found.tokens == 0

    async def test_many_and_long_passages(self, reranker: Reranker) -> None:
        passages = ["nothing of the kind " * 2000] * 30 + ["cats sleep much"]
        assert int(np.argmax((await reranked(reranker, QUESTION, passages)).scores)) == 30
