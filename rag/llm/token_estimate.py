"""Tokens of a text without a vocabulary: good enough for budgets, and rarely too low.

Against OpenAI's vocabularies on long texts: English prose and reports 6 to 13 % above `cl100k_base` and `o200k_base`,
code 19 % above, Chinese 10 % below the former and 36 % above the latter.
"""

import re

_PIECES = re.compile(r"[A-Za-z]+|[0-9]{1,3}|\s{2,}|[^\x00-\x7f]|[^\sA-Za-z0-9]")
_WORD_CHARS = 7
_OTHER_SCRIPTS = 1.15
"""Tokens of a character that is not ASCII."""


def estimate_tokens(text: str) -> int:
    """About the count of OpenAI's vocabularies."""
    total, others = 0, 0
    for piece in _PIECES.findall(text):
        if not piece.isascii():
            others += 1
        elif len(piece) > _WORD_CHARS and piece.isalpha():
            total += 1 + (len(piece) - 1) // _WORD_CHARS
        else:
            total += 1
    return total + round(others * _OTHER_SCRIPTS)
