"""The built-in embedding model: all-MiniLM-L6-v2, int8, in this process through onnxruntime.

The model reads 256 tokens. A longer text is cut into windows of equal length that overlap a little, each window is
embedded, and the text's vector is their mean weighted by length.

The quantised model scales its activations by the largest value of the whole batch, so a vector depends on its
companions (cosine 0.997 to the same text alone). Measured on one core, tokens a second: windows alone 8,400, in
batches of 1,024 tokens 7,500, of 8,192 tokens 6,100 with 690 MB instead of 136. So windows run alone by default, spread
over threads, longest first: no padding, and a text has the same vector at every ingestion. A batch size can be
set for machines where batches win; windows of similar length then go together.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.core.errors import ModelBadOutput
from rag.core.types import Matrix
from rag.llm.base import Embedded

MODEL_FILE = "all-MiniLM-L6-v2-int8.onnx"
TOKENIZER_FILE = "tokenizer.json"
NAME = "minilm@Builtin"
DIM = 384
MAX_TOKENS = 256
_SPECIAL = 2  # [CLS] and [SEP] of every window.
_WINDOW = MAX_TOKENS - _SPECIAL
_OVERLAP = 32
_TOKENISE_AT_ONCE = 256

_Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Loaded:
    session: Any
    tokenizer: Any
    cls_id: int
    sep_id: int
    pool: ThreadPoolExecutor


@dataclass(frozen=True, slots=True)
class _Window:
    text: int
    ids: _Ids


class MiniLmEmbedder:
    """Embedder in process. Safe to call from several threads; loaded by `open()` or by the first call."""

    name = NAME
    dim = DIM
    local = True

    def __init__(self, asset_dir: Path, *, threads: int = 2, batch_tokens: int = 0) -> None:
        """`threads` share the windows of one call; `batch_tokens`: padded tokens of one batch, 0 for no batches."""
        self._asset_dir = asset_dir
        self._threads = threads
        self._batch_tokens = batch_tokens
        self._loaded: _Loaded | None = None
        self._lock = threading.Lock()

    def open(self) -> None:
        """Load model and tokenizer (about 0.5 s and 60 MB); again is a no-op.

        Raises:
            ModelBadOutput: the model's files are missing or not readable.
        """
        self._model()

    def close(self) -> None:
        """Give the model's memory and threads back; the next call loads it again."""
        with self._lock:
            loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.pool.shutdown(wait=True)

    def encode(self, texts: Sequence[str]) -> Embedded:
        """Embed passages: shape (n, 384), float32, rows of unit length; a zero row for a text without tokens."""
        return self._encode(texts)

    def encode_query(self, text: str) -> Embedded:
        """Embed a question; one row. This model embeds questions as it does passages."""
        return self._encode([text])

    def count_tokens(self, text: str) -> int:
        """Word pieces of `text`, without the two special tokens of a window."""
        return len(self._model().tokenizer.encode(_valid(text), add_special_tokens=False).ids)

    def _encode(self, texts: Sequence[str]) -> Embedded:
        loaded = self._model()
        sums = np.zeros((len(texts), DIM), dtype=np.float32)
        tokens = 0
        windows: list[_Window] = []
        for start in range(0, len(texts), _TOKENISE_AT_ONCE):
            part = [_valid(text) for text in texts[start : start + _TOKENISE_AT_ONCE]]
            for index, encoding in enumerate(loaded.tokenizer.encode_batch_fast(part, add_special_tokens=False), start):
                ids = np.asarray(encoding.ids, dtype=np.int64)
                tokens += len(ids)
                windows.extend(_Window(index, ids[a:b]) for a, b in _spans(len(ids)))
        batches = list(_batches(windows, self._batch_tokens))
        for batch, rows in zip(batches, self._run_all(loaded, batches), strict=True):
            for window, row in zip(batch, rows, strict=True):
                sums[window.text] += row * len(window.ids)
        return Embedded(vectors=_unit(sums), tokens=tokens)

    def _run_all(self, loaded: _Loaded, batches: list[list[_Window]]) -> Iterator[Matrix]:
        if len(batches) < 2 or self._threads < 2:
            return (_run(loaded, batch) for batch in batches)
        return loaded.pool.map(lambda batch: _run(loaded, batch), batches)

    def _model(self) -> _Loaded:
        loaded = self._loaded
        if loaded is not None:
            return loaded
        with self._lock:
            if self._loaded is None:
                self._loaded = _load(self._asset_dir, self._threads)
            return self._loaded


def _load(asset_dir: Path, threads: int) -> _Loaded:
    # Imported here because the imports cost 0.3 s and 40 MB, which a process that never embeds does not pay.
    import onnxruntime
    from tokenizers import Tokenizer

    for file in (MODEL_FILE, TOKENIZER_FILE):
        if not (asset_dir / file).is_file():
            raise ModelBadOutput(f"The built-in embedding model lacks {file!r}; install the package again.", model=NAME)
    options = onnxruntime.SessionOptions()
    # One thread per run and several runs at once: each operator is too small to be worth splitting.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # A plan per input shape would be kept for each of 256 lengths.
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(asset_dir / MODEL_FILE), options, providers=["CPUExecutionProvider"])
    tokenizer: Any = Tokenizer.from_file(str(asset_dir / TOKENIZER_FILE))
    # The file asks for padding and truncation to 128 tokens; windows and batches are made here.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return _Loaded(
        session=session,
        tokenizer=tokenizer,
        cls_id=int(tokenizer.token_to_id("[CLS]")),
        sep_id=int(tokenizer.token_to_id("[SEP]")),
        pool=ThreadPoolExecutor(threads, thread_name_prefix="minilm"),
    )


def _valid(text: str) -> str:
    """`text` without lone surrogates, which the tokenizer refuses."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _spans(length: int) -> Iterator[tuple[int, int]]:
    """Windows over `length` tokens: as few as fit, of equal length, at least `_OVERLAP` tokens shared."""
    if length == 0:
        return
    if length <= _WINDOW:
        yield 0, length
        return
    count = -(-(length - _OVERLAP) // (_WINDOW - _OVERLAP))
    size = -(-(length + (count - 1) * _OVERLAP) // count)
    for number in range(count):
        start = round(number * (length - size) / (count - 1))
        yield start, start + size


def _batches(windows: Iterable[_Window], batch_tokens: int) -> Iterator[list[_Window]]:
    """Batches of windows of similar length, longest first; padded size at most `batch_tokens`, one window at least."""
    batch: list[_Window] = []
    width = 0
    for window in sorted(windows, key=lambda w: len(w.ids), reverse=True):
        if batch and (len(batch) + 1) * width > batch_tokens:
            yield batch
            batch = []
        if not batch:
            width = len(window.ids) + _SPECIAL
        batch.append(window)
    if batch:
        yield batch


def _run(loaded: _Loaded, batch: Sequence[_Window]) -> Matrix:
    width = len(batch[0].ids) + _SPECIAL
    ids = np.zeros((len(batch), width), dtype=np.int64)
    mask = np.zeros((len(batch), width), dtype=np.int64)
    for row, window in enumerate(batch):
        end = len(window.ids) + 1
        ids[row, 0] = loaded.cls_id
        ids[row, 1:end] = window.ids
        ids[row, end] = loaded.sep_id
        mask[row, : end + 1] = 1
    (rows,) = loaded.session.run(None, {"input_ids": ids, "attention_mask": mask})
    result: Matrix = rows
    return result


def _unit(sums: Matrix) -> Matrix:
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    result: Matrix = np.divide(sums, norms, out=np.zeros_like(sums), where=norms > 0)
    return result
