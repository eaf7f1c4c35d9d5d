"""What the search found decides with the built-in model whether there is an answer at all."""

from dataclasses import replace

import pytest

from rag.llm.base import ChatRequest, Grounding
from rag.llm.extractive import ExtractiveChat
from rag.llm.minilm import MiniLmEmbedder
from rag.testing.chat_model_suite import passage

NOTHING = "Nothing in the documents answers this question."
OFFICE = "Acme makes anvils. The office of Acme is in Geneva, near the lake."
LOAN = "A fixed loan for a house with an early payment fee is common in many countries."


def said(minilm: MiniLmEmbedder, question: str, content: str, evidence: float | None) -> str:
    grounding = Grounding(question=question, passages=(passage(content),), evidence=evidence)
    return "".join(delta.text for delta in ExtractiveChat(minilm).stream(ChatRequest(turns=(), grounding=grounding)))


@pytest.mark.parametrize(("evidence", "answers"), [(None, True), (0.6, True), (0.02, False)])
def test_a_quote_needs_a_search_that_found_something(
    minilm: MiniLmEmbedder, evidence: float | None, answers: bool
) -> None:
    text = said(minilm, "Which office makes anvils?", OFFICE, evidence)
    assert (text != NOTHING) is answers


def test_a_search_that_found_much_does_not_make_a_quote_of_something_else(minilm: MiniLmEmbedder) -> None:
    assert said(minilm, "Who won the chess championship in 1972?", LOAN, 0.3) == NOTHING


def test_the_margin_says_whether_there_is_an_answer(minilm: MiniLmEmbedder) -> None:
    chat = ExtractiveChat(minilm)
    question = "What is said of Nike's current assets and inventories?"
    margins = [
        chat.margin(Grounding(question=question, passages=(passage(OFFICE),), evidence=evidence))
        for evidence in (0.6, 0.5, 0.02)
    ]
    assert margins[0] == pytest.approx(margins[1] + 0.1)
    assert margins[1] >= 0 > margins[2]
    assert chat.margin(Grounding(question=question, passages=())) == -1.0


def test_in_a_document_that_the_question_names_more_is_quoted_where_the_search_found_it(minilm: MiniLmEmbedder) -> None:
    texts = (
        "Total current assets grew because inventories of shoes rose over the year.",
        "The current assets do not include the stores that are leased.",
        "Inventories were the largest part of the assets at the end of the year.",
    )
    passages = tuple(
        replace(passage(text, number=number), document_name="NIKE_2019_10K.pdf") for number, text in enumerate(texts)
    )
    question = "What is said of Nike's current assets and inventories?"

    def cited(evidence: float | None) -> int:
        grounding = Grounding(question=question, passages=passages, evidence=evidence)
        chunks = ExtractiveChat(minilm).stream(ChatRequest(turns=(), grounding=grounding))
        return "".join(delta.text for delta in chunks).count("[ID:")

    assert cited(None) == 1 < cited(0.4) <= 4
