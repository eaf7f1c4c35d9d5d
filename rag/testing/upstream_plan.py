"""How a reply of the fault-injecting upstream goes, and what the upstream keeps of a request."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from rag.core.types import ToolCall

Fault = Literal[
    "none",
    "status",
    "reset_connect",
    "reset_headers",
    "reset_midway",
    "hang_before",
    "hang_midway",
    "cut_before",
    "cut_midway",
    "no_finish",
    "garbage",
    "not_a_provider",
    "error_in_stream",
    "whole_reply",
]
"""`reset_*` end the connection with a TCP reset, `cut_*` close it, `hang_*` say no more. `garbage` is JSON that is cut
short, in a stream or in a whole reply."""

MIDWAY: tuple[Fault, ...] = (
    "reset_midway",
    "hang_midway",
    "cut_midway",
    "garbage",
    "error_in_stream",
    "no_finish",
)


@dataclass(kw_only=True)
class Plan:
    """How one reply goes. `after` pieces have been sent when a fault in the middle strikes."""

    tokens: Sequence[str] = ("Hello", ", ", "world", ".")
    reasoning: Sequence[str] = ()
    tool_calls: Sequence[ToolCall] = ()
    """Sent after the text; `finish` is then "tool_calls" unless it was set."""
    tools_first: bool = False
    """Send `tool_calls`, and no text, only where the request offers tools and does not end with a tool's result;
    any other request gets the text alone."""
    arguments_split: int = 0
    """Characters of arguments in each piece; 0 sends them whole."""
    tool_index: Literal["right", "missing", "same"] = "right"
    """`missing` leaves the index away, `same` gives all calls the first one's."""
    interleaved: bool = False
    """Pieces of the calls' arguments take turns."""
    echo: bool = False
    """Say the words of the last user turn instead of `tokens`."""
    fault: Fault = "none"
    status: int = 500
    retry_after: str | None = None
    error: dict[str, Any] = field(default_factory=lambda: {"message": "upstream says no", "type": "server_error"})
    after: int = 2
    first_wait_s: float = 0.0
    wait_s: float = 0.0
    usage: bool = True
    usage_twice: bool = False
    """A first, smaller figure comes before the last one."""
    prompt_tokens: int = 11
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    finish: str = "stop"
    """As chat completions name it; the other formats send what they call it."""
    content_type: str = ""
    """Instead of the right one."""
    long_line_bytes: int = 0
    """The first piece is a line of about so many bytes, most of them in a field that nobody reads."""
    dim: int = 8
    """Of embeddings."""
    rows: Literal["right", "shuffled", "one_short"] = "right"
    """Of embeddings: in another order than asked, each with its index, or fewer than asked."""
    raw: bytes | None = None
    split: int = 0
    """Raw bytes are sent as they are; `split` > 0 sends any stream in pieces of that many bytes."""

    @property
    def finish_reason(self) -> str:
        return "tool_calls" if self.tool_calls and self.finish == "stop" else self.finish

    @property
    def completion_tokens(self) -> int:
        return len(self.tokens) + len(self.reasoning) + len(self.tool_calls)

    def as_json(self) -> dict[str, Any]:
        """For `POST /control`; `plan_of` is its inverse."""
        raw = None if self.raw is None else base64.b64encode(self.raw).decode("ascii")
        return asdict(self) | {"raw": raw}


def plan_of(data: Mapping[str, Any]) -> Plan:
    """The plan that `Plan.as_json` wrote; missing fields have their defaults.

    Raises:
        ValueError: a field that plans do not have.
    """
    unknown = sorted(set(data) - {each.name for each in fields(Plan)})
    if unknown:
        raise ValueError(f"A plan has no {', '.join(map(repr, unknown))}.")
    values = dict(data)
    if values.get("raw") is not None:
        values["raw"] = base64.b64decode(values["raw"])
    values["tool_calls"] = tuple(ToolCall(**call) for call in values.get("tool_calls") or ())
    return Plan(**values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One event of a stream. `head` events open a format's envelope: no fault strikes and no time passes at them."""

    data: dict[str, Any]
    event: str = ""
    head: bool = False


@dataclass(frozen=True, kw_only=True)
class Seen:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ArgumentPiece:
    """`first` pieces open the call number `index`; `last` ones end it."""

    index: int
    call: ToolCall
    text: str
    first: bool = False
    last: bool = False


def argument_pieces(plan: Plan) -> list[ArgumentPiece]:
    """The arguments of all calls, cut and ordered as the plan says."""
    cut = [_cut(index, call, plan.arguments_split) for index, call in enumerate(plan.tool_calls)]
    if not plan.interleaved:
        return [piece for pieces in cut for piece in pieces]
    longest = max((len(pieces) for pieces in cut), default=0)
    return [pieces[turn] for turn in range(longest) for pieces in cut if turn < len(pieces)]


def _cut(index: int, call: ToolCall, size: int) -> list[ArgumentPiece]:
    texts = [call.arguments]
    if size > 0 and call.arguments:
        texts = [call.arguments[start : start + size] for start in range(0, len(call.arguments), size)]
    end = len(texts) - 1
    return [
        ArgumentPiece(index=index, call=call, text=text, first=number == 0, last=number == end)
        for number, text in enumerate(texts)
    ]


def shown_index(plan: Plan, index: int) -> int | None:
    """The index that a piece of the call carries; None for none at all."""
    return {"right": index, "missing": None, "same": 0}[plan.tool_index]
