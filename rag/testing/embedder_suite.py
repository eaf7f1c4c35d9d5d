"""What every embedder does: inherit `EmbedderSuite` and give it an `embedder` fixture."""

import asyncio
import inspect
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rag.llm.base import Embedded, Embedder

TEXTS = ("Cats sleep most of the day.", "Revenue grew by 5 %.", "", "Die Straße ist naß.", "数据 挖掘", "a\ud800b")


async def encoded(embedder: Embedder, texts: Sequence[str]) -> Embedded:
    result = embedder.encode(texts)
    found = await result if inspect.isawaitable(result) else result
    assert isinstance(found, Embedded)
    return found


async def encoded_query(embedder: Embedder, text: str) -> Embedded:
    result = embedder.encode_query(text)
    found = await result if inspect.isawaitable(result) else result
    assert isinstance(found, Embedded)
    return found


class EmbedderSuite:
    """The contract of `rag.llm.base.Embedder`."""

    async def test_one_row_per_text(self, embedder: Embedder) -> None:
        found = await encoded(embedder, TEXTS)
        assert found.vectors.shape == (len(TEXTS), embedder.dim)
        assert found.vectors.dtype == np.float32
        assert found.tokens > 0

    async def test_rows_have_unit_length_and_empty_texts_none(self, embedder: Embedder) -> None:
        norms = np.linalg.norm((await encoded(embedder, TEXTS)).vectors, axis=1)
        assert norms[2] == 0
        assert np.allclose(np.delete(norms, 2), 1, atol=1e-4)

    async def test_no_texts_give_no_rows(self, embedder: Embedder) -> None:
        found = await encoded(embedder, ())
        assert found.vectors.shape == (0, embedder.dim)
        assert found.tokens == 0

    async def test_the_order_of_texts_is_kept(self, embedder: Embedder) -> None:
        texts = ["short", "a much longer text with many more words in it " * 5, "middle sized text here"]
        together = (await encoded(embedder, texts)).vectors
        for row, text in zip(together, texts, strict=True):
            alone = (await encoded(embedder, [text])).vectors[0]
            assert float(row @ alone) > 0.99

    async def test_the_same_text_has_the_same_vector(self, embedder: Embedder) -> None:
        first = await encoded(embedder, TEXTS)
        second = await encoded(embedder, TEXTS)
        assert np.array_equal(first.vectors, second.vectors)

    async def test_a_text_is_nearer_to_its_like(self, embedder: Embedder) -> None:
        query = (await encoded_query(embedder, "how much do cats sleep")).vectors
        assert query.shape == (1, embedder.dim)
        scores = (await encoded(embedder, TEXTS)).vectors @ query[0]
        assert int(np.argmax(scores)) == 0

    async def test_the_end_of_a_long_text_counts(self, embedder: Embedder) -> None:
        filler = "The weather was mild and nothing happened on that day. " * 40
        plain = (await encoded(embedder, [filler])).vectors[0]
        ends = (await encoded(embedder, [filler + "Zebras graze in the savanna. " * 20])).vectors[0]
        query = (await encoded_query(embedder, "zebras graze in the savanna")).vectors[0]
        assert float(ends @ query) > float(plain @ query)

    async def test_calls_do_not_disturb_each_other(self, embedder: Embedder) -> None:
        expected = (await encoded(embedder, TEXTS)).vectors
        if inspect.iscoroutinefunction(embedder.encode):
            found = await asyncio.gather(*(encoded(embedder, TEXTS) for _ in range(8)))
        else:
            with ThreadPoolExecutor(4) as pool:
                found = list(pool.map(lambda _: embedder.encode(TEXTS), range(8)))
        assert all(np.array_equal(one.vectors, expected) for one in found)
