"""`/api/v1/chats_openai/<chat>/chat/completions`: OpenAI's shapes in the contract's words (sessions.md section 11).

Usage is counted in characters and errors come with HTTP 200, as clients of the original see it; `/v1` has the
OpenAI face that counts tokens.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any, Final

from quart import Blueprint, Response

from api.apps import repr_texts
from api.apps.answer_wire import AnswerFailed, AnswerShape, answer_object, failure_repr
from api.apps.auth import api_key_required, marked
from api.apps.body import required
from api.apps.context import services, web_state
from api.apps.envelope import json_response, uncaught
from api.apps.openapi import describe
from api.apps.sdk.chat_models import OpenAiAsk
from api.apps.sdk.lists import refused
from api.apps.sse import CRASHED, frame, stream_response
from api.apps.wire_reference import chunk_wire
from api.db.services.dialog_service import AskOptions
from api.db.services.passing_turns import passing_turn
from api.db.services.records import DialogRecord
from rag.core.blocking import Lane, run_in
from rag.core.errors import NotFound, RagError
from rag.core.events import DialogEvent, Done, Failed, Reasoning, Stopped, Token
from rag.core.ids import new_message_id
from rag.core.types import Principal, Reference, Turn

bp = Blueprint("chats_openai", __name__)

_MANY: Final = 1000
"""Messages above this are read in a thread."""
_END: Final = b"data:[DONE]\n\n"
_NOTHING_NEW: Final[dict[str, Any]] = {
    "content": None,
    "role": "assistant",
    "function_call": None,
    "tool_calls": None,
    "reasoning_content": None,
}


@bp.post("/api/v1/chats_openai/<chat_id>/chat/completions")
@marked("api_key")
@describe(request=OpenAiAsk, tag="openai")
async def complete_as_openai(chat_id: str) -> Response:
    """Answer in OpenAI's shapes, in the words of the SDK's server."""
    # The contract looks for these two before it looks at the key.
    body = await required("model", "messages")
    reply: Response = await _complete(chat_id, body)
    return reply


@api_key_required
async def _complete(principal: Principal, chat_id: str, body: dict[str, Any]) -> Response:
    messages = body["messages"]
    if not messages:
        raise refused("You have to provide messages.")
    if _last_role(messages) != "user":
        raise refused("The last content of this conversation is not from user.")
    try:
        chat = await services().assistants.get(principal, chat_id)
    except NotFound as error:
        raise refused(f"You don't own the chat {chat_id}") from error
    turns = await run_in(Lane.TEXT, _turns, messages) if len(messages) > _MANY else _turns(messages)
    with_sources = bool(body.get("reference", False))
    message_id = new_message_id()
    events = services().dialogs.chat(
        principal,
        chat,
        _kept(turns),
        options=AskOptions(quote=with_sources, speech=False),
        message_id=message_id,
        session_id="",
    )
    call = _Call(
        chat_id=chat_id,
        created=int(services().clock.now().timestamp()),
        model=str(body["model"]),
        prompt_chars=len(turns[-1].content),
        all_chars=sum(len(turn.content) for turn in turns),
        with_sources=with_sources,
    )
    if bool(body.get("stream", True)):
        stopping = web_state().stopping
        frames = _frames(passing_turn(services().event_log, message_id, events, until=stopping), call)
        return stream_response(frames, on_crash=call.chunk({"content": f"**ERROR**: {CRASHED}"}) + _END)
    return json_response(await _whole(events, call, chat))


def _last_role(messages: Any) -> Any:
    if not isinstance(messages, list):
        raise uncaught(repr_texts.wrong_type("messages must be a list", messages))
    return _field(messages[-1], "role")


def _field(message: Any, key: str) -> Any:
    if not isinstance(message, dict):
        raise uncaught(repr_texts.wrong_type("a message must be an object", message))
    if key not in message:
        raise uncaught(repr_texts.missing(key))
    return message[key]


def _turns(messages: Sequence[Any]) -> tuple[Turn, ...]:
    """The turns; messages of roles that the chat knows nothing of are left out."""
    turns = []
    for message in messages:
        role, content = _field(message, "role"), _field(message, "content")
        if not isinstance(content, str):
            raise uncaught(repr_texts.wrong_type("content must be text", content))
        if role in ("user", "assistant", "system"):
            turns.append(Turn(role=role, content=content))
    return tuple(turns)


def _kept(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The history: without system messages (the chat has its own prompt) and leading answers."""
    spoken = (turn for turn in turns if turn.role != "system")
    return tuple(dropwhile(lambda turn: turn.role == "assistant", spoken))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """What the frames of one call share."""

    chat_id: str
    created: int
    model: str
    prompt_chars: int
    all_chars: int
    with_sources: bool

    def usage(self, answer_chars: int) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_chars,
            "completion_tokens": answer_chars,
            "total_tokens": self.prompt_chars + answer_chars,
        }

    def chunk(self, delta: dict[str, Any], *, finish: str | None = None, usage: dict[str, Any] | None = None) -> bytes:
        choice = {"delta": _NOTHING_NEW | delta, "finish_reason": finish, "index": 0, "logprobs": None}
        return frame(
            {
                "id": f"chatcmpl-{self.chat_id}",
                "choices": [choice],
                "created": self.created,
                "model": "model",
                "object": "chat.completion.chunk",
                "system_fingerprint": "",
                "usage": usage,
            }
        )


async def _frames(batches: AsyncGenerator[Sequence[DialogEvent], None], call: _Call) -> AsyncGenerator[bytes, None]:
    frames = _Frames(call)
    try:
        async for batch in batches:
            written = frames.feed(batch)
            if written:
                yield written
        if not frames.ended:
            yield frames.feed((Stopped(answer=""),))
    except RagError as error:
        yield frames.feed((Failed(code=error.code, message=error.message),))
    finally:
        await batches.aclose()
    yield _END


class _Frames:
    def __init__(self, call: _Call) -> None:
        self._call = call
        self._shown = ""
        self.ended = False

    def feed(self, batch: Sequence[DialogEvent]) -> bytes:
        text = "".join(event.text for event in batch if isinstance(event, Token))
        thoughts = "".join(event.text for event in batch if isinstance(event, Reasoning))
        self._shown += text
        written = b""
        if text or thoughts:
            written = self._call.chunk({"content": text or None, "reasoning_content": thoughts or None})
        for event in batch:
            if isinstance(event, Done | Failed | Stopped) and not self.ended:
                self.ended = True
                written += self._last(event)
        return written

    def _last(self, event: Done | Failed | Stopped) -> bytes:
        missing = ""
        if isinstance(event, Failed):
            missing = f"**ERROR**: {event.message}"
        elif not self._shown:
            missing = event.answer
        written = self._call.chunk({"content": missing}) if missing else b""
        shown = self._shown + missing
        delta: dict[str, Any] = {}
        if self._call.with_sources:
            reference = event.reference if isinstance(event, Done) else Reference()
            delta["reference"] = [chunk_wire(chunk) for chunk in reference.chunks]
            delta["final_content"] = event.answer if isinstance(event, Done) else shown
        return written + self._call.chunk(delta, finish="stop", usage=self._call.usage(len(shown)))


async def _whole(events: AsyncIterator[DialogEvent], call: _Call, chat: DialogRecord) -> dict[str, Any]:
    shape = AnswerShape(
        message_id=None,
        session_id=None,
        decorated=bool(chat.dataset_ids),
        fixed_when_empty=False,
        created_at=float(call.created),
    )
    try:
        answer = await answer_object(events, shape)
    except AnswerFailed as error:
        raise uncaught(failure_repr(error.event)) from error
    text = answer["answer"]
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if call.with_sources:
        message["reference"] = answer["reference"].get("chunks", [])
    details = {
        "reasoning_tokens": call.all_chars,
        "accepted_prediction_tokens": len(text),
        "rejected_prediction_tokens": 0,
    }
    return {
        "id": f"chatcmpl-{call.chat_id}",
        "object": "chat.completion",
        "created": call.created,
        "model": call.model,
        "usage": call.usage(len(text)) | {"completion_tokens_details": details},
        "choices": [{"message": message, "logprobs": None, "finish_reason": "stop", "index": 0}],
    }
