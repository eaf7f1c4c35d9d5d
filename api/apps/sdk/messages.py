"""Our own routes on the messages of a session: send, read, ask anew, edit, delete, rate.

They answer in the SDK's shape with real HTTP statuses. An answer is followed and stopped by the routes beside
completions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from quart import Blueprint, Response, request

from api.apps.auth import api_key_required
from api.apps.body import own
from api.apps.context import services
from api.apps.envelope import Refused, sdk_result
from api.apps.openapi import describe
from api.apps.sdk.dataset_models import error_line
from api.apps.sdk.message_models import EditMessage, RateMessage, SendMessage, TurnQuery, Wishes
from api.apps.sdk.message_wire import turn_wire
from api.db.services.conversation_service import TurnHandle
from api.db.services.dialog_service import AskOptions
from api.errors import BAD_ARGUMENT, default_of
from rag.core.errors import RagError
from rag.core.types import Principal

bp = Blueprint("messages", __name__)
M = TypeVar("M", bound=BaseModel)
_MOST_LINES = 20
_MESSAGES = "/api/v1/chats/<chat_id>/sessions/<session_id>/messages"


@contextmanager
def own_errors() -> Iterator[None]:
    """Errors of the services in the SDK's shape, with the status that fits."""
    try:
        yield
    except RagError as error:
        status = default_of(error).status
        code = BAD_ARGUMENT if status == 400 else status
        raise Refused(code, error.message, status=status) from error


@bp.post(_MESSAGES)
@api_key_required
@describe(request=SendMessage, tag="sessions")
async def send(principal: Principal, chat_id: str, session_id: str) -> Response:
    """Save a question and begin its answer, which goes on whoever follows it."""
    body = await _body(SendMessage)
    options = await _options(principal, body)
    with own_errors():
        turn = await services().conversations.begin_turn(
            principal, chat_id, session_id, body.question, options=options, message_id=body.message_id
        )
    return _begun(turn)


@bp.get(f"{_MESSAGES}/<message_id>")
@api_key_required
@describe(query=TurnQuery, tag="sessions")
async def read(principal: Principal, chat_id: str, session_id: str, message_id: str) -> Response:
    """A question and its answer: text, sources, model, usage, cost, and what each step took."""
    with own_errors():
        turn = await services().conversations.turn(principal, chat_id, session_id, message_id)
    return sdk_result(turn_wire(turn, debug=request.args.get("debug") in ("true", "1")))


@bp.post(f"{_MESSAGES}/<message_id>/regenerate")
@api_key_required
@describe(request=Wishes, tag="sessions")
async def regenerate(principal: Principal, chat_id: str, session_id: str, message_id: str) -> Response:
    """Ask the same question again. A new pair takes the place of this one; all later ones are removed."""
    body = await _body(Wishes)
    options = None if body.says_nothing else await _options(principal, body)
    with own_errors():
        turn = await services().conversations.regenerate(principal, chat_id, session_id, message_id, options=options)
    return _begun(turn)


@bp.post(f"{_MESSAGES}/<message_id>/edit")
@api_key_required
@describe(request=EditMessage, tag="sessions")
async def edit(principal: Principal, chat_id: str, session_id: str, message_id: str) -> Response:
    """Ask another question in the place of this one; all later pairs are removed."""
    body = await _body(EditMessage)
    options = None if body.says_nothing else await _options(principal, body)
    with own_errors():
        turn = await services().conversations.edit(
            principal, chat_id, session_id, message_id, body.question, options=options
        )
    return _begun(turn)


@bp.delete(f"{_MESSAGES}/<message_id>")
@api_key_required
@describe(tag="sessions")
async def delete(principal: Principal, chat_id: str, session_id: str, message_id: str) -> Response:
    """Delete a question and its answer, which is stopped if it runs."""
    with own_errors():
        await services().conversations.delete_pair(principal, chat_id, session_id, message_id)
    return sdk_result()


@bp.post(f"{_MESSAGES}/<message_id>/rate")
@api_key_required
@describe(request=RateMessage, tag="sessions")
async def rate(principal: Principal, chat_id: str, session_id: str, message_id: str) -> Response:
    """Say whether an answer was good, and why."""
    body = await _body(RateMessage)
    with own_errors():
        await services().conversations.rate(
            principal, chat_id, session_id, message_id, up=body.up, feedback=body.feedback
        )
    return sdk_result()


async def _body(model: type[M]) -> M:
    """The body as `model`; none counts as an empty object.

    Raises:
        Refused: 101, it is not JSON; or one line per error.
    """
    value = await own()
    try:
        return model.model_validate(value)
    except ValidationError as error:
        lines = [error_line(each["loc"], each["msg"], each["input"]) for each in error.errors(include_url=False)]
        raise Refused(BAD_ARGUMENT, "\n".join(lines[:_MOST_LINES]), status=400) from error


async def _options(principal: Principal, body: Wishes) -> AskOptions:
    """Datasets that are added must be the principal's own."""
    with own_errors():
        for dataset_id in dict.fromkeys(body.dataset_ids):
            await services().knowledgebases.get(principal, dataset_id)
    return body.options()


def _begun(turn: TurnHandle) -> Response:
    data: dict[str, Any] = {"message_id": turn.message_id, "session_id": turn.session_id, "status": "generating"}
    return sdk_result(data)
