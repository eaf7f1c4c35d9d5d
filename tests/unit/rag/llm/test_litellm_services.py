"""Embeddings and reranking through LiteLLM, over a real socket."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from rag.core.blocking import Lane, run_in
from rag.core.errors import ModelError, ModelOverloaded, ModelRefused, ModelTimeout
from rag.llm import litellm_port
from rag.llm.embedding import LiteLLMEmbedding, ProviderEmbedder
from rag.llm.endpoint import Endpoint
from rag.llm.rerank import LiteLLMRerank, ProviderReranker
from rag.testing.embedder_suite import EmbedderSuite
from rag.testing.reranker_suite import RerankerSuite
from rag.testing.upstream_services import Answer, ServicesUpstream
from tests.unit.rag.llm.services import KEY, services

__all__ = ["services"]

# The library's objects do not fit their own pydantic schema, and it leaves a client to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
async def cohere(services: ServicesUpstream) -> AsyncIterator[Endpoint]:
    await run_in(Lane.MODEL, litellm_port.load)
    root = services.url.removesuffix("/v1")
    yield Endpoint(base_url=root, api_key=SecretStr(KEY), litellm_prefix="cohere", model="rerank-v3.5")
    await litellm_port.close_clients()


def embedding(endpoint: Endpoint, *, timeout_s: float = 5.0) -> ProviderEmbedder:
    there = Endpoint(
        base_url=endpoint.base_url + "/v2/embed",
        api_key=endpoint.api_key,
        litellm_prefix="cohere",
        model="embed-v4.0",
    )
    wire = LiteLLMEmbedding("embed-v4.0@Cohere", there, timeout_s=timeout_s)
    return ProviderEmbedder("embed-v4.0@Cohere", wire, dim=384, context_tokens=8191)


def reranking(endpoint: Endpoint, *, timeout_s: float = 5.0) -> ProviderReranker:
    return ProviderReranker("rerank-v3.5@Cohere", LiteLLMRerank("rerank-v3.5@Cohere", endpoint, timeout_s=timeout_s))


class TestEmbeddings(EmbedderSuite):
    @pytest.fixture
    def embedder(self, cohere: Endpoint) -> ProviderEmbedder:
        return embedding(cohere)


class TestReranking(RerankerSuite):
    @pytest.fixture
    def reranker(self, cohere: Endpoint) -> ProviderReranker:
        return reranking(cohere)


async def test_questions_and_passages_are_told_apart(cohere: Endpoint, services: ServicesUpstream) -> None:
    await embedding(cohere).encode(["a passage"])
    await embedding(cohere).encode_query("a question")
    assert [called.body["input_type"] for called in services.calls] == ["search_document", "search_query"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(status=401, body={"message": f"invalid api token {KEY}"}), ModelRefused),
        (Answer(status=429, body={"message": "slow down"}), ModelOverloaded),
        (Answer(status=503, body={"message": "later"}), ModelOverloaded),
        (Answer(body={"unknown": 1}), ModelError),
        (Answer(body=b"<html>", content_type="text/html"), ModelError),
        (Answer(cut=True), ModelOverloaded),
    ],
    ids=["wrong key", "rate", "down", "other form", "html", "reset"],
)
async def test_what_goes_wrong_is_a_model_error_without_the_key(
    cohere: Endpoint, services: ServicesUpstream, answer: Answer, error: type[ModelError]
) -> None:
    services.answer = answer
    with pytest.raises(error) as embedded:
        await embedding(cohere).encode(["text"])
    with pytest.raises(error) as scored:
        await reranking(cohere).rerank("q", ["one"])
    assert KEY not in str(embedded.value) + str(scored.value)
    assert KEY not in repr(embedded.value.facts) + repr(scored.value.facts)


async def test_a_hanging_server_is_left(cohere: Endpoint, services: ServicesUpstream) -> None:
    services.answer = Answer(wait_s=30)
    with pytest.raises(ModelTimeout):
        await embedding(cohere, timeout_s=0.3).encode(["text"])
    with pytest.raises(ModelTimeout):
        await reranking(cohere, timeout_s=0.3).rerank("q", ["one"])
    await asyncio.sleep(0.2)
    assert services.busy == 0


async def test_a_failure_is_tried_once_by_the_library(cohere: Endpoint, services: ServicesUpstream) -> None:
    services.answer = Answer(status=503, body={"message": "later"})
    with pytest.raises(ModelOverloaded):
        await embedding(cohere).encode(["text"])
    with pytest.raises(ModelOverloaded):
        await reranking(cohere).rerank("q", ["one"])
    assert len(services.calls) == 2


async def test_local_computing_holds_up_no_call(cohere: Endpoint) -> None:
    done = threading.Event()
    _, threads, _ = Lane.MODEL.value
    working = [asyncio.ensure_future(run_in(Lane.MODEL, done.wait, 30)) for _ in range(threads)]
    try:
        assert (await asyncio.wait_for(embedding(cohere).encode(["text"]), 10)).vectors.shape == (1, 384)
        assert (await asyncio.wait_for(reranking(cohere).rerank("q", ["one"]), 10)).scores.shape == (1,)
    finally:
        done.set()
        await asyncio.gather(*working)


async def test_loading_the_library_is_within_the_deadline(
    cohere: Endpoint, services: ServicesUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading = threading.Event()
    monkeypatch.setattr(litellm_port, "_library", None)
    monkeypatch.setattr(litellm_port, "load", lambda: loading.wait(30))
    try:
        with pytest.raises(ModelTimeout):
            await asyncio.wait_for(embedding(cohere, timeout_s=0.2).encode(["text"]), 10)
    finally:
        loading.set()
    assert services.calls == []
