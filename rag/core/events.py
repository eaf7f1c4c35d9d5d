"""What a running answer says, as typed events.

`dialog_service.chat` yields them, the event log numbers and keeps them, `api/apps` turns them into frames.
Order: Started, RetrievalStarted?, RetrievalFinished?, (Token | Reasoning | ToolArguments | ToolStarted | ToolFinished |
RetrievalFinished)*, Cited?, Usage?, then exactly one of Done, Failed, Stopped. Spoken comes anywhere after its text;
out of a dialog also after Done, which says at once that the text is complete. In the log the last event is the end.
Where searches are planned, Reasoning, ToolStarted and ToolFinished come between RetrievalStarted and RetrievalFinished.
"""

from dataclasses import dataclass, field

from rag.core.types import Reference, TokenUsage, ToolCall


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    message_id: str
    session_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalStarted:
    question: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalFinished:
    """`reference` numbers the sources once; later events only point into it. It comes again when a tool has found more:
    what was numbered before is the same, and new sources follow."""

    reference: Reference
    timings_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """New text of the answer (an increment, never empty)."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reasoning:
    """New text of the model's thinking (an increment, never empty)."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolArguments:
    """A piece of a call's arguments while the model writes them (JSON text, an increment), where that is switched on.
    `index` counts the calls of one reply from 0; `name` comes with the first piece."""

    index: int
    text: str
    name: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolStarted:
    """The model calls tool `name` with `arguments` (JSON text); `call_id` joins it to its `ToolFinished`."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolFinished:
    """The tool ended. `error` says in words why it failed, else empty; `duration_ms` is wall-clock time."""

    call_id: str
    name: str
    error: str = ""
    duration_ms: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoken:
    """The next piece of the answer's speech: an MP3 that follows on the one before. A log keeps the event of an answer
    that has ended, for its number, and forgets the audio."""

    audio: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cited:
    """The whole answer after citation marks were checked, and its sources."""

    answer: str
    reference: Reference


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    model: str
    usage: TokenUsage


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """The answer is complete. `prompt` is what the model was given, for the debug view. `dropped_turns` counts the
    oldest turns of the conversation that the model had no room for. `timings_ms` is what each step took, by name.
    `tool_calls` are of the client's own tools: it runs them, and asks again with what they gave."""

    answer: str
    reference: Reference
    prompt: str = ""
    created_at: float = 0.0
    truncated: bool = False
    dropped_turns: int = 0
    timings_ms: dict[str, float] = field(default_factory=dict)
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """The answer ended with an error; `answer` is the text shown before it."""

    code: str
    message: str
    answer: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopped:
    """Somebody stopped the answer; `answer` is the text shown before."""

    answer: str
    reason: str = "stopped"


DialogEvent = (
    Started
    | RetrievalStarted
    | RetrievalFinished
    | Token
    | Reasoning
    | ToolArguments
    | ToolStarted
    | ToolFinished
    | Spoken
    | Cited
    | Usage
    | Done
    | Failed
    | Stopped
)
TERMINAL = (Done, Failed, Stopped)
