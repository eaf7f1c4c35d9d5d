"""`/api/v1/chats/<chat>/sessions`: create, list, update, delete (sessions.md section 3)."""

from typing import Any

from quart import Blueprint, Response

from api.apps import repr_texts
from api.apps.auth import api_key_required
from api.apps.body import arg, ids_of, raw, raw_object, unknown_column
from api.apps.context import services
from api.apps.envelope import sdk_result, uncaught
from api.apps.openapi import describe
from api.apps.sdk.chat_models import ListQuery, SessionFields
from api.apps.sdk.chat_wire import check_name
from api.apps.sdk.doc_models import Ids
from api.apps.sdk.lists import deleted, page_of_request, refused
from api.apps.sdk.session_wire import session_wire
from rag.core.blocking import Lane, run_in
from rag.core.errors import InvalidInput, NotFound
from rag.core.types import Principal

bp = Blueprint("sessions", __name__)

DEFAULT_NAME = "New session"
_MANY_MESSAGES = 500
"""Lists of more are put together in a thread: they would hold the event loop."""
_KEPT_COLUMNS = ("id", "chat_id", "dialog_id", "create_time", "create_date", "update_time", "update_date")


async def check_chat(principal: Principal, chat_id: str, text: str) -> None:
    """Refuse with `text` if there is no such chat of the principal."""
    try:
        await services().assistants.get(principal, chat_id)
    except NotFound as error:
        raise refused(text) from error


@bp.post("/api/v1/chats/<chat_id>/sessions")
@api_key_required
@describe(request=SessionFields, tag="sessions")
async def create_session(principal: Principal, chat_id: str) -> Response:
    """Open a session with a chat."""
    body = await raw_object(null=repr_texts.NULL_NOT_ASSIGNABLE)
    await check_chat(principal, chat_id, "You do not own the assistant.")
    name = body.get("name", DEFAULT_NAME)
    if not name:
        raise refused("`name` can not be empty.")
    session = await services().conversations.create(
        principal, chat_id, name=check_name(name), user_id=str(body.get("user_id") or "")
    )
    return sdk_result(session_wire(session, folded=False))


@bp.get("/api/v1/chats/<chat_id>/sessions")
@api_key_required
@describe(query=ListQuery, tag="sessions")
async def list_sessions(principal: Principal, chat_id: str) -> Response:
    """List the sessions of a chat with their messages."""
    await check_chat(principal, chat_id, f"You don't own the assistant {chat_id}.")
    page = page_of_request()
    try:
        sessions = await services().conversations.list(
            principal, chat_id, page, id=arg("id"), name=arg("name"), user_id=arg("user_id")
        )
    except InvalidInput:
        unknown_column("Conversation")

    def listed() -> list[dict[str, Any]]:
        return [session_wire(session, folded=True) for session in sessions]

    many = sum(len(session.messages) for session in sessions) > _MANY_MESSAGES
    return sdk_result(await run_in(Lane.TEXT, listed) if many else listed())


@bp.put("/api/v1/chats/<chat_id>/sessions/<session_id>")
@api_key_required
@describe(request=SessionFields, tag="sessions")
async def update_session(principal: Principal, chat_id: str, session_id: str) -> Response:
    """Rename a session."""
    body = await raw_object(null=repr_texts.NULL_NOT_ASSIGNABLE)
    try:
        await services().conversations.get(principal, chat_id, session_id)
    except NotFound as error:
        text = "You do not own the session" if error.kind == "chat" else "Session does not exist"
        raise refused(text) from error
    changes = _changes(body)
    try:
        await services().conversations.update(principal, chat_id, session_id, changes)
    except NotFound as error:
        raise refused("Session updates error") from error
    return sdk_result()


def _changes(body: dict[str, Any]) -> dict[str, Any]:
    if "message" in body or "messages" in body:
        raise refused("`message` can not be change")
    if "reference" in body:
        raise refused("`reference` can not be change")
    changes = {}
    if "name" in body:
        if not body["name"]:
            raise refused("`name` can not be empty.")
        changes["name"] = check_name(body["name"])
    if body.get("user_id") is not None:
        changes["user_id"] = str(body["user_id"])
    if "llm_id" in body:
        if not isinstance(body["llm_id"], str):
            raise refused("`llm_id` must be a text.")
        changes["llm_id"] = body["llm_id"]
    for key in body:
        if key not in ("name", "user_id", "llm_id", *_KEPT_COLUMNS):
            raise uncaught(repr_texts.unknown_field(key, body))
    return changes


@bp.delete("/api/v1/chats/<chat_id>/sessions")
@api_key_required
@describe(request=Ids, tag="sessions")
async def delete_sessions(principal: Principal, chat_id: str) -> Response:
    """Delete sessions; without ids, all of the chat."""
    await check_chat(principal, chat_id, "You don't own the chat")
    ids = ids_of(await raw(), "ids")
    result = await services().conversations.delete(principal, chat_id, ids)
    return deleted(
        result,
        unknown=lambda each: f"The chat doesn't own the session {each}",
        duplicate=lambda each: f"Duplicate session ids: {each}",
    )
