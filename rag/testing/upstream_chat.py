"""Replies in the form of OpenAI's chat completions."""

from typing import Any

from rag.testing.upstream_plan import Frame, Plan, argument_pieces, shown_index

_HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "mock"}


def frames(plan: Plan) -> list[Frame]:
    """The events of a stream, without the closing `[DONE]`."""
    found = [_piece({"role": "assistant", "reasoning_content": text}) for text in plan.reasoning]
    found += [_piece({"role": "assistant", "content": text}) for text in plan.tokens]
    found += _tool_pieces(plan)
    if plan.usage and plan.usage_twice:
        found.append(Frame(data=_HEAD | {"choices": [], "usage": _usage(plan) | {"completion_tokens": 1}}))
    found.append(_piece({}, plan.finish_reason))
    if plan.usage:
        found.append(Frame(data=_HEAD | {"choices": [], "usage": _usage(plan)}))
    return found


def whole(plan: Plan) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(plan.tokens)}
    if plan.reasoning:
        message["reasoning_content"] = "".join(plan.reasoning)
    if plan.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in plan.tool_calls
        ]
    reply = _HEAD | {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": plan.finish_reason}],
    }
    return reply | ({"usage": _usage(plan)} if plan.usage else {})


def error(plan: Plan) -> dict[str, Any]:
    """The body of a reply that failed; also an event that ends a stream."""
    return {"error": plan.error}


def _piece(delta: dict[str, Any], finish: str | None = None) -> Frame:
    return Frame(data=_HEAD | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def _tool_pieces(plan: Plan) -> list[Frame]:
    found = []
    for piece in argument_pieces(plan):
        function = {"arguments": piece.text}
        call: dict[str, Any] = {"function": function}
        index = shown_index(plan, piece.index)
        if index is not None:
            call["index"] = index
        if piece.first:
            call |= {"id": piece.call.id, "type": "function"}
            function["name"] = piece.call.name
        found.append(_piece({"tool_calls": [call]}))
    return found


def _usage(plan: Plan) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "prompt_tokens": plan.prompt_tokens,
        "completion_tokens": plan.completion_tokens,
        "total_tokens": plan.prompt_tokens + plan.completion_tokens,
    }
    if plan.cached_tokens:
        usage["prompt_tokens_details"] = {"cached_tokens": plan.cached_tokens}
    if plan.reasoning_tokens:
        usage["completion_tokens_details"] = {"reasoning_tokens": plan.reasoning_tokens}
    return usage
