"""Marking the words of a question in a passage, for display."""

import re
from collections.abc import Callable
from html import escape

from rag.nlp.analysis import query_terms

_SHORTEST_WORD = 3
_MOST_TERMS = 64
_COMMON_WORDS = """
the and for are was were what which who whom whose when where why how does did has have had that this these those
with from into than then they them their there can could should would will shall may might not but its our your his
her about
"""
_COMMON = frozenset(_COMMON_WORDS.split())


def highlighter(question: str) -> Callable[[str], str]:
    """A function that puts `<em>` marks around words of `question` in a text.

    Words match by their stem, whatever their ending. The text is escaped: the result is meant for a page.
    """
    stems = [term for term in query_terms(question) if _telling(term)][:_MOST_TERMS]
    if not stems:
        return escape_text
    pattern = re.compile("|".join(_pattern(stem) for stem in sorted(stems, key=len, reverse=True)), re.IGNORECASE)

    def mark(text: str) -> str:
        parts: list[str] = []
        end = 0
        for match in pattern.finditer(text):
            parts += (escape_text(text[end : match.start()]), "<em>", escape_text(match[0]), "</em>")
            end = match.end()
        parts.append(escape_text(text[end:]))
        return "".join(parts)

    return mark


def escape_text(text: str) -> str:
    """`text` with `&`, `<` and `>` escaped."""
    return escape(text, quote=False)


def _telling(term: str) -> bool:
    return not term.isascii() or (len(term) >= _SHORTEST_WORD and term not in _COMMON)


def _pattern(stem: str) -> str:
    if not stem.isascii():
        return re.escape(stem)
    # The stemmer turns a last y into i and keeps no silent e, so the last letter of such stems may differ.
    root = stem[:-1] if stem.endswith("i") and len(stem) > _SHORTEST_WORD else stem
    return rf"\b{re.escape(root)}\w*"
