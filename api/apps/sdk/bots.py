"""Chat bots and search bots: what a share token opens (sessions.md section 10). It opens chats and datasets of its own
tenant; sessions that are made with it are kept apart from the tenant's own, and out of each other's way by ids that
nobody can guess."""

from collections.abc import AsyncIterator
from typing import Any

from quart import Blueprint, Response

from api.apps import repr_texts
from api.apps.answer_wire import END_FRAME_WITH_MESSAGE, crash_frames, error_frame
from api.apps.ask_models import AskKnowledge, RelatedTo, RetrievalTest, SearchApp, ShareAsk
from api.apps.ask_wire import not_supported
from api.apps.asking import ask_knowledge, refuse_map, relate
from api.apps.auth import marked, share_required
from api.apps.body import required
from api.apps.context import services
from api.apps.envelope import sdk_result, uncaught
from api.apps.openapi import describe
from api.apps.retrieval_test import search_datasets
from api.apps.sdk.lists import refused
from api.apps.sse import stream_response
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
from api.db.services.records import ConversationRecord
from rag.core.errors import NotFound
from rag.core.types import Principal

bp = Blueprint("bots", __name__, url_prefix="/api/v1")


@bp.get("/chatbots/<chat_id>/info")
@share_required
@describe(tag="bots")
async def chatbot_info(principal: Principal, chat_id: str) -> Response:
    """Name, picture and first message of a chat."""
    try:
        chat = await services().assistants.get(principal, chat_id)
    except NotFound as error:
        raise refused(f"Can't find dialog by ID: {chat_id}") from error
    opener = str(chat.prompt_config.get("prologue") or "")
    return sdk_result({"title": chat.name, "avatar": chat.icon, "prologue": opener})


@bp.post("/chatbots/<chat_id>/completions")
@share_required
@describe(request=ShareAsk, tag="bots")
async def chatbot_complete(principal: Principal, chat_id: str) -> Response:
    """Ask in a session of a chat bot; the answer is streamed unless `stream` is false."""
    body = await call_body()
    streamed, session_id = bool(body.get("stream", True)), body.get("session_id")
    try:
        chat = await services().assistants.get(principal, chat_id)
        if not session_id:
            return _opened(await new_session(principal, chat, body), streamed=streamed)
        session = await services().conversations.get(principal, chat.id, str(session_id))
    except NotFound as error:
        return _broken("Dialog not found" if error.kind == "chat" else "Session not found!", streamed=streamed)
    question = question_of_call(body)
    options = await call_options(principal, body, OWN_KEYS, quote=False)
    conversations = services().conversations
    turn = await conversations.begin_turn(principal, chat.id, session.id, question, options=options)
    shape = turn_shape(chat, options, message_id=turn.message_id, session_id=session.id, with_message=True)
    batches = followed(conversations.follow(principal, chat.id, session.id, turn.message_id))
    return await turn_reply(batches, shape, streamed=streamed, whole=sdk_result)


def _opened(session: ConversationRecord, *, streamed: bool) -> Response:
    """What is said where a session was opened: the frame, which is the text of an answer that is not streamed (a
    quirk)."""
    opener = opener_frame(session)
    return _stream_of(opener + END_FRAME_WITH_MESSAGE) if streamed else sdk_result(opener.decode())


def _broken(text: str, *, streamed: bool) -> Response:
    """An assertion of the original. Its stream breaks there; ours says why, and ends."""
    if streamed:
        return _stream_of(error_frame(text) + END_FRAME_WITH_MESSAGE)
    raise uncaught(repr_texts.failed_check(text))


def _stream_of(frames: bytes) -> Response:
    async def written() -> AsyncIterator[bytes]:
        yield frames

    return stream_response(written(), on_crash=crash_frames(with_message=True))


@bp.post("/searchbots/ask")
@marked("share")
@describe(request=AskKnowledge, tag="bots")
async def searchbot_ask() -> Response:
    """Ask datasets; the answer is streamed and not stored."""
    # The contract looks for these before it looks at the token.
    body = await required("question", "kb_ids")
    reply: Response = await _asked(body)
    return reply


@share_required
async def _asked(principal: Principal, body: dict[str, Any]) -> Response:
    return await ask_knowledge(principal, body)


@bp.post("/searchbots/retrieval_test")
@share_required
@describe(request=RetrievalTest, tag="bots")
async def searchbot_retrieval(principal: Principal) -> Response:
    """Search datasets; the best chunks first."""
    return await search_datasets(principal, await required("kb_id", "question"))


@bp.post("/searchbots/related_questions")
@share_required
@describe(request=RelatedTo, tag="bots")
async def searchbot_related(principal: Principal) -> Response:
    """Questions that may come next after a question."""
    return await relate(principal, await required("question"))


@bp.post("/searchbots/mindmap")
@share_required
@describe(request=AskKnowledge, tag="bots")
async def searchbot_mindmap(principal: Principal) -> Response:
    """Not supported."""
    refuse_map(await required("question", "kb_ids"))


@bp.get("/searchbots/detail")
@share_required
@describe(query=SearchApp, tag="bots")
async def searchbot_detail(principal: Principal) -> Response:
    """Not supported."""
    raise not_supported("Search apps are")
