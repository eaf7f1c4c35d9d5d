"""Reranking models of providers: `POST /rerank` as Cohere, Jina, vLLM and others have it, or through LiteLLM."""

from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np

from rag.core.blocking import Lane, run_in
from rag.core.errors import ModelBadOutput
from rag.core.types import Vector
from rag.llm import litellm_port
from rag.llm.base import Reranked
from rag.llm.endpoint import Endpoint
from rag.llm.token_estimate import estimate_tokens
from rag.llm.token_usages import tokens_of
from rag.llm.upstream_call import UpstreamCall

_DEFAULT_CONTEXT: Final = 4096
_CHARS_PER_TOKEN: Final = 3
_MOST_PASSAGES: Final = 1000
"""Of one request, as Cohere takes them."""


class RerankWire(Protocol):
    """Sends one request."""

    async def rerank(self, question: str, passages: Sequence[str]) -> Any:
        """The reply in Cohere's form: `results` of `index` and `relevance_score`."""
        ...


class CompatibleRerank:
    """`POST /rerank`."""

    def __init__(self, call: UpstreamCall) -> None:
        self._call = call

    async def rerank(self, question: str, passages: Sequence[str]) -> Any:
        body = {
            "model": self._call.endpoint.model,
            "query": question,
            "documents": list(passages),
            "top_n": len(passages),
        }
        return await self._call.post_json("/rerank", body)


class LiteLLMRerank:
    """Any provider that LiteLLM has an adapter for."""

    def __init__(self, name: str, endpoint: Endpoint, *, timeout_s: float) -> None:
        self._name = name
        self._endpoint = endpoint
        self._timeout_s = timeout_s

    async def rerank(self, question: str, passages: Sequence[str]) -> Any:
        return await litellm_port.rerank(
            self._endpoint, question, list(passages), name=self._name, timeout_s=self._timeout_s
        )


class ProviderReranker:
    """Reranker, asynchronous. Keeps nothing."""

    def __init__(self, name: str, wire: RerankWire, *, context_tokens: int = 0) -> None:
        self.name = name
        self._wire = wire
        self._most_chars = (context_tokens or _DEFAULT_CONTEXT) * _CHARS_PER_TOKEN // 2

    async def rerank(self, question: str, passages: Sequence[str]) -> Reranked:
        """One score per passage, in their order; 0 for an empty one. Passages are cut to what the model reads.

        Raises:
            ModelError: the call failed; `ModelBadOutput` where its reply cannot be used.
        """
        plain = [_valid(passage)[: self._most_chars] for passage in passages]
        asked = [index for index, passage in enumerate(plain) if passage.strip()]
        scores = np.zeros(len(plain), dtype=np.float32)
        query, tokens, estimated = _valid(question)[: self._most_chars], 0, False
        if not query.strip():
            return Reranked(scores=scores, tokens=0)
        for start in range(0, len(asked), _MOST_PASSAGES):
            part = asked[start : start + _MOST_PASSAGES]
            texts = [plain[index] for index in part]
            reply = await self._wire.rerank(query, texts)
            scores[part] = await run_in(Lane.TEXT, scores_of, reply, len(texts), self.name)
            counted = _tokens(reply)
            estimated = estimated or not counted
            tokens = tokens_of(tokens, counted or await run_in(Lane.TEXT, _estimated, query, texts))
        return Reranked(scores=scores, tokens=tokens, estimated=estimated)


def scores_of(reply: Any, count: int, name: str) -> Vector:
    """The scores of a reply, 0 to 1, by their index. Servers that give raw logits are told by scores beyond that
    range; then all scores of the reply pass through the logistic function, which keeps their order.

    Raises:
        ModelBadOutput: it has another form, or not one score per passage.
    """
    results = reply.get("results", reply.get("data")) if isinstance(reply, dict) else None
    if not isinstance(results, list):
        raise ModelBadOutput(f"{name!r} gave no scores.", model=name)
    scores = np.full(count, np.nan, dtype=np.float64)
    try:
        for item in results:
            index = int(item["index"])
            if index < 0:
                raise IndexError(index)
            scores[index] = float(item["relevance_score"] if "relevance_score" in item else item["score"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelBadOutput(f"{name!r} gave scores that cannot be read.", model=name) from error
    if not np.isfinite(scores).all():
        raise ModelBadOutput(f"{name!r} did not give one score per passage.", model=name)
    if scores.size and (scores.min() < 0 or scores.max() > 1):
        scores = 1 / (1 + np.exp(-np.clip(scores, -60, 60)))
    return scores.astype(np.float32)


def _tokens(reply: Any) -> int:
    usage = reply.get("usage") if isinstance(reply, dict) else None
    return tokens_of(usage.get("total_tokens")) if isinstance(usage, dict) else 0


def _estimated(query: str, texts: Sequence[str]) -> int:
    return estimate_tokens(query) * len(texts) + sum(map(estimate_tokens, texts))


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
