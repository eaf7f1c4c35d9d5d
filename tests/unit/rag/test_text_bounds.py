"""Whatever users, models and documents send: the time to read it grows with its length, not with the square of it."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from rag.core.types import Turn
from rag.llm.base import ChatRequest, Embedded, Grounding
from rag.llm.extractive import ExtractiveChat
from rag.llm.question import focus_of, search_text, spoken_names
from rag.llm.quotable import worth_reading
from rag.llm.quote_text import readable
from rag.llm.reasoning import ThinkSplitter
from rag.llm.token_estimate import estimate_tokens
from rag.nlp.analysis import analyse
from rag.nlp.citation import MarkFilter, citable_sentences, cited_indices, repair_marks, without_marks
from rag.nlp.citation_check import claims_of
from rag.nlp.figures import figures, missing_share
from rag.nlp.language import is_foreign
from rag.nlp.refine import rewrite
from rag.nlp.sentences import sentences, units
from rag.nlp.subject import heaviest_words, subject_words
from rag.nlp.support import overlap, telling
from rag.nlp.tables import figure_line, heads_in, normalised
from rag.nlp.tokens import count_tokens
from rag.testing.chat_model_suite import passage

CHARS = 24_000
QUESTION_CHARS = 8_000
MOST_S = 1.5
"""CPU of one call: several times what the slowest takes, and less than quadratic work takes on so long a text."""

# Letters, digits, Chinese, a combining mark, an emoji; signs of Markdown, citations, tables and reports.
PIECES = (
    *(
        ".",
        "?",
        "-",
        "_",
        "*",
        "`",
        "|",
        "(",
        "#",
        "•",
        "1",
        "A",
        "a",
        "数",
        "😀",
        "\u0301",
        "。",
        "](",
        "[ID:99",
        ".1",
    ),
    *("1.", "a.", "1,", "ref1", "|-", "[", " ", "\n", "\t", ". ", ".\n", "A ", "Best Buy ", "data ", "data, ", "not "),
    *("1 ", "| ", "| 1 |\n", "- ", "• ", "1. ", "# ", "```\n", "`a` ", "[ID:1] ", "de-\n", "2018 ", "$ ", "http://"),
    *("数据 ", "数。", "Total 1,234 5,678\n"),
)


def word(number: int) -> str:
    """A word of its own for each number."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number)) + "z"


def varied(piece: Callable[[int], str]) -> str:
    """Pieces that all differ: what is looked up, not searched for, takes as long for each of them."""
    return "".join(piece(number) for number in range(CHARS // len(piece(CHARS // 10))))[:CHARS]


TEXTS: dict[str, str] = {
    **{repr(piece): piece * (CHARS // len(piece)) + "x?" for piece in PIECES},
    "names": varied(lambda number: f"{word(number).title()} "),
    "words": varied(lambda number: f"{word(number)} "),
    "figures": varied(lambda number: f"{1000 + number}.{number % 10} million "),
    "sentences": varied(lambda number: f"{word(number).title()} sold {number} anvils. "),
    "rows": varied(lambda number: f"| {word(number)} | {number} |\n"),
    "characters": "".join(chr(0x4E00 + number % 20_000) for number in range(CHARS)),
}


class OneDirection:
    """Every text means the same."""

    def encode(self, texts: Sequence[str]) -> Embedded:
        return Embedded(vectors=np.ones((len(texts), 1), dtype=np.float32), tokens=0)


def quoted(question: str, content: str) -> str:
    grounding = Grounding(question=question, passages=(passage(content), passage("Acme sold 5 anvils in 2018.")))
    request = ChatRequest(turns=(Turn(role="user", content=question),), grounding=grounding)
    return "".join(delta.text for delta in ExtractiveChat(OneDirection()).stream(request))


def filtered(text: str) -> str:
    marks = MarkFilter()
    return marks.feed(text) + marks.rest()


def thought(text: str) -> object:
    splitter = ThinkSplitter()
    return splitter.feed("<think>" + text), splitter.finish()


def in_pieces(text: str) -> str:
    marks = MarkFilter()
    return "".join(marks.feed(text[start : start + 16]) for start in range(0, len(text), 16)) + marks.rest()


def turns(*contents: str) -> list[Turn]:
    return [Turn(role="assistant" if index % 2 else "user", content=content) for index, content in enumerate(contents)]


READERS: dict[str, Callable[[str], object]] = {
    "analyse": analyse,
    "cited_indices": cited_indices,
    "citable_sentences": citable_sentences,
    "claims_of": claims_of,
    "count_tokens": count_tokens,
    "estimate_tokens": estimate_tokens,
    "figure_line": figure_line,
    "figures": lambda text: figures(text, words=True),
    "filtered": filtered,
    "filtered in pieces": in_pieces,
    "focus_of": focus_of,
    "heads_in": lambda text: heads_in(text, 2),
    "heaviest_words": lambda text: heaviest_words(text, 8),
    "is_foreign": is_foreign,
    "missing_share": lambda text: missing_share(figures(text), figures("1,234 in 2018")),
    "normalised": lambda text: normalised([text, text], [[text, text], [text, "1"]]),
    "overlap of a claim": lambda text: overlap([text], ["Acme sold 5 anvils.", text]),
    "overlap of sentences": lambda text: overlap(sentences(text)[:50], ["Acme sold 5 anvils."]),
    "overlap of strangers": lambda text: overlap([text], [text[::-1]]),
    "overlap of a passage": lambda text: overlap(["Acme sold 5 anvils."], [text]),
    "quoted from": lambda text: quoted("How many anvils did Acme sell?", text),
    "quoted for": lambda text: quoted(text[-QUESTION_CHARS:], "Acme sold 4 anvils."),
    "readable": readable,
    "repair_marks": lambda text: repair_marks(text, 3),
    "rewrite": lambda text: rewrite(turns(text, text, "And it?")),
    "rewrite long": lambda text: rewrite(turns("Why?", "So.", text)),
    "search_text": search_text,
    "sentences": sentences,
    "spoken_names": spoken_names,
    "subject_words": lambda text: list(subject_words(text)),
    "telling": telling,
    "thought": thought,
    "units": units,
    "without_marks": without_marks,
    "worth_reading": lambda text: worth_reading(
        text[:QUESTION_CHARS], [passage(text), passage("One."), passage("Two.")], 2
    ),
}


@pytest.fixture(scope="module", autouse=True)
def warmed() -> None:
    """What is loaded with the first text counts for none."""
    for reader in READERS.values():
        reader("Acme 数 sold 5 anvils in 2018 [ID:1].")


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_time_grows_with_the_length_and_no_faster(reader: Callable[[str], object]) -> None:
    slow: dict[str, float] = {}
    for name, text in TEXTS.items():
        began = time.thread_time()
        reader(text)
        took = time.thread_time() - began
        if took > MOST_S:
            slow[name] = took
    assert slow == {}
