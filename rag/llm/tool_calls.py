"""Tool calls put together from the pieces of a stream.

Providers number the pieces in their own ways: an index per call, index 0 for all, none at all, ids on the first piece
or on each, names repeated, calls without an id. What a piece belongs to is decided here, in one place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson

from rag.core.errors import ModelBadOutput
from rag.core.ids import new_id
from rag.core.types import ToolCall
from rag.llm.base import ToolFragment

MAX_CALLS: Final = 128
MAX_ARGUMENT_CHARS: Final = 1 << 20
"""Of all calls of one reply; a call that goes beyond is told as a problem of its own."""
MAX_TOLD_CHARS: Final = 8 << 20
"""Of the arguments of one reply, kept or not; what goes beyond is no reply of a model."""

GOOGLE_MARK: Final = "google:"
"""Begins a signature that came in `extra_content`."""

# LiteLLM hides Gemini's signature in the id as well; ids of that length do not fit other providers.
_SEALED: Final = "__thought__"


class _Open:
    """A call that is still being told.

    Whether its arguments are whole may be asked for each piece, so what was looked at once is not looked at again: the
    braces outside of strings are counted as the pieces come, and JSON is parsed once, where they are level.
    """

    __slots__ = (
        "_depth",
        "_escape",
        "_looked_at",
        "_quoted",
        "_whole",
        "id",
        "name",
        "number",
        "parts",
        "signature",
        "too_long",
    )

    def __init__(self, number: int, call_id: str) -> None:
        self.number = number
        self.id = call_id
        self.name = ""
        self.signature = ""
        self.parts: list[str] = []
        self.too_long = False
        self._looked_at = 0
        self._depth = 0
        self._quoted = False
        self._escape = ""
        self._whole: bool | None = None

    def add(self, arguments: str) -> None:
        """Go on with the arguments."""
        self.parts.append(arguments)

    def is_whole(self) -> bool:
        """Whether the arguments so far are a JSON object."""
        text = "".join(self.parts[self._looked_at :])
        self._looked_at = len(self.parts)
        if self._whole is not None:
            # Only space may follow an object, and nothing puts right what was none.
            self._whole = self._whole and not text.strip()
        elif self._is_level(text):
            self._whole = _object("".join(self.parts)) is not None
        return bool(self._whole)

    def _is_level(self, text: str) -> bool:
        """Whether an object was opened and, with `text`, as many braces were closed as opened. Exact for JSON; of
        anything else it is only known that it cannot become JSON."""
        # An escape is taken out with what it escapes, the last one when that has come.
        text = (self._escape + text).replace("\\\\", "")
        self._escape = "\\" if text.endswith("\\") else ""
        parts = text.removesuffix("\\").replace('\\"', "").split('"')
        plain = "".join(parts[self._quoted :: 2])
        self._quoted ^= len(parts) % 2 == 0
        self._depth += plain.count("{") - plain.count("}")
        return self._depth == 0 and not self._quoted and "}" in plain


class ToolCallAssembler:
    """Keyed by index. A new id at an index that was begun with another one starts a new call, and so does a named
    piece without an id where the call before it is whole."""

    def __init__(self) -> None:
        self._calls: list[_Open] = []
        self._at: dict[int, _Open] = {}
        self._by_id: dict[str, _Open] = {}
        self._room = MAX_ARGUMENT_CHARS

    def __bool__(self) -> bool:
        return bool(self._calls)

    def feed(self, pieces: Sequence[object], *, whole: bool = False) -> list[ToolFragment]:
        """What the `tool_calls` of one delta add; each of a `whole` message is a call of its own.

        Raises:
            ModelBadOutput: more than `MAX_CALLS` calls, or `MAX_TOLD_CHARS` of arguments.
        """
        found: list[ToolFragment] = []
        for position, piece in enumerate(pieces):
            if isinstance(piece, Mapping):
                fragment = self._feed(piece, position if whole else _index(piece))
                if fragment is not None:
                    found.append(fragment)
        return found

    def calls(self, *, cut: bool = False) -> tuple[ToolCall, ...]:
        """The calls in the order they were begun; `cut` where the reply ended before the model did."""
        return tuple(_checked(call, cut=cut) for call in self._calls)

    def _feed(self, piece: Mapping[str, Any], index: int | None) -> ToolFragment | None:
        function = piece.get("function")
        if not isinstance(function, Mapping):
            function = {}
        name, arguments = _text(function.get("name")), _arguments(function.get("arguments"))
        call_id, _, sealed = _text(piece.get("id")).partition(_SEALED)
        call = self._find(index, call_id=call_id, name=name, arguments=arguments) or self._begin(index, call_id)
        told = ""
        if name and not call.name:
            call.name = told = name
        call.signature = _signature(piece) or sealed or call.signature
        self._room -= len(arguments)
        if self._room < 0:
            if self._room < MAX_ARGUMENT_CHARS - MAX_TOLD_CHARS:
                raise ModelBadOutput(
                    f"The arguments of the model's tool calls are longer than {MAX_TOLD_CHARS} characters. Try again."
                )
            call.too_long = True
        elif arguments:
            call.add(arguments)
        return ToolFragment(index=call.number, name=told, arguments=arguments) if told or arguments else None

    def _find(self, index: int | None, *, call_id: str, name: str, arguments: str) -> _Open | None:
        """The call that a piece goes on with; None if it begins one. An index not yet begun is a new call, even under
        an id that another one has."""
        here = self._at.get(index) if index is not None else (self._calls[-1] if self._calls else None)
        if here is None or (call_id and call_id == here.id):
            return here
        if call_id and here.id:
            # Some servers make up an id for every piece: arguments alone go on with a call that is not whole.
            goes_on = arguments and not name and here.name and not here.is_whole()
            return self._by_id.get(call_id) or (here if goes_on else None)
        if name and here.name and (here.is_whole() if arguments else name != here.name):
            return None
        if call_id:
            here.id = call_id
            self._by_id.setdefault(call_id, here)
        return here

    def _begin(self, index: int | None, call_id: str) -> _Open:
        if len(self._calls) >= MAX_CALLS:
            raise ModelBadOutput(f"The model asks for more than {MAX_CALLS} tools at once. Try again.")
        call = _Open(len(self._calls), call_id if call_id not in self._by_id else "")
        self._calls.append(call)
        if call.id:
            self._by_id[call.id] = call
        if index is not None:
            self._at[index] = call
        return call


def signed_for(model: str, calls: tuple[ToolCall, ...]) -> tuple[ToolCall, ...]:
    """`calls` with their signatures bound to the model that made them: another one would refuse them."""
    return tuple(replace(call, signature=f"{model} {call.signature}") if call.signature else call for call in calls)


def signature_for(model: str, call: ToolCall) -> str:
    """The signature that `model` gave the call; empty if another one did."""
    maker, _, signature = call.signature.partition(" ")
    return signature if maker == model else ""


def _checked(call: _Open, *, cut: bool) -> ToolCall:
    arguments = "".join(call.parts)
    problem = ""
    if call.too_long:
        problem, arguments = f"its arguments are longer than {MAX_ARGUMENT_CHARS} characters", "{}"
    elif not arguments.strip() or arguments.strip() == "null":
        problem, arguments = ("the reply was cut off before its arguments came" if cut else ""), "{}"
    elif (plain := _object(arguments)) is None:
        problem = "the reply was cut off within its arguments" if cut else "its arguments are not a JSON object"
    else:
        arguments = plain
    if not call.name:
        problem = "it names no tool"
    return ToolCall(
        id=call.id or f"call_{new_id()}",
        name=call.name,
        arguments=arguments,
        problem=f"The call cannot be used: {problem}." if problem else "",
        signature=call.signature,
    )


def _object(arguments: str) -> str | None:
    """The arguments as a JSON object; one that was written as a JSON string within JSON is taken out of it."""
    try:
        value = orjson.loads(arguments)
        if isinstance(value, str):
            return value if isinstance(orjson.loads(value), dict) else None
    except orjson.JSONDecodeError:
        return None
    return arguments if isinstance(value, dict) else None


def _index(piece: Mapping[str, Any]) -> int | None:
    index = piece.get("index")
    return index if isinstance(index, int) and not isinstance(index, bool) else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _arguments(value: object) -> str:
    """Arguments as text; some servers send the object itself."""
    if isinstance(value, str):
        return value
    return orjson.dumps(dict(value)).decode() if isinstance(value, Mapping) else ""


def _signature(piece: Mapping[str, Any]) -> str:
    """Gemini's thought signature, which it wants back with the call: compatible servers and LiteLLM have a place each,
    and it goes back where it came from."""
    extra, fields = piece.get("extra_content"), piece.get("provider_specific_fields")
    if isinstance(extra, Mapping) and isinstance(google := extra.get("google"), Mapping):
        signature = _text(google.get("thought_signature"))
        return GOOGLE_MARK + signature if signature else ""
    return _text(fields.get("thought_signature")) if isinstance(fields, Mapping) else ""
