"""`/v1/conversation` (web.md section 7): the conversations of the page.

The original looks at no owner in completion, delete_msg and thumbup; here every id is looked up for who asks, and
what is another tenant's is not found, as what is not there.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from quart import Blueprint, Response, request

from api.apps import repr_texts
from api.apps.ask_models import AskKnowledge, RelatedTo
from api.apps.asking import ask_knowledge, refuse_map, relate
from api.apps.auth import login_required, share_required
from api.apps.body import LARGEST, raw_object, required
from api.apps.context import services, web_state
from api.apps.conversation_wire import (
    as_said,
    conversation_id_of,
    conversation_row,
    made_row,
    messages_of,
    sampling_of,
)
from api.apps.dialog_app import NOT_THE_OWNER
from api.apps.dialog_models import (
    Complete,
    ConversationIds,
    OneConversation,
    OneDialog,
    OneMessage,
    Rate,
    SetConversation,
)
from api.apps.dialog_wire import dialog_row
from api.apps.envelope import Refused, json_result, uncaught
from api.apps.openapi import describe
from api.apps.turn_wire import Batches, call_options, followed, turn_reply, turn_shape
from api.db.services.dialog_service import AskOptions, Sampling
from api.db.services.passing_turns import passing_turn
from api.db.services.records import ConversationRecord, DialogRecord, GivenMessage, Page
from api.db.services.turn_replacing import Replacement
from api.errors import BAD_ARGUMENT, DATA_ERROR, EXCEPTION, OPERATING_ERROR
from rag.core.errors import Conflict, InvalidInput, NotFound
from rag.core.ids import new_message_id
from rag.core.types import Principal, Turn

bp = Blueprint("conversation", __name__, url_prefix="/v1/conversation")

_NAME: Final = "New conversation"
_LONGEST_NAME: Final = 255
_SAMPLING_KEYS: Final = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "max_tokens")
_OWN_KEYS: Final = frozenset(
    {"conversation_id", "messages", "stream", "llm_id", "quote", "doc_ids", "kb_ids", *_SAMPLING_KEYS}
)
_IGNORED: Final = frozenset(
    {"conversation_id", "is_new", "id", "reference", "create_time", "create_date", "update_time", "update_date"}
)


@bp.post("/set")
@login_required
@describe(request=SetConversation, tag="page")
async def set_conversation(principal: Principal) -> Response:
    """Open a conversation with a chat, or change one."""
    body = await raw_object(null=repr_texts.NULL_HAS_NO_GET)
    if "is_new" not in body:
        raise uncaught(repr_texts.missing("is_new"))
    return await (_make if body["is_new"] else _change)(principal, body)


async def _make(principal: Principal, body: dict[str, Any]) -> Response:
    name = body.get("name") or _NAME
    if not isinstance(name, str):
        raise uncaught(repr_texts.wrong_type("name must be text", name))
    wanted = conversation_id_of(body.get("conversation_id"))
    try:
        made = await services().conversations.create(
            principal,
            str(body.get("dialog_id") or ""),
            name=name[:_LONGEST_NAME],
            user_id=principal.user_id,
            session_id=wanted,
            auto_title=not body.get("name"),
        )
    except NotFound as error:
        raise Refused(DATA_ERROR, "Dialog not found") from error
    except InvalidInput as error:
        raise Refused(DATA_ERROR, error.message) from error
    except Conflict as error:
        message, data = repr_texts.taken_id("conversation", wanted)
        raise Refused(EXCEPTION, message, data=data) from error
    return json_result(made_row(made))


async def _change(principal: Principal, body: dict[str, Any]) -> Response:
    stored = await _own(principal, str(body.get("conversation_id") or ""))
    changes = {key: value for key, value in body.items() if key not in _IGNORED}
    _check_columns(changes, stored, body)
    texts = {key: str(changes[key])[:_LONGEST_NAME] for key in ("name", "user_id") if changes.get(key) is not None}
    try:
        row = await services().conversations.update(principal, stored.dialog_id, stored.id, texts)
    except InvalidInput as error:
        raise Refused(DATA_ERROR, error.message) from error
    return json_result(conversation_row(row))


def _check_columns(changes: dict[str, Any], stored: ConversationRecord, body: dict[str, Any]) -> None:
    """Columns that follow from others are taken where they say what is stored."""
    for key in changes.keys() - {"name", "user_id"}:
        if key == "dialog_id" and changes[key] == stored.dialog_id:
            continue
        if key == "message" and changes[key] == conversation_row(stored)["message"]:
            continue
        if key in ("dialog_id", "message"):
            raise Refused(BAD_ARGUMENT, f"`{key}` can not be change", data=None)
        raise uncaught(repr_texts.unknown_field(key, body))


@bp.get("/get")
@login_required
@describe(query=OneConversation, tag="page")
async def get_conversation(principal: Principal) -> Response:
    """A conversation with its messages and their sources."""
    session = await _own(principal, request.args["conversation_id"])
    chat = await _chat(principal, session)
    return json_result(conversation_row(session) | {"avatar": chat.icon})


@bp.get("/getsse/<chat_id>")
@share_required
@describe(tag="page")
async def get_shared_dialog(principal: Principal, chat_id: str) -> Response:
    """A chat, for who has a share token of its tenant; without the key of its web search."""
    try:
        chat = await services().assistants.get(principal, chat_id)
    except NotFound as error:
        raise Refused(DATA_ERROR, "Dialog not found!") from error
    prompt = {key: value for key, value in chat.prompt_config.items() if key != "tavily_api_key"}
    row = dialog_row(replace(chat, prompt_config=prompt))
    row["avatar"] = row.pop("icon")
    return json_result(row)


@bp.get("/list")
@login_required
@describe(query=OneDialog, tag="page")
async def list_conversations(principal: Principal) -> Response:
    """The conversations of a chat, the newest first."""
    try:
        found = await services().conversations.list(principal, request.args["dialog_id"], Page(size=LARGEST))
    except NotFound as error:
        raise Refused(OPERATING_ERROR, NOT_THE_OWNER, data=False) from error
    return json_result([conversation_row(each) for each in found])


@bp.post("/rm")
@login_required
@describe(request=ConversationIds, tag="page")
async def delete_conversations(principal: Principal) -> Response:
    """Delete conversations one by one; those before an unknown one stay deleted."""
    body = await raw_object()
    if "conversation_ids" not in body:
        raise uncaught(repr_texts.missing("conversation_ids"))
    ids = body["conversation_ids"]
    if not isinstance(ids, Iterable):
        raise uncaught(repr_texts.not_iterable(ids))
    for each in ids:
        session = await _own(principal, str(each))
        await services().conversations.delete(principal, session.dialog_id, [session.id])
    return json_result(True)


@bp.post("/completion")
@login_required
@describe(request=Complete, tag="page")
async def complete_conversation(principal: Principal) -> Response:
    """Answer the last of `messages`; the answer is streamed unless `stream` is false."""
    body = await required("conversation_id", "messages")
    messages = messages_of(body["messages"])
    session = await _own(principal, str(body["conversation_id"]))
    messages = as_said(messages, session)
    chat = await _chat(principal, session)
    model = body.get("llm_id") or ""
    if model and not (isinstance(model, str) and services().models.exists(model, "chat", principal.tenant_id)):
        raise Refused(DATA_ERROR, f"Cannot use specified model {model}.")
    sampling = sampling_of(body)
    options = await call_options(principal, body, _OWN_KEYS)
    message_id = messages[-1].message_id or new_message_id()
    if model:
        options = replace(options, model=model, sampling=sampling, own_sampling=True)
        batches = _passing(principal, chat, messages, options)
    else:
        options = replace(options, sampling=None if sampling == Sampling() else sampling)
        batches = await _kept(principal, session, messages, options, message_id=message_id)
    shape = turn_shape(chat, options, message_id=message_id, session_id=session.id, with_message=True)
    return await turn_reply(batches, shape, streamed=bool(body.get("stream", True)), whole=json_result)


def _passing(principal: Principal, chat: DialogRecord, messages: list[GivenMessage], options: AskOptions) -> Batches:
    """The answer of another model for once; nothing is stored."""
    stream = new_message_id()
    said = [each for each in messages[:-1] if each.content or each.role == "user"]
    turns = tuple(Turn(role=each.role, content=each.content) for each in (*said, messages[-1]))
    while turns[0].role == "assistant":
        turns = turns[1:]
    events = services().dialogs.chat(principal, chat, turns, options=options, message_id=stream)
    return passing_turn(services().event_log, stream, events, until=web_state().stopping)


async def _kept(
    principal: Principal,
    session: ConversationRecord,
    messages: list[GivenMessage],
    options: AskOptions,
    *,
    message_id: str,
) -> Batches:
    """The answer to the last of `messages`, which take the place of the stored ones."""
    conversations = services().conversations
    turn = await conversations.begin_turn(
        principal,
        session.dialog_id,
        session.id,
        messages[-1].content,
        options=options,
        message_id=message_id,
        replacement=Replacement.of(session, messages[:-1]),
    )
    return followed(conversations.follow(principal, session.dialog_id, session.id, turn.message_id))


@bp.post("/ask")
@login_required
@describe(request=AskKnowledge, tag="page")
async def ask_page(principal: Principal) -> Response:
    """Ask datasets; the answer is streamed and not stored."""
    return await ask_knowledge(principal, await required("question", "kb_ids"))


@bp.post("/mindmap")
@login_required
@describe(request=AskKnowledge, tag="page")
async def map_page(principal: Principal) -> Response:
    """Not supported."""
    refuse_map(await required("question", "kb_ids"))


@bp.post("/related_questions")
@login_required
@describe(request=RelatedTo, tag="page")
async def relate_page(principal: Principal) -> Response:
    """Questions that may come next after a question."""
    return await relate(principal, await required("question"))


@bp.post("/delete_msg")
@login_required
@describe(request=OneMessage, tag="page")
async def delete_message(principal: Principal) -> Response:
    """Delete a question with its answer; an id that is not there changes nothing."""
    body = await required("conversation_id", "message_id")
    session = await _own(principal, str(body["conversation_id"]))
    try:
        session = await services().conversations.delete_pair(
            principal, session.dialog_id, session.id, str(body["message_id"])
        )
    except NotFound as error:
        _only_message(error)
    return json_result(conversation_row(session))


@bp.post("/thumbup")
@login_required
@describe(request=Rate, tag="page")
async def rate_message(principal: Principal) -> Response:
    """Say whether an answer was good; an id that is not there changes nothing."""
    body = await required("conversation_id", "message_id")
    session = await _own(principal, str(body["conversation_id"]))
    up, feedback = bool(body.get("thumbup")), body.get("feedback") or ""
    if not isinstance(feedback, str):
        raise uncaught(repr_texts.wrong_type("feedback must be text", feedback))
    try:
        session = await services().conversations.rate(
            principal,
            session.dialog_id,
            session.id,
            str(body["message_id"]),
            up=up,
            feedback="" if up else feedback,
        )
    except NotFound as error:
        _only_message(error)
    return json_result(conversation_row(session))


def _only_message(error: NotFound) -> None:
    """Return if it is the message that is not there.

    Raises:
        Refused: 102, the conversation or its chat was deleted a moment ago.
    """
    if error.kind == "message":
        return
    raise Refused(DATA_ERROR, "Dialog not found!" if error.kind == "chat" else "Conversation not found!") from error


async def _own(principal: Principal, conversation_id: str) -> ConversationRecord:
    try:
        return await services().conversations.find(principal, conversation_id)
    except NotFound as error:
        raise Refused(DATA_ERROR, "Conversation not found!") from error


async def _chat(principal: Principal, session: ConversationRecord) -> DialogRecord:
    try:
        return await services().assistants.get(principal, session.dialog_id)
    except NotFound as error:
        raise Refused(DATA_ERROR, "Dialog not found!") from error
