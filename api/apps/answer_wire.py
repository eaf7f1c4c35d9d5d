"""The contract's answers: typed events become cumulative frames, or one object.

A frame is written at once for the first text, then each time at least 16 new tokens arrived, then for the
rest. Where datasets are attached a final frame carries the answer with its citations; where none are, the
last partial frame is the answer.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from api.apps import repr_texts
from api.apps.sse import CRASHED, frame
from api.apps.wire_reference import EMPTY_REFERENCE, reference_wire
from rag.core.errors import RagError
from rag.core.events import (
    Cited,
    DialogEvent,
    Done,
    Failed,
    Reasoning,
    RetrievalFinished,
    Spoken,
    Stopped,
    Token,
)

CADENCE_TOKENS: Final = 16
MISSING_VARIABLE: Final = "Miss parameter: "
_BYTES_PER_TOKEN: Final = 4
_KEY_HINT: Final = " Please set LLM API-Key in 'User Setting -> Model providers -> API-Key'"

END_FRAME: Final = frame({"code": 0, "data": True})
END_FRAME_WITH_MESSAGE: Final = frame({"code": 0, "message": "", "data": True})


def crash_frames(*, with_message: bool = False) -> bytes:
    """How a stream ends after a defect."""
    return error_frame(CRASHED) + end_frame(with_message=with_message)


def end_frame(*, with_message: bool) -> bytes:
    """The last frame of a route whose frames carry a `message`, or do not."""
    return END_FRAME_WITH_MESSAGE if with_message else END_FRAME


class AnswerFailed(RagError):
    """An answer that failed for another reason than its model; `code` is that of the error it ended with."""

    def __init__(self, event: Failed) -> None:
        super().__init__(event.message, code=event.code)
        self.event = event


def error_frame(text: str) -> bytes:
    """The frame of an answer that could not be given; the end frame follows it."""
    data = {"answer": "**ERROR**: " + text, "reference": []}
    return frame({"code": 500, "message": text, "data": data})


def failed_text(event: Failed) -> str:
    """What the contract shows where a model failed: the text so far, then the reason."""
    reason = f"**ERROR**: {event.message}"
    shown = f"{event.answer}\n{reason}" if event.answer else reason
    if any(hint in shown.lower() for hint in ("invalid key", "invalid api")):
        shown += _KEY_HINT
    return shown


def failure_text(event: Failed) -> str:
    """What the contract says where something else failed; a missing variable stands in quotes there."""
    return repr(event.message) if event.message.startswith(MISSING_VARIABLE) else event.message


def shown_texts(event: Failed) -> tuple[str, str]:
    """What a client may have put down as the answer that ended so."""
    return failed_text(event), f"**ERROR**: {failure_text(event)}"


def failure_repr(event: Failed) -> str:
    """The same where the answer is not streamed: the repr of the original's exception."""
    is_variable = event.message.startswith(MISSING_VARIABLE)
    return repr_texts.missing(event.message) if is_variable else repr_texts.failed_lookup(event.message)


def is_model_failure(event: Failed) -> bool:
    return event.code.startswith("model_")


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerShape:
    """What decides the shape of an answer on the wire.

    `decorated`: datasets are attached, so a final frame with citations follows the partial ones.
    `fixed_when_empty`: the chat has an `empty_response`, sent as a single frame when nothing was found.
    `with_message`: every frame carries `"message": ""`, as all routes but one have it.
    """

    message_id: str | None
    session_id: str | None
    decorated: bool
    fixed_when_empty: bool
    created_at: float
    with_message: bool = False

    def frame(self, data: dict[str, Any]) -> bytes:
        """The frame that carries `data`."""
        return frame({"code": 0, "message": "", "data": data} if self.with_message else {"code": 0, "data": data})


class Transcript:
    """The cumulative text of an answer. Reasoning comes first, in `<think>` marks."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._thoughts: list[str] = []
        self.new_tokens = 0
        self.empty = True
        self.found_nothing = False
        self._audio: list[bytes] = []

    def add(self, event: DialogEvent) -> None:
        match event:
            case Token(text=text):
                self._parts.append(text)
                self._count(text)
            case Reasoning(text=text):
                self._thoughts.append(text)
                self._count(text)
            case RetrievalFinished(reference=reference):
                self.found_nothing = not reference.chunks
            case Spoken(audio=audio):
                self._audio.append(audio)

    def _count(self, text: str) -> None:
        # A model's increment is one token or several; four bytes a token is near enough for a cadence.
        self.new_tokens += max(1, len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN)
        self.empty = False

    @property
    def has_audio(self) -> bool:
        return bool(self._audio)

    def take_audio(self) -> str | None:
        """The audio since the last time, in hex; None if there is none."""
        audio, self._audio = b"".join(self._audio), []
        return audio.hex() or None

    def text(self) -> str:
        self._parts = ["".join(self._parts)]
        return self.thinking() + self._parts[0]

    def thinking(self) -> str:
        if not self._thoughts:
            return ""
        self._thoughts = ["".join(self._thoughts)]
        return f"<think>{self._thoughts[0]}</think>"


class AnswerFrames:
    """Turns batches of events into the contract's frames for one answer."""

    def __init__(self, shape: AnswerShape) -> None:
        self._shape = shape
        self._said = Transcript()
        self._begun = False

    def feed(self, batch: Sequence[DialogEvent]) -> bytes:
        """The frames this batch calls for, ready to be written; may be empty."""
        written = b""
        for event in batch:
            self._said.add(event)
            if isinstance(event, Done | Failed | Stopped):
                return written + self._partial_if_due(rest=True) + self._last(event)
            if isinstance(event, Cited):
                written += self._partial_if_due(rest=True)
        return written + self._partial_if_due()

    def _holds_back(self) -> bool:
        return self._shape.fixed_when_empty and self._said.found_nothing

    def _partial_if_due(self, *, rest: bool = False) -> bytes:
        said = self._said
        due = said.has_audio or said.new_tokens >= (1 if rest or not self._begun else CADENCE_TOKENS)
        if not due or self._holds_back():
            return b""
        said.new_tokens = 0
        self._begun = True
        data: dict[str, Any] = {
            "answer": said.text(),
            "reference": {"chunks": []},
            "audio_binary": said.take_audio(),
            "id": self._shape.message_id,
            "session_id": self._shape.session_id,
        }
        if not self._shape.decorated:
            data |= {"prompt": "", "created_at": self._shape.created_at}
        return self._shape.frame(data)

    def _last(self, event: Done | Failed | Stopped) -> bytes:
        if isinstance(event, Failed) and not is_model_failure(event):
            return error_frame(failure_text(event))
        answer = final_answer(event, self._said, self._shape)
        same = answer["answer"] == self._said.text() and self._begun
        if same and not self._shape.decorated:
            return b""
        if not self._holds_back():
            answer.pop("audio_binary")
        return self._shape.frame(answer)


def final_answer(event: Done | Failed | Stopped, said: Transcript, shape: AnswerShape) -> dict[str, Any]:
    """`data` of the final frame, and of the answer that is not streamed."""
    reference: dict[str, Any] = {}
    prompt = ""
    created_at = shape.created_at
    match event:
        case Done():
            text = said.thinking() + event.answer
            reference = reference_wire(event.reference)
            if shape.fixed_when_empty and said.found_nothing:
                reference = EMPTY_REFERENCE
            prompt = event.prompt
            created_at = event.created_at or created_at
        case Failed():
            text = said.thinking() + failed_text(event)
        case Stopped():
            text = said.thinking() + event.answer
    return {
        "answer": text,
        "reference": reference,
        "audio_binary": said.take_audio(),
        "prompt": prompt,
        "created_at": created_at,
        "id": shape.message_id,
        "session_id": shape.session_id,
    }


async def answer_frames(
    batches: AsyncGenerator[Sequence[DialogEvent], None], shape: AnswerShape
) -> AsyncGenerator[bytes, None]:
    """The frames of a streamed answer, its end frame included; each batch makes one write at the most."""
    frames = AnswerFrames(shape)
    try:
        async for batch in batches:
            written = frames.feed(batch)
            if written:
                yield written
    except RagError as error:
        yield error_frame(str(error))
    finally:
        await batches.aclose()
    yield end_frame(with_message=shape.with_message)


async def answer_object(events: AsyncIterator[DialogEvent], shape: AnswerShape) -> dict[str, Any]:
    """The answer that is not streamed.

    Raises:
        AnswerFailed: it failed for another reason than its model.
    """
    said = Transcript()
    async for event in events:
        said.add(event)
        if isinstance(event, Failed) and not is_model_failure(event):
            raise AnswerFailed(event)
        if isinstance(event, Done | Failed | Stopped):
            return final_answer(event, said, shape)
    raise AnswerFailed(Failed(code="internal", message="The answer ended without a result."))
