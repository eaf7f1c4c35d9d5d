"""Questions to datasets without a chat, as the contract streams them (sessions.md section 9): the text so far with
every piece of the model's, then the answer with its citations, then the end frame."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final

from quart import Response

from api.apps.answer_wire import (
    END_FRAME_WITH_MESSAGE,
    Transcript,
    error_frame,
    failed_text,
    failure_text,
    is_model_failure,
)
from api.apps.context import services, web_state
from api.apps.envelope import Refused
from api.apps.sse import CRASHED, frame, stream_response
from api.apps.wire_reference import EMPTY_REFERENCE, reference_wire
from api.db.services.passing_turns import passing_turn
from api.db.services.records import DatasetRecord
from api.errors import DATA_ERROR, OPERATING_ERROR
from rag.core.errors import NotFound, RagError
from rag.core.events import DialogEvent, Done, Failed, Reasoning, Stopped, Token
from rag.core.ids import new_message_id
from rag.core.types import Principal, Reference, Turn

NOT_THE_OWNER: Final = "Only owner of knowledgebase authorized for this operation."
STOPPING: Final = "The server is stopping. Ask again in a moment."
_CRASH: Final = error_frame(CRASHED) + END_FRAME_WITH_MESSAGE


def not_supported(what: str) -> Refused:
    """Code 102 for what the contract has and this server has not, to be raised."""
    return Refused(DATA_ERROR, f"{what} not supported here.")


def refuse_search_app(body: dict[str, Any]) -> None:
    """Search apps keep settings for a question; there are none here.

    Raises:
        Refused: 102, the body names one.
    """
    if body.get("search_id"):
        raise not_supported("`search_id` is")


async def own_datasets(principal: Principal, ids: Iterable[Any]) -> list[DatasetRecord]:
    """The datasets of these ids, each once.

    Raises:
        Refused: 103, one is not the principal's.
    """
    try:
        return [await services().knowledgebases.get(principal, each) for each in dict.fromkeys(map(str, ids))]
    except NotFound as error:
        raise Refused(OPERATING_ERROR, NOT_THE_OWNER, data=False) from error


def answer_from(principal: Principal, dataset_ids: Sequence[str], question: str) -> Response:
    """The streamed answer to `question` from datasets that are known to be the principal's. Nothing is stored."""
    message_id = new_message_id()
    turns = (Turn(role="user", content=question),)
    events = services().dialogs.ask(principal, dataset_ids, turns, message_id=message_id)
    batches = passing_turn(services().event_log, message_id, events, until=web_state().stopping)
    return stream_response(ask_frames(batches), on_crash=_CRASH)


async def ask_frames(batches: AsyncGenerator[Sequence[DialogEvent], None]) -> AsyncGenerator[bytes, None]:
    """The frames of an answer, its end frame included."""
    said = Transcript()
    try:
        async with aclosing(batches):
            async for batch in batches:
                written, ended = _frames(batch, said)
                if ended:
                    yield written + END_FRAME_WITH_MESSAGE
                    return
                if written:
                    yield written
    except RagError as error:
        yield error_frame(error.message) + END_FRAME_WITH_MESSAGE
        return
    yield error_frame(STOPPING) + END_FRAME_WITH_MESSAGE


def _frames(batch: Sequence[DialogEvent], said: Transcript) -> tuple[bytes, bool]:
    written = []
    for event in batch:
        said.add(event)
        if isinstance(event, Token | Reasoning):
            written.append(_frame(said.text(), {}))
        elif isinstance(event, Done | Failed | Stopped):
            return b"".join((*written, _last(event, said))), True
    return b"".join(written), False


def _last(event: Done | Failed | Stopped, said: Transcript) -> bytes:
    match event:
        case Done(answer=answer, reference=reference):
            return _frame(said.thinking() + answer, _full(reference))
        case Failed() if is_model_failure(event):
            return _frame(said.thinking() + failed_text(event), EMPTY_REFERENCE)
        case Failed():
            return error_frame(failure_text(event))
        case Stopped(answer=answer):
            return _frame(said.thinking() + answer, EMPTY_REFERENCE)


def _full(reference: Reference) -> dict[str, Any]:
    return reference_wire(reference) or EMPTY_REFERENCE


def _frame(answer: str, reference: dict[str, Any]) -> bytes:
    return frame({"code": 0, "message": "", "data": {"answer": answer, "reference": reference}})
