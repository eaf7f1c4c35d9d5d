"""Chat models of Cohere (its chat, version 2), read by ourselves.

LiteLLM 1.106.2 reads its streams only without the framing of server-sent events, and leaves out thinking, plans for
tools and cached tokens.
"""

from collections.abc import Mapping
from typing import Any, Final

from rag.core.types import TokenUsage
from rag.llm.base import ChatRequest, Delta, Finish, ToolFragment
from rag.llm.chat_body import as_json, chat_body, is_big
from rag.llm.chat_reply import ended
from rag.llm.token_usages import tokens_of
from rag.llm.tool_calls import ToolCallAssembler
from rag.llm.upstream_lane import UpstreamLane

_FINISH: Final[dict[str, Finish]] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": "content_filter",
}
"""Any other reason is a failure of the provider's."""
_RENAMED: Final = {"top_p": "p", "stop": "stop_sequences", "max_completion_tokens": "max_tokens"}


class CohereLane(UpstreamLane):
    """ChatModel of Cohere."""

    path = "/v2/chat"
    protocol = "Cohere's chat protocol"

    async def _body(self, request: ChatRequest) -> bytes:
        body = await chat_body(request, self.info, self._endpoint)
        return await as_json(cohere_body(body) | {"model": self._endpoint.model, "stream": True}, big=is_big(request))

    def _reader(self) -> "CohereReader":
        return CohereReader()

    def _failure(self, piece: dict[str, Any]) -> Any:
        if "message" in piece and not isinstance(piece["message"], dict):
            return {"message": piece["message"]}
        return piece.get("error")


def cohere_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """A request in the form of OpenAI's chat completions as Cohere takes it."""
    found = {_RENAMED.get(name, name): value for name, value in body.items()}
    for name in ("stream_options", "parallel_tool_calls"):
        found.pop(name, None)
    choice = found.pop("tool_choice", None)
    if choice in ("required", "none"):
        found["tool_choice"] = choice.upper()  # Left out, it is free.
    schema = (found.get("response_format") or {}).get("json_schema")
    if schema:
        found["response_format"] = {"type": "json_object", "json_schema": schema["schema"]}
    return found


class CohereReader:
    """Reads the events of one reply. A model's plan for its tools is reasoning."""

    def __init__(self) -> None:
        self._calls = ToolCallAssembler()
        self._fragments: list[ToolFragment] = []
        self._usage: TokenUsage | None = None
        self._finish: str | None = None

    @property
    def done(self) -> bool:
        return self._finish is not None

    @property
    def is_empty(self) -> bool:
        return self._finish is None and self._usage is None and not self._calls

    def read(self, piece: Mapping[str, Any]) -> tuple[str, str]:
        """(reasoning, text) that an event adds."""
        delta = _mapping(piece.get("delta"))
        message = _mapping(delta.get("message"))
        calls = message.get("tool_calls")
        if isinstance(calls, Mapping):
            self._fragments += self._calls.feed([{**calls, "index": piece.get("index")}])
        if piece.get("type") == "message-end":
            self._end(delta)
            return "", ""
        content = _mapping(message.get("content"))
        return _text(content.get("thinking")) + _text(message.get("tool_plan")), _text(content.get("text"))

    def read_whole(self, piece: Mapping[str, Any]) -> tuple[str, str] | None:
        """(reasoning, text) of a reply that was not streamed; None if `piece` is no reply."""
        message = piece.get("message")
        if not isinstance(message, Mapping):
            return None
        parts = [_mapping(part) for part in message.get("content") or ()]
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            self._fragments += self._calls.feed(calls, whole=True)
        self._end(piece)
        reasoning = _text(message.get("tool_plan")) + "".join(_text(part.get("thinking")) for part in parts)
        return reasoning, "".join(_text(part.get("text")) for part in parts)

    def take_fragments(self) -> tuple[ToolFragment, ...]:
        """The pieces of tool calls since the last time."""
        found, self._fragments = tuple(self._fragments), []
        return found

    def last(self) -> list[Delta]:
        """The delta that ends the reply; without a finish reason it was cut off."""
        finish = _FINISH.get(self._finish or "", "cut_off")
        calls = self._calls.calls(cut=finish in ("cut_off", "length"))
        return [Delta(tool_calls=calls, usage=self._usage, finish=ended(finish, calls))]

    def _end(self, told: Mapping[str, Any]) -> None:
        reason = told.get("finish_reason")
        self._finish = reason if isinstance(reason, str) else None
        usage = _mapping(told.get("usage"))
        # `tokens` is what the model read and wrote; `billed_units` leaves Cohere's own preamble out.
        tokens = _mapping(usage.get("tokens")) or _mapping(usage.get("billed_units"))
        if tokens:
            self._usage = TokenUsage(
                prompt_tokens=tokens_of(tokens.get("input_tokens")),
                completion_tokens=tokens_of(tokens.get("output_tokens")),
                cached_tokens=tokens_of(usage.get("cached_tokens")),
            )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
