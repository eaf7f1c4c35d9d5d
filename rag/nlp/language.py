"""Whether the built-in, English means can judge a text: its script and its small words, no more."""

import re

_OTHER_SCRIPT = re.compile(r"[^\W\d_a-zA-Z\u00aa-\u024f\u1e00-\u1eff]")
_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\W\d_]+")
_SMALL_WORDS = """
    the of and to in a is for on that with as by from are was were be it this at an or not which have has its you your
    can will may if their they he she his her we our all more also other but
"""
_SMALL = frozenset(_WORD.findall(_SMALL_WORDS))
_FEWEST_WORDS = 6
_LEAST_SMALL = 0.05


def is_foreign(text: str) -> bool:
    """Whether `text` is prose in another language than English: most letters of another script, or hardly one of
    English's small words. Tables and short texts in Latin letters count as English."""
    letters = len(_LETTER.findall(text))
    if len(_OTHER_SCRIPT.findall(text)) * 2 > letters:
        return True
    words = [word.lower() for word in _WORD.findall(text)]
    lower = sum(word.islower() for word in _WORD.findall(text))
    is_prose = "|" not in text and lower * 3 >= len(words) >= _FEWEST_WORDS
    return is_prose and sum(word in _SMALL for word in words) < _LEAST_SMALL * len(words)
