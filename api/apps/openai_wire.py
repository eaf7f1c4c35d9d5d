"""OpenAI's shapes: chat chunks and objects, annotations that cite, error bodies."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import quote

from rag.core.errors import BudgetSpent
from rag.core.types import CitedChunk, Reference, TokenUsage, ToolCall

FinishReason = Literal["stop", "length", "tool_calls"]
NO_QUOTA: Final = "insufficient_quota"

_MARKED: Final = re.compile(r"[ \t]{0,4}(\[ID:(\d{1,6})\])")


def error_body(message: str, *, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """OpenAI's error body."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def failure(message: str, status: int, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The error body of a reply with `status`. A spent budget is what OpenAI calls `insufficient_quota`."""
    if code == BudgetSpent.code:
        return error_body(message, kind=NO_QUOTA, code=NO_QUOTA, param=param)
    return error_body(message, kind="invalid_request_error" if status < 500 else "server_error", code=code, param=param)


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What all chunks of one completion share. `base_url` has no slash at its end."""

    id: str
    created: int
    model: str
    base_url: str

    def chunk(self, delta: dict[str, Any], finish: FinishReason | None = None) -> dict[str, Any]:
        """One chunk of a stream."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._head("chat.completion.chunk") | {"choices": [choice]}

    def usage_chunk(self, usage: TokenUsage) -> dict[str, Any]:
        """The chunk after the last one, where `stream_options.include_usage` asks for it."""
        return self._head("chat.completion.chunk") | {"choices": [], "usage": usage_wire(usage)}

    def whole(
        self,
        text: str,
        reference: Reference,
        usage: TokenUsage,
        *,
        finish: FinishReason,
        reasoning: str,
        calls: Sequence[ToolCall] = (),
    ) -> dict[str, Any]:
        """The completion that is not streamed. Beside `calls` there need be no text."""
        message: dict[str, Any] = {"role": "assistant", "content": text or None if calls else text, "refusal": None}
        if calls:
            message["tool_calls"] = [call_wire(call) for call in calls]
        if reasoning:
            message["reasoning_content"] = reasoning
        message |= self.sources(text, text, reference)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return self._head("chat.completion") | {"choices": [choice], "usage": usage_wire(usage)}

    def sources(self, shown: str, answer: str, reference: Reference) -> dict[str, Any]:
        """`annotations` on `shown`, for the marks of `answer`, and all `references`."""
        return {
            "annotations": annotations(shown, answer, reference, self.base_url),
            "references": [source_wire(chunk, self.base_url) for chunk in reference.chunks],
        }

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def call_wire(call: ToolCall) -> dict[str, Any]:
    """A call in `message.tool_calls`."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def call_deltas(index: int, call: ToolCall) -> list[dict[str, Any]]:
    """What a stream tells of call number `index`: its name, then its arguments."""
    begun = call_wire(call) | {"index": index, "function": {"name": call.name, "arguments": ""}}
    return [begun, {"index": index, "function": {"arguments": call.arguments}}]


def usage_wire(usage: TokenUsage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def annotations(shown: str, answer: str, reference: Reference, base_url: str) -> list[dict[str, Any]]:
    """A `url_citation` for each mark of `answer`, in the order of the text.

    `shown` is what the client was sent. Where it has the mark, the annotation spans it; a mark that was put in or
    moved after the text had been streamed has an empty span at its place, and one that was taken back has none.
    """
    by_index = {chunk.index: chunk for chunk in reference.chunks}
    found = []
    for start, end, index in _spans(shown, answer):
        chunk = by_index.get(index)
        if chunk is not None:
            citation = {
                "start_index": start,
                "end_index": end,
                "title": chunk.document_name,
                "url": source_url(chunk, base_url),
                "page": chunk.page,
            }
            found.append({"type": "url_citation", "url_citation": citation})
    return found


def _spans(shown: str, answer: str) -> list[tuple[int, int, int]]:
    """Start and end in `shown`, and source, of each mark of `answer`. The two differ in marks alone."""
    given = {(place, index): (start, end) for start, end, index, place in _placed(shown)}
    removed = [(place, blank) for _, _, _, place, blank in _with_blanks(shown)]
    spans = []
    for _, _, index, place in _placed(answer):
        before = sum(blank for at, blank in removed if at < place)
        put_in = min(place + before, len(shown))
        spans.append((*given.get((place, index), (put_in, put_in)), index))
    return spans


def _placed(text: str) -> list[tuple[int, int, int, int]]:
    return [(start, end, index, place) for start, end, index, place, _ in _with_blanks(text)]


def _with_blanks(text: str) -> list[tuple[int, int, int, int, int]]:
    """Of each mark its start and end, its source, its place in the text without marks, and its length with the blank
    before it."""
    found = []
    removed = 0
    for mark in _MARKED.finditer(text):
        found.append((mark.start(1), mark.end(), int(mark[2]), mark.start() - removed, len(mark[0])))
        removed += len(mark[0])
    return found


def source_url(chunk: CitedChunk, base_url: str) -> str:
    """Where the cited document opens, at the cited page if it has pages."""
    if chunk.url:
        return chunk.url
    address = f"{base_url}/api/v1/datasets/{quote(chunk.dataset_id)}/documents/{quote(chunk.document_id)}"
    return f"{address}#page={chunk.page}" if chunk.page is not None else address


def source_wire(chunk: CitedChunk, base_url: str) -> dict[str, Any]:
    """One of `references`: what `[ID:index]` points to."""
    return {
        "index": chunk.index,
        "chunk_id": chunk.chunk_id,
        "document_id": chunk.document_id,
        "document_name": chunk.document_name,
        "dataset_id": chunk.dataset_id,
        "page": chunk.page,
        "content": chunk.content,
        "positions": [position.as_wire() for position in chunk.positions],
        "similarity": chunk.similarity,
        "url": source_url(chunk, base_url),
    }
