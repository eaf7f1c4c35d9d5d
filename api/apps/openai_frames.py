"""Typed events become OpenAI chunks: incremental, batched by arrival."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from typing import Final

from api.apps.openai_wire import Completion, FinishReason, call_deltas, failure
from api.apps.sse import OPENAI_END, dumps, openai_frame
from api.errors import DEFAULTS
from rag.core.errors import RagError
from rag.core.events import TERMINAL, DialogEvent, Done, Failed, Reasoning, Stopped, Token, Usage
from rag.core.types import Reference, TokenUsage, ToolCall

_NO_END: Final = "The server stopped before the end of the answer."
_STATUS_OF_CODE: Final = {kind.code: default.status for kind, default in DEFAULTS.items()}


class AnswerBroke(RagError):
    """The answer failed before anything was shown; `status` is the HTTP status that says so."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message, code=code)
        self.error_code = code
        self.status = _STATUS_OF_CODE.get(code, 500)


class Answer:
    """An answer as it grows."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self.thoughts = ""
        self.usage = TokenUsage(estimated=True)
        self.end: Done | Failed | Stopped | None = None

    def add(self, batch: Sequence[DialogEvent]) -> tuple[str, str]:
        """Take in a batch; the new text and the new reasoning of it."""
        said = thought = ""
        for event in batch:
            if isinstance(event, Token):
                said += event.text
            elif isinstance(event, Reasoning):
                thought += event.text
            elif isinstance(event, Usage):
                self.usage = event.usage
            elif isinstance(event, TERMINAL):
                self.end = event
        if said:
            self._parts.append(said)
        self.thoughts += thought
        return said, thought

    def append(self, text: str) -> None:
        """Add text that no event brought."""
        self._parts.append(text)

    @property
    def text(self) -> str:
        """All text so far."""
        self._parts = ["".join(self._parts)]
        return self._parts[0]

    @property
    def reference(self) -> Reference:
        return self.end.reference if isinstance(self.end, Done) else Reference()

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Calls of the client's tools."""
        return self.end.tool_calls if isinstance(self.end, Done) else ()

    @property
    def finish(self) -> FinishReason:
        if isinstance(self.end, Done) and self.end.truncated:
            return "length"
        return "tool_calls" if self.calls else "stop"

    def broken(self) -> AnswerBroke | None:
        """Why there is no whole answer, if there is none."""
        if isinstance(self.end, Failed):
            return AnswerBroke(self.end.message, self.end.code)
        if isinstance(self.end, Stopped):
            return AnswerBroke("The answer was stopped before its end.", "store_unavailable")
        if self.end is None:
            return AnswerBroke(_NO_END, "store_unavailable")
        return None


async def whole_answer(events: AsyncIterator[DialogEvent]) -> Answer:
    """The answer, once it has ended well.

    Raises:
        AnswerBroke: it failed or was stopped.
    """
    answer = Answer()
    async for event in events:
        answer.add((event,))
    broken = answer.broken()
    if broken is not None:
        raise broken
    return answer


class ChunkFrames:
    """Turns batches of events into the chunks of one completion."""

    def __init__(self, completion: Completion, *, include_usage: bool) -> None:
        self._completion = completion
        self._include_usage = include_usage
        self._content = self._around("content")
        self._thoughts = self._around("reasoning_content")
        self.answer = Answer()

    def feed(self, batch: Sequence[DialogEvent]) -> bytes:
        """The frames of this batch; may be empty."""
        text, thoughts = self.answer.add(batch)
        written = self._chunk(self._thoughts, thoughts) if thoughts else b""
        if text:
            written += self._chunk(self._content, text)
        return written + self._end() if self.answer.end is not None else written

    def _around(self, key: str) -> tuple[bytes, bytes]:
        """What stands before and after the text in each chunk; of all they hold, only the text changes."""
        written = openai_frame(self._completion.chunk({"role": "assistant", key: "~"}))
        before, _, after = written.rpartition(b'"~"')
        return before, after

    def _chunk(self, around: tuple[bytes, bytes], text: str) -> bytes:
        return around[0] + dumps(text) + around[1]

    def _end(self) -> bytes:
        answer = self.answer
        broken = answer.broken()
        if broken is not None:
            return error_frame(broken)
        assert isinstance(answer.end, Done)
        written = b""
        tail = answer.end.answer.removeprefix(answer.text)
        if tail and len(tail) < len(answer.end.answer) or not (answer.text or answer.calls):
            written += self._chunk(self._content, tail)
            answer.append(tail)
        written += b"".join(self._calls())
        sources = self._completion.sources(answer.text, answer.end.answer, answer.reference)
        # Marks that were put in after the text was streamed are only in this whole text.
        sources["final_content"] = answer.end.answer
        written += openai_frame(self._completion.chunk(sources, answer.finish))
        if self._include_usage:
            written += openai_frame(self._completion.usage_chunk(answer.usage))
        return written + OPENAI_END

    def _calls(self) -> Iterator[bytes]:
        """They come whole and at the end: only then are a call's id and arguments known for sure."""
        for index, call in enumerate(self.answer.calls):
            for told in call_deltas(index, call):
                yield openai_frame(self._completion.chunk({"role": "assistant", "tool_calls": [told]}))


def error_frame(error: AnswerBroke) -> bytes:
    """What a stream that has begun ends with when its answer breaks."""
    return openai_frame(failure(error.message, error.status, code=error.error_code)) + OPENAI_END


async def begin_chunks(
    batches: AsyncGenerator[Sequence[DialogEvent], None], completion: Completion, *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """The frames of a streamed completion, of which each batch makes one write. Waits for the first text, so that an
    answer which breaks before it can be told by the HTTP status. Ends with an error chunk where there is no last event.

    Raises:
        AnswerBroke: it broke before anything was to be shown.
        RagError: the source raised one.
    """
    frames = ChunkFrames(completion, include_usage=include_usage)
    try:
        async for batch in batches:
            first = frames.feed(batch)
            broken = frames.answer.broken() if frames.answer.end is not None else None
            if broken is not None and not frames.answer.text:
                raise broken
            if first:
                return _rest(first, batches, frames)
    except BaseException:
        await batches.aclose()
        raise
    raise AnswerBroke(_NO_END, "store_unavailable")


async def _rest(
    first: bytes, batches: AsyncGenerator[Sequence[DialogEvent], None], frames: ChunkFrames
) -> AsyncGenerator[bytes, None]:
    try:
        yield first
        async for batch in batches:
            written = frames.feed(batch)
            if written:
                yield written
        if frames.answer.end is None:
            yield error_frame(AnswerBroke(_NO_END, "store_unavailable"))
    except RagError as error:
        yield error_frame(AnswerBroke(error.message, error.code))
    finally:
        await batches.aclose()
