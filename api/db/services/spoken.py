"""Saying a text aloud, clause by clause: the first sound is there long before the last clause is made."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any, Final, Protocol

from rag.nlp import citation

_END: Final = re.compile(r"[,.!?;:](?=\s)|[，。！？；：、…]|\n")
_SPEAKABLE: Final = re.compile(r"\w")
_FEWEST_CHARS: Final = 24
"""A shorter clause is said together with the next: each is a call of the model, with a pause around it."""


class Voice(Protocol):
    """A bundle of a speaking model."""

    def tts(self, text: str) -> AsyncIterator[bytes]: ...


async def spoken(voice: Voice, text: str) -> AsyncGenerator[bytes, None]:
    """Pieces of MP3 that say `text`, without its citation marks. Leaving early ends the provider's request.

    Raises:
        ModelError: the model failed; what came before can be played.
        LimitExceeded: a budget is spent.
    """
    for clause in clauses(citation.without_marks(text)):
        pieces: Any = voice.tts(clause)
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece


def clauses(text: str) -> Iterator[str]:
    """The parts of `text` that can be said one after the other; what holds no letter or digit is left out."""
    begun = 0
    for end in _END.finditer(text):
        clause = text[begun : end.end()].strip()
        if len(clause) < _FEWEST_CHARS and end[0] not in "\n.!?。！？":
            continue
        begun = end.end()
        if _SPEAKABLE.search(clause):
            yield clause
    rest = text[begun:].strip()
    if _SPEAKABLE.search(rest):
        yield rest
