import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rag.core.errors import ModelBadOutput, ModelError, ModelOverloaded, ModelRefused, ModelTimeout
from rag.llm.embedding import (
    BATCH_TEXTS,
    CompatibleEmbedding,
    ProviderEmbedder,
    Rows,
    knows_dim,
    rows_of,
    unit,
)
from rag.llm.token_usages import MOST_TOKENS
from rag.llm.upstream_call import UpstreamCall
from rag.testing.embedder_suite import EmbedderSuite
from rag.testing.hash_embedder import HashEmbedder
from rag.testing.upstream_services import Answer, ServicesUpstream
from tests.unit.rag.llm.services import KEY, call, hasty, services

__all__ = ["call", "hasty", "services"]


@pytest.fixture
def embedder(call: UpstreamCall) -> ProviderEmbedder:
    return ProviderEmbedder("m@Here", CompatibleEmbedding(call), dim=384, context_tokens=8191)


class TestContract(EmbedderSuite):
    @pytest.fixture
    def embedder(self, call: UpstreamCall) -> ProviderEmbedder:
        return ProviderEmbedder("m@Here", CompatibleEmbedding(call), dim=384, context_tokens=8191)


class TestContractInWindows(EmbedderSuite):
    @pytest.fixture
    def embedder(self, call: UpstreamCall) -> ProviderEmbedder:
        return ProviderEmbedder("m@Here", CompatibleEmbedding(call), dim=384, context_tokens=128)


async def test_many_texts_go_in_batches_side_by_side(embedder: ProviderEmbedder, services: ServicesUpstream) -> None:
    texts = [f"text number {number}" for number in range(BATCH_TEXTS * 5 + 3)]
    found = await embedder.encode(texts)
    assert found.vectors.shape == (len(texts), 384)
    assert len(services.calls) == 6
    assert 1 < services.busiest <= 4
    expected = HashEmbedder(dim=384).encode(texts)
    assert np.allclose(found.vectors, expected.vectors, atol=1e-5)
    assert found.tokens == expected.tokens
    assert [called.path for called in services.calls] == ["/v1/embeddings"] * 6
    assert services.calls[0].body["model"] == "m"
    assert services.calls[0].headers["Authorization"] == f"Bearer {KEY}"


async def test_long_texts_go_in_small_requests(embedder: ProviderEmbedder, services: ServicesUpstream) -> None:
    await embedder.encode(["a word or two " * 9000, "short"])
    sizes = [sum(len(text) for text in called.body["input"]) for called in services.calls]
    assert len(sizes) > 3
    assert max(sizes) < 60_000


async def test_empty_texts_are_not_sent(embedder: ProviderEmbedder, services: ServicesUpstream) -> None:
    assert not (await embedder.encode(["", " \n"])).vectors.any()
    assert services.calls == []


async def test_vectors_may_come_in_base64(embedder: ProviderEmbedder, services: ServicesUpstream) -> None:
    plain = await embedder.encode(["cats sleep"])
    services.base64 = True
    assert np.allclose((await embedder.encode(["cats sleep"])).vectors, plain.vectors)


async def test_tokens_are_estimated_where_nobody_counts(embedder: ProviderEmbedder, services: ServicesUpstream) -> None:
    counted = await embedder.encode(["cats sleep all day"])
    assert (counted.tokens, counted.estimated) == (4, False)
    services.usage = False
    guessed = await embedder.encode(["cats sleep all day"])
    assert (guessed.tokens, guessed.estimated) == (4, True)


def test_impossible_figures_count_as_none() -> None:
    for told in (10**12, True, 4.5e300):
        reply = {"data": [{"embedding": [1.0, 0.0]}], "usage": {"prompt_tokens": told}}
        assert rows_of(reply, 1, "m@Here").tokens == 0


async def test_the_sum_of_all_requests_stays_within_bounds() -> None:
    class Boastful:
        async def embed(self, texts: Sequence[str], *, query: bool) -> Rows:
            return Rows(np.ones((len(texts), 2), dtype=np.float32), MOST_TOKENS)

    found = await ProviderEmbedder("m@Here", Boastful(), dim=2).encode(["word"] * (BATCH_TEXTS + 3))
    assert (found.tokens, found.estimated) == (MOST_TOKENS, False)


async def test_one_batch_that_nobody_counts_makes_the_sum_an_estimate() -> None:
    class Forgetful:
        """Counts its first request only."""

        def __init__(self) -> None:
            self.left = [100]

        async def embed(self, texts: Sequence[str], *, query: bool) -> Rows:
            tokens = self.left.pop() if self.left else 0
            return Rows(np.ones((len(texts), 2), dtype=np.float32), tokens)

    found = await ProviderEmbedder("m@Here", Forgetful(), dim=2).encode(["word"] * (BATCH_TEXTS + 3))
    assert (found.tokens, found.estimated) == (103, True)


async def test_the_length_is_learnt(call: UpstreamCall) -> None:
    embedder = ProviderEmbedder("m@Here", CompatibleEmbedding(call))
    with pytest.raises(ModelBadOutput, match="not known"):
        _ = embedder.dim
    assert not knows_dim(embedder)
    learnt = await embedder.encode(["", " "])
    assert learnt.vectors.shape == (2, 384)
    assert learnt.tokens == 1
    assert knows_dim(embedder)
    assert embedder.dim == 384
    assert (await embedder.encode([""])).tokens == 0
    assert knows_dim(HashEmbedder(dim=8))


async def test_another_length_than_listed_is_an_error(call: UpstreamCall) -> None:
    embedder = ProviderEmbedder("m@Here", CompatibleEmbedding(call), dim=64)
    with pytest.raises(ModelBadOutput, match="lengths"):
        await embedder.encode(["text"])
    assert embedder.dim == 64


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(status=401, body={"error": {"message": f"wrong key {KEY}"}}), ModelRefused),
        (Answer(status=404, body=b"<html>no</html>", content_type="text/html"), ModelRefused),
        (Answer(status=429, body={}, headers={"Retry-After": "7"}), ModelOverloaded),
        (Answer(status=503, body=b""), ModelOverloaded),
        (Answer(status=302, body=b"", headers={"Location": "http://127.0.0.1:9/"}), ModelRefused),
        (Answer(body=b"<html>hello</html>", content_type="text/html"), ModelBadOutput),
        (Answer(body=[1]), ModelBadOutput),
        (Answer(body={}), ModelBadOutput),
        (Answer(body={"error": {"message": f"no model for {KEY}"}}), ModelRefused),
        (Answer(body={"data": []}), ModelBadOutput),
        (Answer(body={"data": [{"embedding": [1, "x"]}]}), ModelBadOutput),
        (Answer(body={"data": [{"embedding": []}]}), ModelBadOutput),
        (Answer(body={"data": [{"embedding": "###"}]}), ModelBadOutput),
        (Answer(body={"data": [{"embedding": [0, 0]}]}), ModelBadOutput),
        (Answer(body={"data": [{"embedding": [1, 2], "index": 9}]}), ModelBadOutput),
        (Answer(body={"data": ["x"]}), ModelBadOutput),
        (Answer(body={}, cut=True), ModelOverloaded),
    ],
)
async def test_what_goes_wrong_is_a_model_error_without_the_key(
    call: UpstreamCall, services: ServicesUpstream, answer: Answer, error: type[ModelError]
) -> None:
    services.answer = answer
    with pytest.raises(error, match="m@Here") as raised:
        await ProviderEmbedder("m@Here", CompatibleEmbedding(call)).encode(["text"])
    assert type(raised.value) is error
    assert KEY not in str(raised.value)
    assert KEY not in repr(raised.value.facts)


async def test_retry_after_is_a_fact(embedder: ProviderEmbedder, services: ServicesUpstream) -> None:
    services.answer = Answer(status=429, body={}, headers={"Retry-After": "7"})
    with pytest.raises(ModelOverloaded) as raised:
        await embedder.encode(["text"])
    assert raised.value.facts["retry_after_s"] == 7


async def test_a_hanging_server_is_left(hasty: UpstreamCall, services: ServicesUpstream) -> None:
    services.answer = Answer(wait_s=30)
    with pytest.raises(ModelTimeout):
        await ProviderEmbedder("m@Here", CompatibleEmbedding(hasty)).encode(["text"])
    await asyncio.sleep(0.1)
    assert services.left_early == 1


async def test_cancelling_ends_all_requests(embedder: ProviderEmbedder, services: ServicesUpstream) -> None:
    services.answer = Answer(wait_s=30)
    task = asyncio.create_task(embedder.encode([f"text {number}" for number in range(300)]))
    while services.busy < 4:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.1)
    assert (services.busy, services.left_early, len(services.calls)) == (0, 4, 4)


async def test_one_failure_ends_the_others(services: ServicesUpstream) -> None:
    class HalfBroken:
        started = 0
        ended = 0

        async def embed(self, texts: Any, *, query: bool) -> Rows:
            self.started += 1
            if self.started == 2:
                raise ModelOverloaded("no")
            try:
                await asyncio.sleep(30)
            finally:
                self.ended += 1
            raise AssertionError

    wire = HalfBroken()
    with pytest.raises(ModelOverloaded):
        await ProviderEmbedder("m@Here", wire).encode([f"t{n}" for n in range(600)])
    assert wire.started - 1 == wire.ended < 10


def test_rows_without_an_index_stay_in_order() -> None:
    rows = rows_of({"data": [{"embedding": [1, 0]}, {"embedding": [0, 1]}]}, 2, "m")
    assert rows.vectors.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("row", [[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_a_vector_without_a_direction_is_an_error(row: list[float]) -> None:
    with pytest.raises(ModelBadOutput):
        unit(np.asarray([[1.0, 0.0], row], dtype=np.float32), "m")


def test_large_numbers_do_not_overflow() -> None:
    assert np.allclose(unit(np.asarray([[3e30, 4e30]], dtype=np.float32), "m"), [[0.6, 0.8]])
