"""Saying a whole text aloud, clause by clause: the first sound is there long before the last clause is made."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any, Final, Protocol

from api.db.services.dialog_speech import Clauses

_PIECE_CHARS: Final = 2000


class Voice(Protocol):
    """A bundle of a speaking model."""

    def tts(self, text: str) -> AsyncIterator[bytes]: ...


async def spoken(voice: Voice, text: str) -> AsyncGenerator[bytes, None]:
    """Pieces of MP3 that say `text`, as answers are said. Leaving early ends the provider's request.

    Raises:
        ModelError: the model failed; what came before can be played.
        LimitExceeded: a budget is spent.
    """
    for clause in _clauses(text):
        pieces: Any = voice.tts(clause)
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece


def _clauses(text: str) -> Iterator[str]:
    clauses = Clauses(most_chars=len(text))
    for start in range(0, len(text), _PIECE_CHARS):
        yield from clauses.feed(text[start : start + _PIECE_CHARS])
    yield from clauses.rest()
