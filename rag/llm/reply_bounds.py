"""How much a model may say in one reply, whatever carries it."""

from typing import Final

from rag.core.errors import ModelBadOutput

MAX_TEXT_CHARS: Final = 8 << 20
"""Of text and reasoning of one reply; the longest that any model writes is a fraction of it."""


def too_long(model: str, most_chars: int) -> ModelBadOutput:
    """The error of a reply of `model` that goes on beyond `most_chars`."""
    return ModelBadOutput(f"The answer of {model!r} is longer than {most_chars} characters. Ask for less.", model=model)
