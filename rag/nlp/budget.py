"""What fits into a model: knowledge, history and texts within a number of tokens.

Counting is the model's (`count`), and may be an estimate that is up to 10 % too low; `prompt_room` allows for that.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from rag.core.types import Turn

Count = Callable[[str], int]
"""Tokens of a text."""

TURN_TOKENS = 4
"""What a message takes besides its text: role and separators."""
PICTURE_TOKENS = 1000
"""About what a picture takes. Providers count by size and model, from some hundred to some thousand; where that is too
little here, they say so and the oldest turns go (`rag.llm.overflow`)."""
_UNDERCOUNT = 1.1
_MOST_CHARS_PER_TOKEN = 16
"""Ordinary text has about four; a text longer than this many times its room is cut before it is counted."""
_LARGEST_REPLY_SHARE = 3


def reply_tokens(context_tokens: int, wanted: int | None, most: int) -> int:
    """Tokens to keep free for the reply: what is wanted (512 if not said), at most a third of the context."""
    return max(1, min(wanted or 512, most, context_tokens // _LARGEST_REPLY_SHARE))


def prompt_room(context_tokens: int, reply: int) -> int:
    """Counted tokens the prompt may have, so that prompt and reply fit together even if the count is too low."""
    return max(0, int((context_tokens - reply) / _UNDERCOUNT))


def cut_text(text: str, room: int, count: Count) -> str:
    """The longest beginning of `text` that counts at most `room` tokens; all of it if it fits."""
    if room <= 0:
        return ""
    text = text[: room * _MOST_CHARS_PER_TOKEN]
    if count(text) <= room:
        return text
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if count(text[:middle]) <= room:
            fits = middle
        else:
            too_long = middle
    return text[:fits]


def place_whole(costs: Sequence[int], room: int) -> list[int]:
    """The indices of what fits, best first: each is taken whole or left out, and smaller ones may follow."""
    taken = []
    for index, cost in enumerate(costs):
        if cost <= room:
            taken.append(index)
            room -= cost
    return taken


def turn_cost(turn: Turn, count: Count) -> int:
    calls = sum(count(call.name) + count(call.arguments) + TURN_TOKENS for call in turn.tool_calls)
    return count(turn.content) + TURN_TOKENS + PICTURE_TOKENS * len(turn.pictures) + calls


def fit_history(history: Sequence[Turn], room: int, count: Count) -> tuple[Turn, ...]:
    """The latest turns that fit, in order; what is kept begins with a user's turn."""
    kept: list[Turn] = []
    for turn in reversed(history):
        if len(turn.content) > room * _MOST_CHARS_PER_TOKEN:
            break
        room -= turn_cost(turn, count)
        if room < 0:
            break
        kept.append(turn)
    kept.reverse()
    return from_first_user(kept)


def from_first_user(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """`turns` without the assistant's ones at the beginning, such as an opener."""
    for index, turn in enumerate(turns):
        if turn.role == "user":
            return tuple(turns[index:])
    return ()


def cut_turn(turn: Turn, room: int, count: Count) -> Turn:
    """`turn` with at most `room` tokens."""
    return replace(turn, content=cut_text(turn.content, room - TURN_TOKENS, count))
