from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rag.core.errors import ModelBadOutput, ModelError, ModelOverloaded, ModelRefused, ModelTimeout
from rag.llm.rerank import CompatibleRerank, ProviderReranker, scores_of
from rag.llm.token_usages import MOST_TOKENS
from rag.llm.upstream_call import UpstreamCall
from rag.testing.plain_services import WordReranker
from rag.testing.reranker_suite import PASSAGES, QUESTION, RerankerSuite
from rag.testing.upstream_services import Answer, ServicesUpstream
from tests.unit.rag.llm.services import KEY, call, hasty, services

__all__ = ["call", "hasty", "services"]


@pytest.fixture
def reranker(call: UpstreamCall) -> ProviderReranker:
    return ProviderReranker("m@Here", CompatibleRerank(call))


class TestFake(RerankerSuite):
    @pytest.fixture
    def reranker(self) -> WordReranker:
        return WordReranker()


class TestContract(RerankerSuite):
    @pytest.fixture
    def reranker(self, call: UpstreamCall) -> ProviderReranker:
        return ProviderReranker("m@Here", CompatibleRerank(call))


class TestContractOfLogits(RerankerSuite):
    @pytest.fixture
    def reranker(self, call: UpstreamCall, services: ServicesUpstream) -> ProviderReranker:
        services.logits = True
        services.usage = False
        return ProviderReranker("m@Here", CompatibleRerank(call))


async def test_empty_passages_are_not_sent(reranker: ProviderReranker, services: ServicesUpstream) -> None:
    await reranker.rerank(QUESTION, PASSAGES)
    sent = services.calls[0]
    assert sent.path == "/v1/rerank"
    assert len(sent.body["documents"]) == sent.body["top_n"] == len(PASSAGES) - 1
    assert not (await reranker.rerank(" ", PASSAGES)).scores.any()
    assert len(services.calls) == 1


async def test_impossible_figures_count_as_none() -> None:
    class Boastful:
        def __init__(self, told: object) -> None:
            self.told = told

        async def rerank(self, question: str, passages: Sequence[str]) -> Any:
            results = [{"index": place, "relevance_score": 0.5} for place in range(len(passages))]
            return {"results": results, "usage": {"total_tokens": self.told}}

    for told, meant in ((10**12, (6, True)), (True, (6, True)), (MOST_TOKENS, (MOST_TOKENS, False))):
        found = await ProviderReranker("m@Here", Boastful(told)).rerank("one two", ["three", "four"])
        assert (found.tokens, found.estimated) == meant
    many = await ProviderReranker("m@Here", Boastful(MOST_TOKENS)).rerank("one two", ["three"] * 1001)
    assert many.tokens == MOST_TOKENS


async def test_tokens_are_estimated_where_nobody_counts(reranker: ProviderReranker, services: ServicesUpstream) -> None:
    counted = await reranker.rerank("one two", ["three", "four"])
    assert (counted.tokens, counted.estimated) == (17, False)
    services.usage = False
    guessed = await reranker.rerank("one two", ["three", "four"])
    assert (guessed.tokens, guessed.estimated) == (6, True)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(status=401, body={"detail": f"wrong key {KEY}"}), ModelRefused),
        (Answer(status=500, body={}), ModelOverloaded),
        (Answer(body={}), ModelBadOutput),
        (Answer(body={"results": [{"index": 0}]}), ModelBadOutput),
        (Answer(body={"results": [{"index": 0, "relevance_score": 0.5}]}), ModelBadOutput),
        (Answer(body={"results": [{"index": 7, "relevance_score": 0.5}]}), ModelBadOutput),
        (Answer(body={"results": [{"index": -1, "relevance_score": 0.5}]}), ModelBadOutput),
        (Answer(body={"results": ["x"]}), ModelBadOutput),
        (Answer(cut=True), ModelOverloaded),
    ],
)
async def test_what_goes_wrong_is_a_model_error_without_the_key(
    reranker: ProviderReranker, services: ServicesUpstream, answer: Answer, error: type[ModelError]
) -> None:
    services.answer = answer
    with pytest.raises(error) as raised:
        await reranker.rerank("q", ["one", "two"])
    assert KEY not in str(raised.value)


async def test_a_hanging_server_is_left(hasty: UpstreamCall, services: ServicesUpstream) -> None:
    services.answer = Answer(wait_s=30)
    with pytest.raises(ModelTimeout):
        await ProviderReranker("m@Here", CompatibleRerank(hasty)).rerank("q", ["one"])


def test_logits_keep_their_order() -> None:
    reply = {"data": [{"index": 1, "score": -800.0}, {"index": 0, "score": 800.0}, {"index": 2, "score": 0.0}]}
    scores = scores_of(reply, 3, "m")
    assert scores[0] > scores[2] == 0.5 > scores[1] >= 0
    assert np.isfinite(scores).all()
    assert scores_of({"results": []}, 0, "m").shape == (0,)
