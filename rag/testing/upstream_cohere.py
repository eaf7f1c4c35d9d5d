"""Replies in the form of Cohere's chat, version 2."""

from collections.abc import Iterator
from typing import Any

from rag.testing.upstream_plan import Frame, Plan, argument_pieces, shown_index

_FINISH = {"stop": "COMPLETE", "length": "MAX_TOKENS", "tool_calls": "TOOL_CALL", "content_filter": "ERROR_TOXIC"}


def frames(plan: Plan) -> list[Frame]:
    """The events of a stream, to the last one."""
    opening = _event("message-start", {"message": {"role": "assistant"}}, head=True)
    return [opening, *_content(plan), *_calls(plan), _closing(plan)]


def whole(plan: Plan) -> dict[str, Any]:
    content = [{"type": "thinking", "thinking": "".join(plan.reasoning)}] if plan.reasoning else []
    if plan.tokens:
        content.append({"type": "text", "text": "".join(plan.tokens)})
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in plan.tool_calls
    ]
    message = {"role": "assistant", "content": content} | ({"tool_calls": calls} if calls else {})
    return {"id": "1", "message": message} | _end(plan)


def _event(kind: str, delta: dict[str, Any], *, index: int | None = None, head: bool = False) -> Frame:
    place = {} if index is None else {"index": index}
    return Frame(event=kind, data={"type": kind, **place, "delta": delta}, head=head)


def _content(plan: Plan) -> Iterator[Frame]:
    for index, (kind, texts) in enumerate((("thinking", plan.reasoning), ("text", plan.tokens))):
        if not texts:
            continue
        start = {"message": {"content": {"type": kind, kind: ""}}}
        yield _event("content-start", start, index=index, head=True)
        for text in texts:
            yield _event("content-delta", {"message": {"content": {kind: text}}}, index=index)
        yield _event("content-end", {}, index=index, head=True)


def _calls(plan: Plan) -> Iterator[Frame]:
    for piece in argument_pieces(plan):
        index = shown_index(plan, piece.index)
        if piece.first:
            call = {"id": piece.call.id, "type": "function", "function": {"name": piece.call.name, "arguments": ""}}
            yield _event("tool-call-start", {"message": {"tool_calls": call}}, index=index, head=True)
        text = {"message": {"tool_calls": {"function": {"arguments": piece.text}}}}
        yield _event("tool-call-delta", text, index=index)
        if piece.last:
            yield _event("tool-call-end", {}, index=index, head=True)


def _closing(plan: Plan) -> Frame:
    return _event("message-end", _end(plan))


def _end(plan: Plan) -> dict[str, Any]:
    counts = {"input_tokens": plan.prompt_tokens, "output_tokens": plan.completion_tokens}
    usage = {"usage": {"billed_units": counts, "tokens": counts, "cached_tokens": plan.cached_tokens}}
    return {"finish_reason": _FINISH.get(plan.finish_reason, plan.finish_reason)} | (usage if plan.usage else {})
