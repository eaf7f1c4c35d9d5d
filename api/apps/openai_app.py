"""The OpenAI face: `/v1/models`, `/v1/chat/completions`, `/v1/embeddings`, with OpenAI's statuses and error bodies."""

import base64
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from functools import wraps
from typing import Any, Final

from quart import Blueprint, Response, request

from api.apps.auth import API_DOOR, Denial, NotAuthenticated, authenticate, marked
from api.apps.context import services, web_state
from api.apps.envelope import json_response, openai_error
from api.apps.openai_body import ChatBody, EmbeddingsBody, read
from api.apps.openai_frames import AnswerBroke, begin_chunks, error_frame, whole_answer
from api.apps.openai_models import answering, find_model, list_models
from api.apps.openai_wire import Completion
from api.apps.openapi import describe
from api.apps.sse import CRASHED, stream_response
from api.db.services.dialog_service import AskOptions, Sampling
from api.db.services.passing_turns import passing_turn
from api.db.services.records import DatasetRecord, DialogRecord
from api.errors import default_of
from rag.core.blocking import Lane, run_in
from rag.core.errors import InvalidInput, NotFound, RagError
from rag.core.events import DialogEvent
from rag.core.ids import new_id, new_message_id
from rag.core.types import Matrix, Principal

bp = Blueprint("openai", __name__)

_DENIALS: Final = {
    Denial.MISSING: "You didn't provide an API key: send it as `Authorization: Bearer <key>`.",
    Denial.MALFORMED: "Send the API key as `Authorization: Bearer <key>`.",
    Denial.UNKNOWN: "The API key is not known here, or was revoked.",
    Denial.WRONG_SCOPE: "This credential does not open the API: use an API key.",
    Denial.FOREIGN_ORIGIN: "Requests from other sites must carry an API key.",
}


def openai_route(view: Callable[..., Awaitable[Response]]) -> Callable[..., Awaitable[Response]]:
    """Give the view its Principal, and put every error into OpenAI's words."""

    @marked("api_key")
    @wraps(view)
    async def routed(**kwargs: Any) -> Response:
        try:
            return await view(await authenticate(API_DOOR), **kwargs)
        except NotAuthenticated as error:
            return openai_error(_DENIALS[error.denial], 401, code="invalid_api_key")
        except AnswerBroke as error:
            return openai_error(error.message, error.status, code=error.error_code)
        except RagError as error:
            return openai_error(
                error.message, default_of(error).status, code=error.code, param=error.facts.get("param")
            )

    return routed


def no_such_model(name: str) -> Response:
    return openai_error(f"The model {name!r} does not exist.", 404, code="model_not_found", param="model")


@bp.get("/v1/models")
@openai_route
@describe(tag="openai")
async def models(principal: Principal) -> Response:
    """List chats, datasets and embedding models as models."""
    return json_response({"object": "list", "data": await list_models(principal)})


@bp.get("/v1/models/<path:name>")
@openai_route
@describe(tag="openai")
async def model(principal: Principal, name: str) -> Response:
    """Look up one model."""
    try:
        return json_response(await find_model(principal, name))
    except NotFound:
        return no_such_model(name)


@bp.post("/v1/chat/completions")
@openai_route
@describe(request=ChatBody, tag="openai")
async def chat_completions(principal: Principal) -> Response:
    """Answer a conversation; citations are annotations of type `url_citation`."""
    body = await read(ChatBody)
    if body.chat_model and not services().models.exists(body.chat_model, "chat", principal.tenant_id):
        raise InvalidInput(f"There is no chat model {body.chat_model!r}.", param="chat_model")
    try:
        source = await answering(principal, body.model)
    except NotFound:
        return no_such_model(body.model)
    completion = Completion(
        id=f"chatcmpl-{new_id()}",
        created=int(services().clock.now().timestamp()),
        model=body.model,
        base_url=base_url(),
    )
    message_id = new_message_id()
    events = _events(principal, source, body, message_id)
    if body.stream:
        usage_wanted = body.stream_options is not None and body.stream_options.include_usage
        stopping = web_state().stopping
        batches = passing_turn(services().event_log, message_id, events, until=stopping)
        frames = await begin_chunks(batches, completion, include_usage=usage_wanted)
        return stream_response(frames, on_crash=error_frame(AnswerBroke(CRASHED, "internal")))
    answer = await whole_answer(events)
    assert answer.end is not None
    return json_response(
        completion.whole(
            answer.end.answer,
            answer.reference,
            answer.usage,
            finish=answer.finish,
            reasoning=answer.thoughts,
            calls=answer.calls,
        )
    )


def _events(
    principal: Principal, source: DialogRecord | DatasetRecord, body: ChatBody, message_id: str
) -> AsyncGenerator[DialogEvent, None]:
    dialogs = services().dialogs
    options = AskOptions(sampling=_sampling(body), form=body.form, speech=False)
    if isinstance(source, DatasetRecord):
        model = body.chat_model or ""
        return dialogs.ask(principal, (source.id,), body.turns, options, model=model, message_id=message_id)
    # A chat leaves system messages of the conversation out: its own come first, and those of the request follow.
    options = replace(options, wishes=body.wishes)
    chat = replace(source, llm_id=body.chat_model) if body.chat_model else source
    return dialogs.chat(principal, chat, body.turns, options=options, message_id=message_id)


def _sampling(body: ChatBody) -> Sampling | None:
    """What the request sets; None where it sets nothing, so that the chat's own settings hold."""
    asked = Sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stop=body.stops,
    )
    return None if asked == Sampling() else asked


def base_url() -> str:
    """Where clients reach this server, without a slash at the end."""
    public = services().settings.server.public_url
    return (public or f"{request.scheme}://{request.host}").rstrip("/")


@bp.post("/v1/embeddings")
@openai_route
@describe(request=EmbeddingsBody, tag="openai")
async def embeddings(principal: Principal) -> Response:
    """Embed texts."""
    body = await read(EmbeddingsBody)
    texts = body.texts
    catalogue = services().models
    try:
        bundle = catalogue.bundle_embed(body.model, tenant_id=principal.tenant_id, key_id=principal.key_id)
    except NotFound:
        return no_such_model(body.model)
    if body.dimensions is not None:
        dim = await catalogue.measure(bundle.name, principal.tenant_id, key_id=principal.key_id)
        if body.dimensions != dim:
            raise InvalidInput(
                f"{bundle.name} has {dim} dimensions, no fewer and no more: leave `dimensions` out.",
                param="dimensions",
            )
    embedded = await bundle.encode(texts)
    data = await run_in(Lane.MODEL, _vectors, embedded.vectors, body.encoding_format == "base64")
    usage = {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens}
    return json_response({"object": "list", "data": data, "model": body.model, "usage": usage})


def _vectors(vectors: Matrix, as_base64: bool) -> list[dict[str, Any]]:
    return [
        {
            "object": "embedding",
            "index": index,
            "embedding": (base64.b64encode(row.astype("<f4").tobytes()).decode() if as_base64 else row.tolist()),
        }
        for index, row in enumerate(vectors)
    ]
