"""Turns of the conversation before a question, as a prompt may hold them."""

from dataclasses import replace

from rag.core.types import Turn
from rag.nlp import citation

_PICTURE = "(A picture, which you cannot see.)"


def cleaned(turn: Turn, *, sees: bool = True) -> Turn:
    """A turn of the history: marks of earlier answers would point into other sources, and a model that was chosen
    since may not see pictures; the one that is asked about is another matter."""
    if turn.role == "assistant":
        return replace(turn, content=citation.without_marks(turn.content))
    if turn.pictures and not sees:
        return replace(turn, content=f"{turn.content}\n{_PICTURE}".strip(), pictures=())
    return turn
