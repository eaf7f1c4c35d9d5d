"""Server-sent events: typed events become frames, frames become a streaming response.

Frames are batched by arrival: whatever the event log holds when the writer looks goes out in one write. The contract's
cumulative frames are made in `answer_wire`, OpenAI's in `openai_wire`; here are the framing rules all of them
share, and the frames of our own events route (ids, event names, increments, heartbeats).
"""

from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any, Final

import orjson
import structlog
from quart import Response

from api.apps.wire_reference import numbered_reference_wire
from rag.core.events import (
    Cited,
    DialogEvent,
    Done,
    Failed,
    Reasoning,
    RetrievalFinished,
    RetrievalStarted,
    Spoken,
    Started,
    Stopped,
    Token,
    ToolArguments,
    ToolFinished,
    ToolStarted,
    Usage,
)

_log = structlog.get_logger(__name__)
CRASHED: Final = "The server failed; its log says why."

HEARTBEAT: Final = b": heartbeat\n\n"
HEARTBEAT_S: Final = 15.0
OPENING: Final = b": events\n\n"
OPENAI_END: Final = b"data: [DONE]\n\n"

_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "Connection": "keep-alive",
    "X-Accel-Buffering": "no",
}

# Clients split frames with `str.splitlines`, which also splits at these three. Every other character it
# splits at is below U+0020 and therefore escaped by any JSON writer.
_LINE_BREAKS: Final = (
    (b"\xc2\x85", b"\\u0085"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)


def dumps(payload: Any) -> bytes:
    """`payload` as JSON on one line, for every client's idea of a line."""
    text = orjson.dumps(payload)
    for raw, escaped in _LINE_BREAKS:
        if raw in text:
            text = text.replace(raw, escaped)
    return text


def frame(payload: Any) -> bytes:
    """A frame as the contract has it: no space after the colon."""
    return b"data:" + dumps(payload) + b"\n\n"


def openai_frame(payload: Any) -> bytes:
    """A frame as OpenAI writes it."""
    return b"data: " + dumps(payload) + b"\n\n"


def named_frame(event_id: int, name: str, payload: Any) -> bytes:
    """A frame of our own events route."""
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event_id, name.encode(), dumps(payload))


def stream_response(frames: AsyncIterator[bytes], *, on_crash: bytes) -> Response:
    """A response that writes `frames` as they come, for as long as they come.

    Args:
        on_crash: What ends the stream after a defect, when the status is spent; the log has the traceback.
    """
    response = Response(_guarded(frames, on_crash), headers=_HEADERS)
    response.timeout = None
    return response


async def _guarded(frames: AsyncIterator[bytes], on_crash: bytes) -> AsyncIterator[bytes]:
    try:
        async for written in frames:
            yield written
    except Exception as error:  # noqa: BLE001  # the request handler's edge, as in `gate`: it is logged and told
        _log.exception("stream_crashed", error=type(error).__name__, exc_info=error)
        yield on_crash
    finally:
        close = getattr(frames, "aclose", None)
        if close is not None:
            await close()


def event_payload(event: DialogEvent) -> tuple[str, dict[str, Any]]:
    """The name and the payload of an event on our own events route."""
    match event:
        case Token(text=text):
            return "token", {"text": text}
        case Reasoning(text=text):
            return "reasoning", {"text": text}
        case Started(message_id=message_id, session_id=session_id):
            return "started", {"message_id": message_id, "session_id": session_id}
        case RetrievalStarted(question=question):
            return "retrieval_started", {"question": question}
        case RetrievalFinished(reference=reference, timings_ms=timings):
            return "retrieval_finished", {"reference": numbered_reference_wire(reference), "timings_ms": timings}
        case ToolArguments(index=index, text=text, name=name):
            return "tool_arguments", {"index": index, "name": name, "text": text}
        case ToolStarted(call_id=call_id, name=name, arguments=arguments):
            return "tool_started", {"call_id": call_id, "name": name, "arguments": arguments}
        case ToolFinished(call_id=call_id, name=name, error=error, duration_ms=duration_ms):
            return "tool_finished", {"call_id": call_id, "name": name, "error": error, "duration_ms": duration_ms}
        case Spoken(audio=audio):
            return "spoken", {"audio": b64encode(audio).decode(), "media_type": "audio/mpeg"}
        case Cited(answer=answer, reference=reference):
            return "citations", {"answer": answer, "reference": numbered_reference_wire(reference)}
        case Usage(model=model, usage=usage):
            return "usage", {
                "model": model,
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "total_tokens": usage.total_tokens,
                "estimated": usage.estimated,
            }
        case _:
            return _terminal_payload(event)


def _terminal_payload(event: Done | Failed | Stopped) -> tuple[str, dict[str, Any]]:
    match event:
        case Done(answer=answer, reference=reference, created_at=created_at, truncated=truncated):
            return "done", {
                "answer": answer,
                "reference": numbered_reference_wire(reference),
                "created_at": created_at,
                "truncated": truncated,
                "dropped_turns": event.dropped_turns,
            }
        case Failed(code=code, message=message, answer=answer):
            return "failed", {"code": code, "message": message, "answer": answer}
        case Stopped(answer=answer, reason=reason):
            return "stopped", {"answer": answer, "reason": reason}
