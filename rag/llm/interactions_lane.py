"""Chat models of Gemini through its Interactions API (revision 2026-05-20: `steps`), read by ourselves.

LiteLLM hands these replies on unread. `chat_transport: interactions` in conf/models.yaml turns it on for a provider.
Source: the API's OpenAPI types, and recorded replies.
"""

from collections.abc import Mapping
from typing import Any, Final

from rag.core.types import TokenUsage
from rag.llm.base import ChatRequest, Delta, ToolFragment
from rag.llm.chat_body import as_json, chat_body, is_big
from rag.llm.chat_reply import ended
from rag.llm.interactions_body import interactions_body
from rag.llm.token_usages import tokens_of
from rag.llm.tool_calls import ToolCallAssembler, signed_for
from rag.llm.upstream_lane import UpstreamLane

_REVISION: Final = "2026-05-20"
_FAILED: Final = ("failed", "cancelled")


class InteractionsLane(UpstreamLane):
    """ChatModel of Gemini's interactions. Nothing is stored at the provider: each request carries its history."""

    path = "/interactions"
    protocol = "Gemini's Interactions protocol"

    async def _body(self, request: ChatRequest) -> bytes:
        body = await chat_body(request, self.info, self._endpoint)
        asked = interactions_body(body, thinks=self.info.capabilities.reasoning)
        return await as_json(asked | {"model": self._endpoint.model, "stream": True}, big=is_big(request))

    def _reader(self) -> "InteractionsReader":
        return InteractionsReader(model=self.info.name)

    def _login(self) -> dict[str, str]:
        return {"x-goog-api-key": self._endpoint.api_key.get_secret_value(), "Api-Revision": _REVISION}

    def _failure(self, piece: dict[str, Any]) -> Any:
        if piece.get("error"):
            return piece["error"]
        told = _mapping(piece.get("interaction")) or piece
        return {"message": f"the interaction {told['status']}"} if told.get("status") in _FAILED else None


class InteractionsReader:
    """Reads the events of one reply. Steps that are Google's own tools are not told of."""

    def __init__(self, *, model: str = "") -> None:
        self._model = model
        self._calls = ToolCallAssembler()
        self._fragments: list[ToolFragment] = []
        self._steps: dict[Any, str] = {}
        self._signature = ""
        self._usage: TokenUsage | None = None
        self._status = ""

    @property
    def done(self) -> bool:
        return bool(self._status)

    @property
    def is_empty(self) -> bool:
        return not self._status and self._usage is None and not self._calls

    def read(self, piece: Mapping[str, Any]) -> tuple[str, str]:
        """(reasoning, text) that an event adds."""
        kind = piece.get("event_type")
        if kind == "step.start":
            return self._start(_mapping(piece.get("step")), piece.get("index"))
        if kind == "step.delta":
            return self._add(_mapping(piece.get("delta")), piece.get("index"))
        if kind == "interaction.completed":
            self._end(_mapping(piece.get("interaction")))
        return "", ""

    def read_whole(self, piece: Mapping[str, Any]) -> tuple[str, str] | None:
        """(reasoning, text) of a reply that was not streamed; None if `piece` is no reply."""
        steps = piece.get("steps")
        if not isinstance(steps, list):
            return None
        told = [self._start(_mapping(step), index) for index, step in enumerate(steps)]
        self._end(piece)
        return "".join(reasoning for reasoning, _ in told), "".join(text for _, text in told)

    def take_fragments(self) -> tuple[ToolFragment, ...]:
        """The pieces of tool calls since the last time."""
        found, self._fragments = tuple(self._fragments), []
        return found

    def last(self) -> list[Delta]:
        """The delta that ends the reply; without a status it was cut off."""
        finish = {"completed": "stop", "requires_action": "tool_calls", "incomplete": "length"}.get(self._status)
        calls = self._calls.calls(cut=finish in (None, "length"))
        calls = signed_for(self._model, calls)
        return [Delta(tool_calls=calls, usage=self._usage, finish=ended(finish or "cut_off", calls))]  # type: ignore[arg-type]

    def _start(self, step: Mapping[str, Any], index: Any) -> tuple[str, str]:
        """What a step that begins, or a whole one, says."""
        kind = self._steps[index] = str(step.get("type"))
        self._signature = _text(step.get("signature")) or self._signature
        if kind == "function_call":
            given = step.get("arguments")
            function: dict[str, Any] = {"name": step.get("name")} | ({"arguments": given} if given else {})
            call = {"index": index, "id": step.get("id"), "function": function}
            if self._signature:
                call["extra_content"] = {"google": {"thought_signature": self._signature}}
            self._fragments += self._calls.feed([call])
        if kind == "thought":
            return _texts(step.get("summary")), ""
        return "", _texts(step.get("content")) if kind == "model_output" else ""

    def _add(self, delta: Mapping[str, Any], index: Any) -> tuple[str, str]:
        kind = delta.get("type")
        if kind == "text" and self._steps.get(index) == "model_output":
            return "", _text(delta.get("text"))
        if kind == "thought_summary":
            return _texts([delta.get("content")]), ""
        if kind == "thought_signature":
            self._signature = _text(delta.get("signature"))
        elif kind == "arguments_delta":
            piece = {"index": index, "function": {"arguments": delta.get("arguments")}}
            self._fragments += self._calls.feed([piece])
        return "", ""

    def _end(self, interaction: Mapping[str, Any]) -> None:
        status = _text(interaction.get("status"))
        self._status = "" if status in ("in_progress", "queued") else status
        usage = _mapping(interaction.get("usage"))
        if usage:
            thinking = usage.get("total_thought_tokens")
            self._usage = TokenUsage(
                # What its own tools brought was read as well.
                prompt_tokens=tokens_of(usage.get("total_input_tokens"), usage.get("total_tool_use_tokens")),
                completion_tokens=tokens_of(usage.get("total_output_tokens"), thinking),
                cached_tokens=tokens_of(usage.get("total_cached_tokens")),
                reasoning_tokens=tokens_of(thinking),
            )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(content: object) -> str:
    parts = content if isinstance(content, list) else []
    return "".join(_text(_mapping(part).get("text")) for part in parts)
