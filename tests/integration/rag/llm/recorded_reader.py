"""What recorded replies are compared by, and what all readers of them share. The rules: `recorded_truth`."""

import json
from dataclasses import dataclass
from typing import Any

Event = dict[str, Any]
FINISH = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    # Anthropic and Bedrock
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "refusal": "content_filter",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    # Gemini
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    # Cohere
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "TOOL_CALL": "tool_calls",
}


@dataclass(frozen=True, kw_only=True)
class Usage:
    """`reasoning` is None where the provider does not count it: any estimate will do."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    written: int = 0
    reasoning: int | None = 0


@dataclass(frozen=True, kw_only=True)
class Call:
    id: str | None
    name: str
    arguments: Any


@dataclass(frozen=True, kw_only=True)
class Told:
    text: str = ""
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    usage: Usage | None = None
    finish: str = "cut_off"
    error: str = ""


class Reader:
    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.calls: dict[Any, dict[str, Any]] = {}
        self.usage: Usage | None = None
        self.finish = ""
        self.error = ""

    def event(self, event: Event) -> None:
        raise NotImplementedError

    def whole(self, reply: Event) -> None:
        raise NotImplementedError

    def call(self, key: Any, *, id: str | None, name: str, arguments: str = "") -> None:
        self.calls[key] = {"id": id, "name": name, "arguments": arguments}

    def told(self) -> Told:
        if self.error:
            return Told(text="".join(self.text), reasoning=bare("".join(self.reasoning)), error=self.error)
        calls = tuple(
            Call(id=call["id"], name=call["name"], arguments=_arguments(call["arguments"]))
            for call in self.calls.values()
        )
        finish = FINISH[self.finish] if self.finish else "cut_off"
        if finish in ("stop", "tool_calls"):
            finish = "tool_calls" if calls else "stop"
        return Told(
            text="".join(self.text),
            reasoning=bare("".join(self.reasoning)),
            calls=calls,
            usage=self.usage,
            finish=finish,
        )


def bare(reasoning: str) -> str:
    """Without its line breaks: how parts of thinking are set apart is the reader's affair."""
    return reasoning.replace("\n", "")


def _arguments(text: str) -> Any:
    """No arguments may be sent as nothing, as null or as an empty object."""
    return json.loads(text or "{}") or {}
