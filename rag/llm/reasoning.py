"""Thinking that a model writes into its text, taken apart from the answer."""

from typing import Final

_OPEN: Final = "<think>"
_CLOSE: Final = "</think>"
MOST_SPACE: Final = 1000
"""Characters of white space that a text may begin with; more is left out."""


class ThinkSplitter:
    """Splits a streamed text that begins with `<think>...</think>`; marks may be cut anywhere.

    Only the very beginning counts: the same words later are text about thinking.
    """

    def __init__(self) -> None:
        self._state = "before"
        self._held = ""

    def feed(self, text: str) -> tuple[str, str]:
        """(reasoning, answer) that `text` adds; what may be half a mark is held back."""
        if self._state == "after":
            return "", text
        if self._state == "gap":
            text = text.lstrip("\n")
            if text:
                self._state = "after"
            return "", text
        self._held += text
        if self._state == "before":
            start = self._held.lstrip()
            space = len(self._held) - len(start)
            if space > MOST_SPACE:
                self._held = self._held[:MOST_SPACE] + start
            if len(start) < len(_OPEN) and _OPEN.startswith(start):
                return "", ""
            if not start.startswith(_OPEN):
                self._state = "after"
                return "", self._take()
            self._state, self._held = "inside", start[len(_OPEN) :]
        return self._inside()

    def finish(self) -> tuple[str, str]:
        """What was still held back at the end of the text."""
        held = self._take()
        return (held, "") if self._state == "inside" else ("", held)

    def _inside(self) -> tuple[str, str]:
        thought, mark, rest = self._held.partition(_CLOSE)
        if mark:
            answer = rest.lstrip("\n")
            self._state, self._held = ("after" if answer else "gap"), ""
            return thought, answer
        keep = next((n for n in range(len(_CLOSE) - 1, 0, -1) if self._held.endswith(_CLOSE[:n])), 0)
        split = len(self._held) - keep
        thought, self._held = self._held[:split], self._held[split:]
        return thought, ""

    def _take(self) -> str:
        held, self._held = self._held, ""
        return held
