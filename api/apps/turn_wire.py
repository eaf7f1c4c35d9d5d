"""One call of a chat: what its body sets, and how its answer is written (sessions.md sections 4 and 5)."""

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from typing import Any, Final

from quart import Response, request

from api.apps import repr_texts
from api.apps.answer_wire import (
    AnswerFailed,
    AnswerShape,
    answer_frames,
    answer_object,
    crash_frames,
    failure_repr,
)
from api.apps.body import as_object, raw
from api.apps.context import services
from api.apps.envelope import Refused, uncaught
from api.apps.sdk.chat_wire import check_name
from api.apps.sdk.session import DEFAULT_NAME
from api.apps.sse import frame, stream_response
from api.db.services.conversation_service import Batch
from api.db.services.dialog_service import AskOptions
from api.db.services.records import ConversationRecord, DialogRecord
from api.errors import DATA_ERROR
from rag.core.errors import NotFound
from rag.core.events import DialogEvent
from rag.core.types import Principal

Batches = AsyncGenerator[Sequence[DialogEvent], None]

OWN_KEYS: Final = frozenset({"question", "session_id", "stream", "name", "user_id", "quote", "doc_ids", "kb_ids"})
"""What a call says besides the values of the prompt's variables."""


async def call_body() -> dict[str, Any]:
    """The body of a call. An empty one, and one that is not JSON, ask the empty question in a new session."""
    if not await request.get_data():
        return {"question": ""}
    value = await raw()
    return as_object(value) if value else {"question": ""}


def question_of_call(body: dict[str, Any]) -> str:
    """The question of a call in a session.

    Raises:
        Refused: 100, there is none, or it is no text.
    """
    if "question" not in body:
        raise uncaught(repr_texts.NO_QUESTION)
    question = body["question"]
    if not isinstance(question, str):
        raise uncaught(repr_texts.wrong_type("question must be str", question))
    return question


async def new_session(principal: Principal, chat: DialogRecord, body: dict[str, Any]) -> ConversationRecord:
    """The session that a call opens which names none."""
    name = check_name(body.get("name") or DEFAULT_NAME)
    user_id = str(body.get("user_id") or "")
    return await services().conversations.create(principal, chat.id, name=name, user_id=user_id)


async def call_options(
    principal: Principal, body: dict[str, Any], own_keys: Collection[str], *, quote: bool = True
) -> AskOptions:
    """What a call changes. Datasets that are added must be the principal's own.

    Args:
        own_keys: The keys of the route; the others are values of the prompt's variables.
        quote: What holds where the body does not say.
    Raises:
        Refused: 100, a value of a wrong type; 102, a dataset that is not the principal's.
    """
    documents = body.get("doc_ids") or ""
    listed = documents.split(",") if isinstance(documents, str) else documents
    if not isinstance(listed, list):
        raise uncaught(repr_texts.lacks(listed, "split"))
    datasets = body.get("kb_ids") or []
    if not isinstance(datasets, list):
        raise uncaught(repr_texts.not_iterable(datasets))
    named = tuple(dict.fromkeys(str(each) for each in datasets))
    for dataset_id in named:
        try:
            await services().knowledgebases.get(principal, dataset_id)
        except NotFound as error:
            raise Refused(DATA_ERROR, f"You don't own the dataset {dataset_id}") from error
    return AskOptions(
        quote=bool(body.get("quote", quote)),
        document_ids=tuple(str(each).strip() for each in listed if str(each).strip()),
        dataset_ids=named,
        variables={key: value for key, value in body.items() if key not in own_keys},
    )


def turn_shape(
    chat: DialogRecord, options: AskOptions, *, message_id: str, session_id: str, with_message: bool = False
) -> AnswerShape:
    """How an answer of `chat` is written. It is decorated where there is something to cite: datasets, or the web."""
    prompt = chat.prompt_config
    return AnswerShape(
        message_id=message_id,
        session_id=session_id,
        decorated=bool(chat.dataset_ids or options.dataset_ids or prompt.get("tavily_api_key")),
        fixed_when_empty=bool(prompt.get("empty_response")),
        created_at=services().clock.now().timestamp(),
        with_message=with_message,
    )


async def turn_reply(
    batches: Batches, shape: AnswerShape, *, streamed: bool, whole: Callable[[dict[str, Any]], Response]
) -> Response:
    """The reply to a call: frames, or the answer put into `whole`.

    Raises:
        Refused: 100, an answer that is not streamed failed for no fault of its model.
    """
    if streamed:
        on_crash = crash_frames(with_message=shape.with_message)
        return stream_response(answer_frames(batches, shape), on_crash=on_crash)
    try:
        return whole(await answer_object(_one_by_one(batches), shape))
    except AnswerFailed as error:
        raise uncaught(failure_repr(error.event)) from error


async def followed(batches: AsyncGenerator[Batch, None]) -> Batches:
    """The events of an answer that is followed in its session."""
    async with aclosing(batches):
        async for batch in batches:
            yield batch.events


def opener_frame(session: ConversationRecord) -> bytes:
    """What is sent where a session was opened: the chat's first message."""
    data: dict[str, Any] = {
        "answer": session.messages[0].content if session.messages else "",
        "reference": {},
        "audio_binary": None,
        "id": None,
        "session_id": session.id,
    }
    return frame({"code": 0, "message": "", "data": data})


async def _one_by_one(batches: Batches) -> AsyncGenerator[DialogEvent, None]:
    async with aclosing(batches):
        async for batch in batches:
            for event in batch:
                yield event
