"""One turn on our own routes: its answer with all that is known of it."""

from dataclasses import asdict
from typing import Any

from api.apps.wire_reference import numbered_reference_wire
from api.db.services.message_usage import Calls
from api.db.services.turn_records import TurnRecord
from rag.core.types import Reference

STATUS = {"done": "complete"}
"""Names of a row's status on our own routes, where they differ."""


def turn_wire(turn: TurnRecord, *, debug: bool) -> dict[str, Any]:
    """A turn. `error` is null unless the answer failed; `usage` has all calls that were made for it; `timings_ms` what
    the steps took.

    Args:
        debug: Whether to add the prompt.
    """
    answer = turn.answer
    code, _, message = answer.error.partition(": ")
    wire: dict[str, Any] = {
        "message_id": turn.message_id,
        "session_id": turn.session_id,
        "status": STATUS.get(answer.status, answer.status),
        "question": turn.question.content if turn.question is not None else "",
        "answer": answer.content,
        "reference": numbered_reference_wire(answer.reference or Reference()),
        "model": answer.model,
        "created_at": answer.created_at,
        "error": {"code": code, "message": message} if answer.status == "failed" else None,
        "thumbup": answer.thumbup,
        "feedback": answer.feedback,
        "usage": _calls(turn.usage.total)
        | {"by_purpose": {calls.purpose: _calls(calls) for calls in turn.usage.by_purpose}},
        "timings_ms": answer.timings_ms,
    }
    if debug:
        wire["prompt"] = turn.prompt
    return wire


def _calls(calls: Calls) -> dict[str, Any]:
    wire = asdict(calls)
    del wire["purpose"]
    wire["total_tokens"] = calls.prompt_tokens + calls.completion_tokens
    return wire
