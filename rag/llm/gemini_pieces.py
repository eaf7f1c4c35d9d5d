"""Gemini's function calls made whole before LiteLLM (1.106.2) reads them.

The library ends a reply with a KeyError where a call has no `args`. Gemini leaves them out of a call without arguments,
and sends them piece by piece (`partialArgs`, by path) where a request asked for that.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

_STEP: Final = re.compile(r"\[(\d+)\]|([^.\[\]]+)")
_VALUES: Final = ("stringValue", "numberValue", "boolValue", "nullValue")
_MOST_ITEMS: Final = 10_000
"""Of a list in arguments: its indexes come from outside."""


def with_arguments(parts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """`parts` in which each function call has `args`."""
    return [
        {**part, "functionCall": {"args": {}, **part["functionCall"]}}
        if isinstance(part.get("functionCall"), Mapping)
        else part
        for part in parts
    ]


class GeminiPieces:
    """For the chunks of one streamed reply, in order: holds a call back until it is whole."""

    def __init__(self) -> None:
        self._open: dict[str, Any] | None = None

    def put_right(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """`chunk`, changed in place, with whole calls alone."""
        for candidate in chunk.get("candidates") or ():
            content = candidate.get("content")
            if isinstance(content, dict) and isinstance(content.get("parts"), list):
                parts = [whole for part in content["parts"] for whole in self._whole(part)]
                content["parts"] = with_arguments(parts)
            if candidate.get("finishReason") and self._open is not None:
                content = candidate.setdefault("content", {"role": "model"})
                content["parts"] = [*(content.get("parts") or ()), *self._ended()]
        return chunk

    def _whole(self, part: dict[str, Any]) -> list[dict[str, Any]]:
        """The parts that `part` completes."""
        call = part.get("functionCall")
        if not isinstance(call, Mapping) or ("args" in call and not call.get("willContinue")):
            return [*self._ended(), part]
        done: list[dict[str, Any]] = []
        if "name" in call:
            done = self._ended()
            kept = {name: value for name, value in call.items() if name not in ("partialArgs", "willContinue")}
            self._open = {**part, "functionCall": {**kept, "args": dict(call.get("args") or {})}}
        if self._open is None:
            return done
        for piece in call.get("partialArgs") or ():
            _put(self._open["functionCall"]["args"], piece)
        return done if call.get("willContinue") else [*done, *self._ended()]

    def _ended(self) -> list[dict[str, Any]]:
        found, self._open = ([] if self._open is None else [self._open]), None
        return found


def _put(arguments: dict[str, Any], piece: Mapping[str, Any]) -> None:
    """Add a value at its path, such as `$.recipe.steps[9]`; text at the same path goes on."""
    path = [int(index) if index else name for index, name in _STEP.findall(str(piece.get("jsonPath"))[1:])]
    value = next((piece[name] for name in _VALUES if name in piece), None)
    place: Any = arguments
    for step, following in zip(path, [*path[1:], None], strict=False):
        last = following is None
        old = _at(place, step)
        if last and isinstance(old, str) and isinstance(value, str):
            new: Any = old + value
        elif last:
            new = value
        else:
            kind = list if isinstance(following, int) else dict
            new = old if isinstance(old, kind) else kind()
        if not _set(place, step, new):
            return
        place = new


def _at(place: Any, step: str | int) -> Any:
    if isinstance(place, list):
        return place[step] if isinstance(step, int) and step < len(place) else None
    return place.get(step)


def _set(place: Any, step: str | int, value: Any) -> bool:
    """Whether `value` could be put there."""
    if isinstance(place, list):
        if not isinstance(step, int) or step >= _MOST_ITEMS:
            return False
        place.extend([None] * (step + 1 - len(place)))
        place[step] = value
        return True
    place[step] = value
    return True
