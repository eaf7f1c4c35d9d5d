from pathlib import Path

import numpy as np
import pytest

from rag.core.errors import ModelBadOutput
from rag.core.resources import asset_path
from rag.llm import minilm as module
from rag.llm.minilm import MiniLmEmbedder
from rag.testing.embedder_suite import EmbedderSuite


class TestContract(EmbedderSuite):
    @pytest.fixture
    def embedder(self, minilm: MiniLmEmbedder) -> MiniLmEmbedder:
        return minilm


@pytest.mark.parametrize("length", [1, 253, 254, 255, 300, 476, 477, 508, 1000, 5003])
def test_windows_cover_everything_and_fit(length: int) -> None:
    spans = list(module._spans(length))
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    assert all(end - start <= 254 for start, end in spans)
    assert len({end - start for start, end in spans}) == 1
    assert all(left[1] - right[0] >= 30 for left, right in zip(spans, spans[1:], strict=False))


def test_no_window_for_no_token() -> None:
    assert list(module._spans(0)) == []


def test_batches_hold_windows_of_similar_length() -> None:
    windows = [module._Window(0, np.zeros(length, dtype=np.int64)) for length in (5, 250, 7, 240, 6, 100)]
    batches = list(module._batches(windows, 512))
    assert [[len(window.ids) for window in batch] for batch in batches] == [[250, 240], [100, 7, 6, 5]]
    assert [len(batch) for batch in module._batches(windows, 0)] == [1] * 6


def test_batches_give_nearly_the_same_vectors() -> None:
    texts = [f"Sentence number {number} speaks of topic {number * 7}." for number in range(20)]
    alone = MiniLmEmbedder(asset_path("minilm"), threads=1)
    batched = MiniLmEmbedder(asset_path("minilm"), threads=1, batch_tokens=512)
    assert float((alone.encode(texts).vectors * batched.encode(texts).vectors).sum(axis=1).min()) > 0.97
    alone.close()
    batched.close()


def test_tokens_are_word_pieces(minilm: MiniLmEmbedder) -> None:
    assert minilm.count_tokens("Hello world.") == 3
    assert minilm.encode(["Hello world.", "Hello"]).tokens == 4


def test_a_closed_one_opens_again() -> None:
    embedder = MiniLmEmbedder(asset_path("minilm"), threads=1)
    before = embedder.encode_query("again").vectors
    embedder.close()
    embedder.close()
    assert np.array_equal(embedder.encode_query("again").vectors, before)
    embedder.close()


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelBadOutput, match=r"all-MiniLM-L6-v2-int8\.onnx"):
        MiniLmEmbedder(tmp_path).open()
