"""Replies in the form of OpenAI's Responses."""

from collections.abc import Iterator
from itertools import count
from typing import Any

from rag.testing.upstream_plan import Frame, Plan, argument_pieces, shown_index


def frames(plan: Plan) -> list[Frame]:
    """The events of a stream, numbered."""
    numbers = count()
    made = [*_opening(plan), *_reasoning(plan), *_message(plan), *_calls(plan), _closing(plan)]
    return [
        Frame(event=name, data={"type": name, "sequence_number": next(numbers)} | data, head=head)
        for name, data, head in made
    ]


def whole(plan: Plan) -> dict[str, Any]:
    return _response(plan, status="completed") | _ending(plan)


def error(plan: Plan) -> dict[str, Any]:
    """The body of a reply that failed."""
    return {"error": plan.error}


def error_event(plan: Plan) -> Frame:
    code = plan.error.get("code") or plan.error.get("type")
    return Frame(event="error", data={"type": "error", "code": code, "message": plan.error.get("message", "")})


_Event = tuple[str, dict[str, Any], bool]


def _opening(plan: Plan) -> Iterator[_Event]:
    for name in ("response.created", "response.in_progress"):
        yield name, {"response": _response(plan, status="in_progress") | {"output": [], "usage": None}}, True


def _reasoning(plan: Plan) -> Iterator[_Event]:
    if not plan.reasoning:
        return
    place = {"item_id": "rs_1", "output_index": 0, "summary_index": 0}
    yield "response.output_item.added", {"output_index": 0, "item": _reasoning_item("")}, True
    yield (
        "response.reasoning_summary_part.added",
        place | {"part": {"type": "summary_text", "text": ""}},
        True,
    )
    for text in plan.reasoning:
        yield "response.reasoning_summary_text.delta", place | {"delta": text}, False
    said = "".join(plan.reasoning)
    yield "response.reasoning_summary_text.done", place | {"text": said}, True
    yield "response.output_item.done", {"output_index": 0, "item": _reasoning_item(said)}, True


def _message(plan: Plan) -> Iterator[_Event]:
    if not plan.tokens:
        return
    index = int(bool(plan.reasoning))
    place = {"item_id": "msg_1", "output_index": index, "content_index": 0}
    yield "response.output_item.added", {"output_index": index, "item": _message_item("", "in_progress")}, True
    yield "response.content_part.added", place | {"part": _part("")}, True
    for text in plan.tokens:
        yield "response.output_text.delta", place | {"delta": text, "logprobs": []}, False
    said = "".join(plan.tokens)
    yield "response.output_text.done", place | {"text": said, "logprobs": []}, True
    yield "response.content_part.done", place | {"part": _part(said)}, True
    yield "response.output_item.done", {"output_index": index, "item": _message_item(said, "completed")}, True


def _calls(plan: Plan) -> Iterator[_Event]:
    before = int(bool(plan.reasoning)) + int(bool(plan.tokens))
    for piece in argument_pieces(plan):
        shown = shown_index(plan, piece.index)
        place = {} if shown is None else {"output_index": before + shown}
        item_id = f"fc_{piece.index + 1}"
        if piece.first:
            yield "response.output_item.added", place | {"item": _call_item(plan, piece.index, "", "in_progress")}, True
        yield "response.function_call_arguments.delta", place | {"item_id": item_id, "delta": piece.text}, False
        if piece.last:
            arguments = piece.call.arguments
            done = {"item_id": item_id, "name": piece.call.name, "arguments": arguments}
            yield "response.function_call_arguments.done", place | done, True
            item = _call_item(plan, piece.index, arguments, "completed")
            yield "response.output_item.done", place | {"item": item}, True


def _closing(plan: Plan) -> _Event:
    response = whole(plan)
    return f"response.{response['status']}", {"response": response}, False


def _ending(plan: Plan) -> dict[str, Any]:
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(plan.finish)
    if reason is None:
        return {}
    return {"status": "incomplete", "incomplete_details": {"reason": reason}}


def _response(plan: Plan, *, status: str) -> dict[str, Any]:
    output = [_reasoning_item("".join(plan.reasoning))] if plan.reasoning else []
    if plan.tokens:
        output.append(_message_item("".join(plan.tokens), "completed"))
    output += [_call_item(plan, n, call.arguments, "completed") for n, call in enumerate(plan.tool_calls)]
    usage = {
        "input_tokens": plan.prompt_tokens,
        "input_tokens_details": {"cached_tokens": plan.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": plan.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": plan.reasoning_tokens},
        "total_tokens": plan.prompt_tokens + plan.completion_tokens,
    }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "mock",
        "status": status,
        "error": None,
        "incomplete_details": None,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "output": output,
        "usage": usage if plan.usage else None,
    }


def _reasoning_item(text: str) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": text}] if text else []
    return {"id": "rs_1", "type": "reasoning", "summary": summary}


def _message_item(text: str, status: str) -> dict[str, Any]:
    content = [_part(text)] if text else []
    return {"id": "msg_1", "type": "message", "status": status, "role": "assistant", "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _call_item(plan: Plan, index: int, arguments: str, status: str) -> dict[str, Any]:
    call = plan.tool_calls[index]
    return {
        "id": f"fc_{index + 1}",
        "type": "function_call",
        "status": status,
        "call_id": call.id,
        "name": call.name,
        "arguments": arguments,
    }
