"""A reply in the form of OpenAI's chat completions, read piece by piece as deltas."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from rag.core.types import TokenUsage, ToolCall
from rag.llm.base import Delta, Finish, ToolFragment
from rag.llm.reasoning import ThinkSplitter
from rag.llm.token_usages import token_usage
from rag.llm.tool_calls import ToolCallAssembler, signed_for

_FINISH: Final[dict[str, Finish]] = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
    "safety": "content_filter",
    "sensitive": "content_filter",
    # The provider itself broke off: OpenRouter, DeepSeek, Zhipu, vLLM and SGLang.
    "error": "cut_off",
    "insufficient_system_resource": "cut_off",
    "network_error": "cut_off",
    "abort": "cut_off",
}
"""Finish reasons in lower case; any other one is a `stop`."""


class DeltaReader:
    """Turns the parsed JSON pieces of one reply into deltas. Whole replies take the same path.

    Nearly all pieces hold one string of text, so `read` looks at that first.
    """

    def __init__(self, *, model: str = "") -> None:
        self._model = model
        self._think = ThinkSplitter()
        self._calls = ToolCallAssembler()
        self._fragments: list[ToolFragment] = []
        self._thinking: list[dict[str, Any]] = []
        self.usage: TokenUsage | None = None
        self.finish: str | None = None
        self.done = False
        """Always false: usage may come after the finish reason, so only `[DONE]` or the connection ends the reply."""

    def read(self, piece: dict[str, Any]) -> tuple[str, str]:
        """(reasoning, text) that `piece` adds; usage, finish reason and tool calls are kept.

        Raises:
            ModelBadOutput: more tool calls than a reply may hold.
        """
        usage = piece.get("usage")
        if usage:
            self._note_usage(usage)
        choices = piece.get("choices")
        # `dict`, not `Mapping`: the check of an abstract class costs as much as all else here.
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return "", ""
        choice = choices[0]
        if choice.get("finish_reason"):
            self._note_end(piece, choice)
        delta = choice.get("delta") or choice.get("message")
        if not isinstance(delta, dict):
            return "", ""
        content = delta.get("content")
        reasoning = ""
        if not content or len(delta) > (2 if "role" in delta else 1):
            reasoning, content = self._read_more(delta, content, whole="message" in choice)
            if not content:
                return reasoning, ""
        if not isinstance(content, str):
            thought, content = _parts(content)
            reasoning += thought
        inline, text = self._think.feed(content)
        return reasoning + inline, text

    def read_whole(self, piece: dict[str, Any]) -> tuple[str, str] | None:
        """(reasoning, text) of a reply that was not streamed; None if `piece` is no reply."""
        return self.read(piece) if isinstance(piece.get("choices"), list) else None

    def take_fragments(self) -> tuple[ToolFragment, ...]:
        """The pieces of tool calls since the last time."""
        if not self._fragments:
            return ()
        found, self._fragments = tuple(self._fragments), []
        return found

    def last(self) -> list[Delta]:
        """The deltas that end the reply; without a finish reason it was cut off."""
        reasoning, text = self._think.finish()
        finish: Finish = _FINISH.get(self.finish.lower(), "stop") if self.finish else "cut_off"
        calls = self._calls.calls(cut=finish in ("cut_off", "length"))
        calls = signed_for(self._model, self._with_thinking(calls))
        found = [Delta(reasoning=reasoning, text=text)] if reasoning or text else []
        return [*found, Delta(tool_calls=calls, usage=self.usage, finish=ended(finish, calls))]

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all was said of the reply's end or its tool calls."""
        return self.finish is None and self.usage is None and not self._calls

    def _note_usage(self, usage: object) -> None:
        """Of figures that are sent more than once the last ones count: they are running totals, not shares."""
        if isinstance(usage, Mapping):
            self.usage = token_usage(usage)

    def _note_end(self, piece: Mapping[str, Any], choice: Mapping[str, Any]) -> None:
        reason = choice["finish_reason"]
        self.finish = reason if isinstance(reason, str) else "stop"
        self._note_usage(choice.get("usage"))  # Moonshot
        groq = piece.get("x_groq")
        if isinstance(groq, Mapping) and not piece.get("usage"):
            self._note_usage(groq.get("usage"))

    def _read_more(self, delta: Mapping[str, Any], content: Any, *, whole: bool) -> tuple[str, Any]:
        """(reasoning, content) of a piece that may hold more than text. A `whole` message numbers its calls by place,
        deltas do by index or id."""
        calls, call = delta.get("tool_calls"), delta.get("function_call")
        if isinstance(calls, list) and calls:
            self._fragments += self._calls.feed(calls, whole=whole)
        elif isinstance(call, Mapping):
            self._fragments += self._calls.feed([{"index": 0, "function": call}])
        blocks = delta.get("thinking_blocks")
        if isinstance(blocks, list):
            self._note_thinking(blocks)
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        refusal = delta.get("refusal")
        return thought if isinstance(thought, str) else "", content or (refusal if isinstance(refusal, str) else "")

    def _note_thinking(self, blocks: list[Any]) -> None:
        """Anthropic's thinking as LiteLLM tells it: text by pieces, then a signature that ends the block."""
        for block in blocks:
            if not isinstance(block, Mapping):
                continue
            last = self._thinking[-1] if self._thinking else {}
            if block.get("type") != "thinking" or last.get("type") != "thinking" or last.get("signature"):
                self._thinking.append(dict(block))
                continue
            last["thinking"] = (last.get("thinking") or "") + (block.get("thinking") or "")
            last["signature"] = block.get("signature") or ""

    def _with_thinking(self, calls: tuple[ToolCall, ...]) -> tuple[ToolCall, ...]:
        """The calls, the first one carrying the signed thinking that the provider wants back before it."""
        signed = [block for block in self._thinking if block.get("signature") or block.get("data")]
        if not calls or not signed or calls[0].signature:
            return calls
        return (replace(calls[0], signature=orjson.dumps({"thinking_blocks": signed}).decode()), *calls[1:])


def ended(finish: Finish, calls: tuple[ToolCall, ...]) -> Finish:
    """The finish reason that fits what came: some providers say `stop` beside calls, or `tool_calls` without any."""
    if finish == "stop" and calls:
        return "tool_calls"
    return "stop" if finish == "tool_calls" and not calls else finish


def _parts(content: object) -> tuple[str, str]:
    """(reasoning, text) of content in parts, as Mistral sends thinking."""
    thought, said = [], []
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, Mapping):
            continue
        if part.get("type") == "thinking":
            inner = part.get("thinking")
            thought.append(inner if isinstance(inner, str) else _parts(inner)[1])
        elif isinstance(part.get("text"), str):
            said.append(part["text"])
    return "".join(thought), "".join(said)
