"""Replies in the form of Anthropic's messages."""

from collections.abc import Iterator
from typing import Any

import orjson

from rag.testing.upstream_plan import Frame, Plan, argument_pieces, shown_index

_STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


def frames(plan: Plan) -> list[Frame]:
    """The events of a stream, to the last one."""
    return [*_opening(plan), *_blocks(plan), *_calls(plan), *_closing(plan)]


def whole(plan: Plan) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    if plan.reasoning:
        content.append({"type": "thinking", "thinking": "".join(plan.reasoning), "signature": "c2lnbmVk"})
    if plan.tokens:
        content.append({"type": "text", "text": "".join(plan.tokens)})
    for call in plan.tool_calls:
        given = orjson.loads(call.arguments or "{}")
        content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": given})
    usage = {"usage": _usage(plan)} if plan.usage else {}
    return _message(content) | {"stop_reason": _STOP.get(plan.finish_reason, plan.finish_reason)} | usage


def error(plan: Plan) -> dict[str, Any]:
    """The body of a reply that failed; also an event that ends a stream."""
    kind = {429: "rate_limit_error", 503: "overloaded_error"}.get(plan.status, "api_error")
    return {"type": "error", "error": {"type": kind} | plan.error}


def error_event(plan: Plan) -> Frame:
    return Frame(event="error", data=error(plan))


def _event(data: dict[str, Any], *, head: bool = False) -> Frame:
    return Frame(event=str(data["type"]), data=data, head=head)


def _opening(plan: Plan) -> Iterator[Frame]:
    usage = {"usage": _usage(plan) | {"output_tokens": 1}} if plan.usage else {}
    yield _event({"type": "message_start", "message": _message([]) | usage}, head=True)
    yield _event({"type": "ping"}, head=True)


def _blocks(plan: Plan) -> Iterator[Frame]:
    index = 0
    if plan.reasoning:
        block = {"type": "thinking", "thinking": "", "signature": ""}
        yield _event({"type": "content_block_start", "index": index, "content_block": block}, head=True)
        for text in plan.reasoning:
            yield _delta(index, {"type": "thinking_delta", "thinking": text})
        yield _event(
            {
                "type": "content_block_delta",
                "index": index,
                "delta": {"type": "signature_delta", "signature": "c2lnbmVk"},
            },
            head=True,
        )
        yield _event({"type": "content_block_stop", "index": index}, head=True)
        index += 1
    if plan.tokens:
        block = {"type": "text", "text": ""}
        yield _event({"type": "content_block_start", "index": index, "content_block": block}, head=True)
        for text in plan.tokens:
            yield _delta(index, {"type": "text_delta", "text": text})
        yield _event({"type": "content_block_stop", "index": index}, head=True)


def _delta(index: int | None, delta: dict[str, Any]) -> Frame:
    place = {} if index is None else {"index": index}
    return _event({"type": "content_block_delta", **place, "delta": delta})


def _calls(plan: Plan) -> Iterator[Frame]:
    before = int(bool(plan.reasoning)) + int(bool(plan.tokens))
    for piece in argument_pieces(plan):
        shown = shown_index(plan, piece.index)
        place = None if shown is None else before + shown
        at = {} if place is None else {"index": place}
        if piece.first:
            block = {"type": "tool_use", "id": piece.call.id, "name": piece.call.name, "input": {}}
            yield _event({"type": "content_block_start", **at, "content_block": block}, head=True)
        yield _delta(place, {"type": "input_json_delta", "partial_json": piece.text})
        if piece.last:
            yield _event({"type": "content_block_stop", **at}, head=True)


def _closing(plan: Plan) -> Iterator[Frame]:
    delta = {"stop_reason": _STOP.get(plan.finish_reason, plan.finish_reason), "stop_sequence": None}
    usage = {"usage": {"output_tokens": plan.completion_tokens}} if plan.usage else {}
    if usage and plan.usage_twice:
        yield _event({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 1}})
    yield _event({"type": "message_delta", "delta": delta, **usage})
    yield _event({"type": "message_stop"})


def _message(content: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "mock",
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
    }


def _usage(plan: Plan) -> dict[str, Any]:
    return {
        "input_tokens": plan.prompt_tokens - plan.cached_tokens,
        "cache_read_input_tokens": plan.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": plan.completion_tokens,
    }
