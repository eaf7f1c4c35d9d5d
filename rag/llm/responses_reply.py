"""A reply in the form of OpenAI's Responses, read event by event as deltas."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from rag.core.types import TokenUsage, ToolCall
from rag.llm.base import Delta, Finish, ToolFragment
from rag.llm.chat_reply import ended
from rag.llm.reasoning import ThinkSplitter
from rag.llm.token_usages import token_usage
from rag.llm.tool_calls import ToolCallAssembler, signed_for

_INCOMPLETE: Final[dict[str, Finish]] = {
    "max_output_tokens": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
}
_NOTHING: Final = ("", "")


class ResponsesReader:
    """Turns the parsed events of one reply into deltas; whole replies are read as the items that they hold.

    A call is known by its item's id, else by its place, else it is the one begun last: servers leave either away. What
    was streamed comes again with the end of its item and of the reply, and is not read twice.
    """

    def __init__(self, *, model: str = "") -> None:
        self._model = model
        self._think = ThinkSplitter()
        self._calls = ToolCallAssembler()
        self._numbers: dict[object, int] = {}
        self._told: list[list[str]] = []
        self._fragments: list[ToolFragment] = []
        self._thinking: list[dict[str, Any]] = []
        self._before: dict[int, list[dict[str, Any]]] = {}
        self._said = _Shown()
        self._mused = _Shown()
        self._finish: Finish | None = None
        self.usage: TokenUsage | None = None

    @property
    def done(self) -> bool:
        return self._finish is not None

    @property
    def is_empty(self) -> bool:
        return self._finish is None and self.usage is None and not self._calls

    def read(self, piece: dict[str, Any]) -> tuple[str, str]:
        """(reasoning, text) that an event adds; calls, usage and the end are kept.

        Raises:
            ModelBadOutput: more tool calls than a reply may hold.
        """
        kind = piece.get("type")
        if kind == "response.output_text.delta":
            self._said.streamed = True
            delta = piece.get("delta")
            return self._think.feed(delta) if isinstance(delta, str) and delta else _NOTHING
        handler = _HANDLERS.get(kind) if isinstance(kind, str) else None
        return handler(self, piece) if handler is not None else _NOTHING

    def read_whole(self, piece: dict[str, Any]) -> tuple[str, str] | None:
        """(reasoning, text) of a reply that was not streamed; None if `piece` is no reply."""
        if not isinstance(piece.get("output"), list):
            return None
        return self._ended({"response": piece})

    def take_fragments(self) -> tuple[ToolFragment, ...]:
        """The pieces of tool calls since the last time."""
        if not self._fragments:
            return ()
        found, self._fragments = tuple(self._fragments), []
        return found

    def last(self) -> list[Delta]:
        """The deltas that end the reply; without an event that ends it, it was cut off."""
        reasoning, text = self._think.finish()
        finish: Finish = self._finish or "cut_off"
        calls = self._calls.calls(cut=finish in ("cut_off", "length"))
        calls = signed_for(self._model, tuple(self._with_thinking(call, n) for n, call in enumerate(calls)))
        found = [Delta(reasoning=reasoning, text=text)] if reasoning or text else []
        return [*found, Delta(tool_calls=calls, usage=self.usage, finish=ended(finish, calls))]

    def _thought(self, piece: Mapping[str, Any]) -> tuple[str, str]:
        self._mused.streamed = True
        return _text(piece.get("delta")), ""

    def _refused(self, piece: Mapping[str, Any]) -> tuple[str, str]:
        self._said.streamed = True
        return "", _text(piece.get("delta"))

    def _next_thought(self, piece: Mapping[str, Any]) -> tuple[str, str]:
        """The parts of a summary are paragraphs."""
        return ("\n\n" if piece.get("summary_index") else ""), ""

    def _begun(self, piece: Mapping[str, Any]) -> tuple[str, str]:
        item = piece.get("item")
        if isinstance(item, Mapping) and item.get("type") == "function_call":
            self._begin(item, piece.get("output_index"))
        return _NOTHING

    def _arguments(self, piece: Mapping[str, Any]) -> tuple[str, str]:
        self._add(self._number(piece), _text(piece.get("delta")))
        return _NOTHING

    def _arguments_done(self, piece: Mapping[str, Any]) -> tuple[str, str]:
        self._complete(self._number(piece), _text(piece.get("arguments")))
        return _NOTHING

    def _item_done(self, piece: Mapping[str, Any]) -> tuple[str, str]:
        item = piece.get("item")
        return self._item(item, piece.get("output_index")) if isinstance(item, Mapping) else _NOTHING

    def _ended(self, piece: Mapping[str, Any]) -> tuple[str, str]:
        response = piece.get("response")
        if not isinstance(response, Mapping):
            self._finish = "stop"
            return _NOTHING
        usage, status = response.get("usage"), response.get("status")
        if isinstance(usage, Mapping):
            self.usage = token_usage(usage)
        details = response.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, Mapping) else None
        if status == "incomplete":
            self._finish = _INCOMPLETE.get(str(reason), "cut_off")
        else:
            self._finish = "cut_off" if status in ("cancelled", "in_progress", "queued") else "stop"
        output = response.get("output")
        items = [item for item in output if isinstance(item, Mapping)] if isinstance(output, list) else []
        return self._rest(items)

    def _rest(self, items: list[Mapping[str, Any]]) -> tuple[str, str]:
        """What of a whole reply was not streamed: some servers send no more than the whole at the end."""
        seen = {"message": self._said.any, "reasoning": self._mused.any, "function_call": bool(self._calls)}
        found = [self._item(item, None) for item in items if not seen.get(str(item.get("type")))]
        return "".join(reasoning for reasoning, _ in found), "".join(text for _, text in found)

    def _item(self, item: Mapping[str, Any], place: object) -> tuple[str, str]:
        """A whole item: (reasoning, text) of it that did not come before."""
        kind = item.get("type")
        if kind == "function_call":
            number = self._known(item.get("id"), place)
            if number is None:
                number = self._numbers.get(item.get("call_id"))
            self._complete(self._begin(item, place) if number is None else number, _text(item.get("arguments")))
        elif kind == "message" and not self._said.ends():
            return self._think.feed(_joined(item.get("content")))
        elif kind == "reasoning":
            if item.get("encrypted_content") and item.get("id") not in [one["id"] for one in self._thinking]:
                self._thinking.append(_sealed(item))
            if not self._mused.ends():
                return _joined(item.get("summary"), "\n\n") or _joined(item.get("content")), ""
        return _NOTHING

    def _begin(self, item: Mapping[str, Any], place: object) -> int:
        number = len(self._told)
        self._told.append([])
        for key in (item.get("id"), item.get("call_id"), place):
            if key is not None:
                self._numbers[key] = number
        if self._thinking:
            self._before[number], self._thinking = self._thinking, []
        function = {"name": item.get("name"), "arguments": ""}
        self._fragments += self._calls.feed([{"index": number, "id": item.get("call_id"), "function": function}])
        self._add(number, _text(item.get("arguments")))
        return number

    def _add(self, number: int, arguments: str) -> None:
        if arguments and number < len(self._told):
            self._told[number].append(arguments)
            self._fragments += self._calls.feed([{"index": number, "function": {"arguments": arguments}}])

    def _complete(self, number: int, arguments: str) -> None:
        """Add what of the whole `arguments` has not come in pieces."""
        told = "".join(self._told[number]) if number < len(self._told) else ""
        if arguments.startswith(told):
            self._add(number, arguments[len(told) :])

    def _known(self, item_id: object, place: object) -> int | None:
        if isinstance(item_id, str) and item_id:
            return self._numbers.get(item_id)
        return self._numbers.get(place) if isinstance(place, int) else None

    def _number(self, piece: Mapping[str, Any]) -> int:
        found = self._known(piece.get("item_id"), piece.get("output_index"))
        return found if found is not None else max(0, len(self._told) - 1)

    def _with_thinking(self, call: ToolCall, number: int) -> ToolCall:
        sealed = self._before.get(number)
        return replace(call, signature=orjson.dumps(sealed).decode()) if sealed else call


class _Shown:
    """Whether a kind of item is streamed, so that its whole form adds nothing."""

    __slots__ = ("ended", "streamed")

    def __init__(self) -> None:
        self.streamed = False
        self.ended = False

    @property
    def any(self) -> bool:
        """Whether anything of the kind came before the end of the reply."""
        return self.streamed or self.ended

    def ends(self) -> bool:
        """Whether the item that ends now was streamed."""
        streamed, self.streamed, self.ended = self.streamed, False, True
        return streamed


_HANDLERS: Final[dict[str, Callable[[ResponsesReader, Mapping[str, Any]], tuple[str, str]]]] = {
    "response.reasoning_summary_text.delta": ResponsesReader._thought,
    "response.reasoning_text.delta": ResponsesReader._thought,
    "response.reasoning_summary_part.added": ResponsesReader._next_thought,
    "response.refusal.delta": ResponsesReader._refused,
    "response.output_item.added": ResponsesReader._begun,
    "response.function_call_arguments.delta": ResponsesReader._arguments,
    "response.function_call_arguments.done": ResponsesReader._arguments_done,
    "response.output_item.done": ResponsesReader._item_done,
    "response.completed": ResponsesReader._ended,
    "response.incomplete": ResponsesReader._ended,
    "response.cancelled": ResponsesReader._ended,
}
"""Events that say something; those that repeat what came, and those of tools that run at the provider, do not."""


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _joined(parts: object, between: str = "") -> str:
    """The texts and refusals of an item's parts."""
    found = [part for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []
    return between.join(_text(part.get("text")) or _text(part.get("refusal")) for part in found)


def _sealed(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item of thinking as it goes back."""
    kept = {name: item.get(name) for name in ("id", "encrypted_content")}
    summary = item.get("summary")
    return {"type": "reasoning", "summary": summary if isinstance(summary, list) else [], **kept}
