"""An embedder without a model: texts that share words lie near each other, at no cost."""

import re
from collections.abc import Sequence

import numpy as np
import xxhash

from rag.llm.base import Embedded

_WORD = re.compile(r"\w+")


class HashEmbedder:
    """Embedder (synchronous): each word adds 1 or -1 to one coordinate, both chosen by its hash."""

    def __init__(self, *, dim: int = 384, name: str = "hash@Testing") -> None:
        self.dim = dim
        self.name = name
        self.calls = 0

    def encode(self, texts: Sequence[str]) -> Embedded:
        self.calls += 1
        sums = np.zeros((len(texts), self.dim), dtype=np.float32)
        tokens = 0
        for row, text in enumerate(texts):
            words = _WORD.findall(text.casefold())
            tokens += len(words)
            for word in words:
                digest = xxhash.xxh64_intdigest(word.encode("utf-8", "replace"))
                sums[row, digest % self.dim] += 1.0 if digest >> 63 else -1.0
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        vectors = np.divide(sums, norms, out=np.zeros_like(sums), where=norms > 0)
        return Embedded(vectors=vectors, tokens=tokens)

    def encode_query(self, text: str) -> Embedded:
        return self.encode([text])

    def count_tokens(self, text: str) -> int:
        return len(_WORD.findall(text))
