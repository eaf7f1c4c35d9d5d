"""The built-in chat model: answers by quoting the passages it was given, each quotation cited. No key, no network.

Sentences and table rows are preselected by the share of the question's term weight they cover, about a dozen are
embedded, and those that stand out in both are quoted, with the sentence before where one leans on it. Where none
stands out it says that nothing was found.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from rag.core.types import TokenUsage
from rag.llm.base import ChatRequest, Delta, Embedded, Grounding, ModelInfo
from rag.llm.quotable import Selection, Weighed, choose, trust

INFO = ModelInfo(name="extractive@Builtin", context_tokens=32768, max_output_tokens=2048, local=True)
_EMBEDDED = 11
_PIECE = re.compile(r"\s*(?:\[ID:\d+\]|[^\s\u2e80-\u9fff\uff00-\uffef]+|[\u2e80-\u9fff\uff00-\uffef]{1,8})|\s+$")
_HAN = re.compile(r"[\u3400-\u9fff]")
_NOTHING = "Nothing in the documents answers this question."
_NOTHING_HAN = "在文档中没有找到能回答这个问题的内容。"
_NO_PASSAGES = (
    "The built-in model answers by quoting documents, and this chat has none. "
    "Attach a dataset to the chat, or choose another model."
)


class SyncEmbedder(Protocol):
    """The part of the built-in embedding model that is needed here."""

    def encode(self, texts: Sequence[str]) -> Embedded: ...


class ExtractiveChat:
    """ChatModel, synchronous; keeps nothing of a request."""

    info = INFO

    def __init__(self, embedder: SyncEmbedder) -> None:
        self._embedder = embedder

    def stream(self, request: ChatRequest) -> Iterator[Delta]:
        """Yield the quotations word by word; a mark `[ID:n]` never comes in two pieces."""
        pieces: list[str] = _PIECE.findall(self._answer(request))
        limit = request.sampling.max_tokens or self.info.max_output_tokens
        said = 0
        finish: str = "stop"
        for piece in pieces:
            cost = self.count_tokens(piece)
            if said + cost > limit:
                finish = "length"
                break
            said += cost
            yield Delta(text=piece)
        prompt = sum(self.count_tokens(turn.content) for turn in request.turns)
        usage = TokenUsage(prompt_tokens=prompt, completion_tokens=said, estimated=True)
        yield Delta(usage=usage, finish="length" if finish == "length" else "stop")

    def count_tokens(self, text: str) -> int:
        """A fourth of the UTF-8 bytes, rounded up: an estimate, the model has no vocabulary of its own."""
        return -(-len(text.encode("utf-8", "replace")) // 4)

    def _answer(self, request: ChatRequest) -> str:
        grounding = request.grounding
        if grounding is None:
            return _NO_PASSAGES
        quotes = self._quotes(grounding) if grounding.passages else []
        if not quotes:
            nothing = _NOTHING_HAN if _HAN.search(grounding.question) else _NOTHING
            return grounding.empty_response or nothing
        return "\n\n".join(f"{text} [ID:{number}]" for number, text in quotes)

    def margin(self, grounding: Grounding) -> float:
        """By how much the passages are worth an answer; below 0 it says that nothing was found."""
        selection, weighed = self._weighed(grounding)
        return trust(selection, weighed) if weighed else -1.0

    def _quotes(self, grounding: Grounding) -> list[tuple[int, str]]:
        selection, weighed = self._weighed(grounding)
        quotes = choose(selection, weighed) if weighed else []
        return [(quote.passage, quote.text) for quote in quotes]

    def _weighed(self, grounding: Grounding) -> tuple[Selection, Weighed | None]:
        selection = Selection(grounding.question, grounding.passages)
        found = selection.candidates(_EMBEDDED)
        if not found:
            return selection, None
        texts = [selection.text_to_embed(), *(candidate.text_to_embed() for candidate in found)]
        vectors = self._embedder.encode(texts).vectors
        return selection, Weighed(found, vectors[1:] @ vectors[0], vectors[1:] @ vectors[1:].T, grounding.evidence)
