"""Asking in a session, and following the answer (sessions.md sections 4 and 5; the two routes below the message
are our own)."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Final

from quart import Blueprint, Response, request

from api.apps.answer_wire import END_FRAME_WITH_MESSAGE, crash_frames
from api.apps.auth import api_key_required
from api.apps.context import services
from api.apps.envelope import Refused, sdk_result
from api.apps.openapi import describe
from api.apps.sdk.chat_models import Ask, FollowQuery
from api.apps.sdk.lists import refused
from api.apps.sse import (
    CRASHED,
    HEARTBEAT,
    HEARTBEAT_S,
    OPENING,
    dumps,
    event_payload,
    named_frame,
    stream_response,
)
from api.apps.turn_wire import (
    OWN_KEYS,
    call_body,
    call_options,
    followed,
    new_session,
    opener_frame,
    question_of_call,
    turn_reply,
    turn_shape,
)
from api.db.services.conversation_service import Batch
from api.db.services.dialog_service import AskOptions
from api.db.services.records import ConversationRecord, DialogRecord
from api.errors import BAD_ARGUMENT, NOT_FOUND
from rag.core.errors import NotFound
from rag.core.types import Principal

bp = Blueprint("completions", __name__)

_PIECE_BYTES: Final = 32 << 10
_CRASH_EVENT: Final = b"event: failed\ndata: %b\n\n" % dumps({"code": "internal", "message": CRASHED, "answer": ""})


@bp.post("/api/v1/chats/<chat_id>/completions")
@api_key_required
@describe(request=Ask, tag="sessions")
async def complete(principal: Principal, chat_id: str) -> Response:
    """Ask in a session; the answer is streamed unless `stream` is false."""
    body = await call_body()
    try:
        chat = await services().assistants.get(principal, chat_id)
    except NotFound as error:
        raise refused(f"You don't own the chat {chat_id}") from error
    streamed = bool(body.get("stream", True))
    session_id = body.get("session_id")
    if not session_id:
        session = await new_session(principal, chat, body)
        if streamed:
            return stream_response(_opened(session), on_crash=crash_frames())
        # Without a session the question is discarded and the empty one answered (a quirk).
        body["question"] = ""
    else:
        session = await _session(principal, chat, str(session_id))
    question = question_of_call(body)
    return await _answer(
        principal, chat, session, question, await call_options(principal, body, OWN_KEYS), streamed=streamed
    )


async def _session(principal: Principal, chat: DialogRecord, session_id: str) -> ConversationRecord:
    try:
        return await services().conversations.get(principal, chat.id, session_id)
    except NotFound as error:
        raise refused(f"You don't own the session {session_id}") from error


async def _opened(session: ConversationRecord) -> AsyncIterator[bytes]:
    yield opener_frame(session) + END_FRAME_WITH_MESSAGE


async def _answer(
    principal: Principal,
    chat: DialogRecord,
    session: ConversationRecord,
    question: str,
    options: AskOptions,
    *,
    streamed: bool,
) -> Response:
    conversations = services().conversations
    turn = await conversations.begin_turn(principal, chat.id, session.id, question, options=options)
    shape = turn_shape(chat, options, message_id=turn.message_id, session_id=session.id)
    batches = followed(conversations.follow(principal, chat.id, session.id, turn.message_id))
    return await turn_reply(batches, shape, streamed=streamed, whole=sdk_result)


@bp.get("/api/v1/chats/<chat_id>/sessions/<session_id>/messages/<message_id>/events")
@api_key_required
@describe(query=FollowQuery, tag="sessions")
async def follow(principal: Principal, chat_id: str, session_id: str, message_id: str) -> Response:
    """The events of an answer, past ones first: increments with ids, names and heartbeats.

    `Last-Event-ID`, or `after` in the query, leaves out what was read before.
    """
    text = request.headers.get("Last-Event-ID") or request.args.get("after") or "0"
    if not text.isascii() or not text.isdigit():
        raise Refused(BAD_ARGUMENT, "Last-Event-ID must be the id of an event of this answer.", status=400)
    conversations = services().conversations
    await _check_message(principal, chat_id, session_id, message_id)
    batches = conversations.follow(principal, chat_id, session_id, message_id, after=int(text[:15]), idle_s=HEARTBEAT_S)
    return stream_response(_event_frames(batches), on_crash=_CRASH_EVENT)


async def _check_message(principal: Principal, chat_id: str, session_id: str, message_id: str) -> None:
    try:
        await services().conversations.check(principal, chat_id, session_id, message_id)
    except NotFound as error:
        raise Refused(NOT_FOUND, error.message, status=404) from error


async def _event_frames(batches: AsyncGenerator[Batch, None]) -> AsyncGenerator[bytes, None]:
    # The server sends the head of a response with its first bytes: a reader should not wait for the first event.
    yield OPENING
    async with aclosing(batches):
        async for batch in batches:
            for written in _in_pieces(batch):
                yield written


def _in_pieces(batch: Batch) -> Iterator[bytes]:
    """The frames of a batch, some at a time: of one that a slow reader left to grow, no copy as long as the answer is
    made for each such reader."""
    written: list[bytes] = []
    size = 0
    for number, event in enumerate(batch.events, batch.first_id):
        written.append(named_frame(number, *event_payload(event)))
        size += len(written[-1])
        if size >= _PIECE_BYTES:
            yield b"".join(written)
            written, size = [], 0
    if written or not batch.events:
        yield b"".join(written) or HEARTBEAT


@bp.post("/api/v1/chats/<chat_id>/sessions/<session_id>/messages/<message_id>/stop")
@api_key_required
@describe(tag="sessions")
async def stop(principal: Principal, chat_id: str, session_id: str, message_id: str) -> Response:
    """End an answer and keep its text. An answer that has ended is left as it is."""
    await _check_message(principal, chat_id, session_id, message_id)
    await services().conversations.stop_turn(principal, chat_id, session_id, message_id)
    return sdk_result()
