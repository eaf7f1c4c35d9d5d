from dataclasses import replace

import pytest

from rag.core.types import Turn
from rag.llm.base import ChatRequest, Grounding, Sampling
from rag.llm.extractive import ExtractiveChat
from rag.llm.minilm import MiniLmEmbedder
from rag.llm.question import focus_of, search_text
from rag.llm.quotable import worth_reading
from rag.llm.quote_text import readable
from rag.testing.chat_model_suite import ChatModelSuite, a_request, passage

CASH_FLOW = """3M Company and Subsidiaries Consolidated Statement of Cash Flows

| (Millions) | 2018 | 2017 | 2016 |
| --- | --- | --- | --- |
| Depreciation and amortization | 1,488 | 1,544 | 1,474 |
| Purchases of property, plant and equipment (PP&E) | (1,577) | (1,373) | (1,420) |
| Acquisitions, net of cash acquired | 13 | (2,023) | (16) |
"""
WEATHER = "Rain fell on most days of the month. The river rose by two metres."


class TestContract(ChatModelSuite):
    @pytest.fixture
    def model(self, minilm: MiniLmEmbedder) -> ExtractiveChat:
        return ExtractiveChat(minilm)


@pytest.fixture
def answer(minilm: MiniLmEmbedder):  # type: ignore[no-untyped-def]
    model = ExtractiveChat(minilm)

    def ask(question: str, *contents: str, empty_response: str = "", sampling: Sampling | None = None) -> str:
        passages = tuple(passage(content, number=number) for number, content in enumerate(contents))
        grounding = Grounding(question=question, passages=passages, empty_response=empty_response)
        request = ChatRequest(
            turns=(Turn(role="user", content=question),), grounding=grounding, sampling=sampling or Sampling()
        )
        return "".join(delta.text for delta in model.stream(request))

    return ask


def test_the_sentence_that_answers_is_quoted_and_cited(answer) -> None:  # type: ignore[no-untyped-def]
    text = answer("Where is the office of Acme?", WEATHER, "Acme makes anvils. The office of Acme is in Geneva.")
    assert text.startswith("The office of Acme is in Geneva. [ID:1]")
    assert "Rain" not in text


def test_a_sentence_that_leans_on_the_one_before_brings_it(answer) -> None:  # type: ignore[no-untyped-def]
    text = answer(
        "When was the bridge rebuilt after the flood?",
        "The Old Bridge crosses the Aare. It was rebuilt in 1893 after the flood.",
        WEATHER,
    )
    assert text.startswith("The Old Bridge crosses the Aare. It was rebuilt in 1893 after the flood. [ID:0]")


def test_of_a_table_the_row_and_the_column_asked_for(answer) -> None:  # type: ignore[no-untyped-def]
    text = answer("What is the FY2018 capital expenditure amount for 3M?", WEATHER, CASH_FLOW)
    assert text.startswith("Purchases of property, plant and equipment (PP&E): 2018: (1,577) (in millions) [ID:1]")


def test_without_a_year_all_columns_are_given(answer) -> None:  # type: ignore[no-untyped-def]
    text = answer("How much were depreciation and amortization?", CASH_FLOW)
    assert "Depreciation and amortization: 2018: 1,488; 2017: 1,544; 2016: 1,474 (in millions) [ID:0]" in text


def test_chinese(answer) -> None:  # type: ignore[no-untyped-def]
    text = answer("公司的总部位于哪里？", "公司成立于1998年。公司的总部位于北京。员工共300人。", "今天天气很好。")
    assert text.startswith("公司的总部位于北京。 [ID:0]")


def test_nothing_found_is_said_plainly(answer) -> None:  # type: ignore[no-untyped-def]
    question = "Who won the chess world championship in 1972?"
    assert answer(question, WEATHER, CASH_FLOW) == "Nothing in the documents answers this question."
    assert answer(question, WEATHER, empty_response="Sorry!") == "Sorry!"
    assert answer(question, empty_response="Sorry!") == "Sorry!"
    assert answer("谁赢得了比赛？", WEATHER) == "在文档中没有找到能回答这个问题的内容。"


def test_without_documents_it_says_what_it_can(minilm: MiniLmEmbedder) -> None:
    deltas = list(ExtractiveChat(minilm).stream(ChatRequest(turns=(Turn(role="user", content="hi"),))))
    assert "Attach a dataset" in "".join(delta.text for delta in deltas)


def test_the_same_sentence_is_quoted_once(answer) -> None:  # type: ignore[no-untyped-def]
    sentence = "The office of Acme is in Geneva."
    assert answer("Where is the office of Acme?", sentence, sentence).count("Geneva") == 1


def test_a_mark_comes_in_one_piece(minilm: MiniLmEmbedder) -> None:
    pieces = [delta.text for delta in ExtractiveChat(minilm).stream(a_request())]
    assert " [ID:0]" in pieces
    assert len(pieces) > 5


def test_the_length_asked_for_is_kept(minilm: MiniLmEmbedder) -> None:
    request = ChatRequest(turns=(), grounding=a_request().grounding, sampling=Sampling(max_tokens=4))
    deltas = list(ExtractiveChat(minilm).stream(request))
    assert deltas[-1].finish == "length"
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.completion_tokens <= 4


@pytest.mark.parametrize(
    "content", ["", "   \n\n", "|||\n|---|", "#", "a\ud800b", "x" * 20000, "。" * 50, "| a |\n" * 500]
)
@pytest.mark.parametrize("question", ["", "?", "the of and", "\ud800", "什么", "Where is Acme? " * 300])
def test_nothing_breaks_it(answer, question: str, content: str) -> None:  # type: ignore[no-untyped-def]
    assert answer(question, content, "")


@pytest.mark.parametrize(
    ("question", "focus"),
    [
        ("Answer from the balance sheet: what is the net PPNE? Answer in USD.", "what is the net PPNE?"),
        ("Tell me about it", "Tell me about it"),
        ("黑豹队的防守丢了多少分？", "黑豹队的防守丢了多少分？"),
        ("What is X for U.S. firms?", "What is X for U.S. firms?"),
    ],
)
def test_the_point_of_a_question(question: str, focus: str) -> None:
    assert focus_of(question) == focus


def test_instructions_before_the_question_are_no_part_of_it() -> None:
    question = (
        "According to the details outlined within the balance sheet, how much total current assets did Nike have?"
    )
    assert focus_of(question) == "how much total current assets did Nike have?"


BONDS = """| Medium-term note ($200 million) | USD Fixed | 3.07 | % | 2021 | $ 13,411 |
| --- | --- | --- | --- | --- | --- |
| Medium-term note ($500 million) | USD Fixed | 2.25 | % | 2026 | 199 |
| Eurobond (750 million Euros) | Euro Fixed | 1.65 | % | 2030 | 852 |
"""
BALANCE = """NIKE, INC.

CONSOLIDATED BALANCE SHEETS

(Dollars in millions)

2019 2018 ASSETS LIABILITIES AND SHAREHOLDERS' EQUITY

| Current assets: |  |  |
| --- | --- | --- |
| Cash and equivalents | $ 4,466 | $ 4,249 |
| Total current assets | 16,525 | 15,134 |
| Property, plant and equipment, net | 4,744 | 4,454 |
"""


def test_rows_about_something_else_are_not_quoted(answer) -> None:  # type: ignore[no-untyped-def]
    question = "What is the FY2018 capital expenditure amount (in USD millions) for 3M?"
    assert answer(question, BONDS) == "Nothing in the documents answers this question."
    assert answer(question, BONDS, CASH_FLOW).startswith(
        "Purchases of property, plant and equipment (PP&E): 2018: (1,577)"
    )


def test_part_of_another_name_is_not_the_thing(answer) -> None:  # type: ignore[no-untyped-def]
    leases = "| (Millions) | 2018 | 2017 |\n|---|---|---|\n| Capital leases | 143 | 135 |\n"
    text = answer("What is the FY2018 capital expenditure amount (in USD millions) for 3M?", leases, CASH_FLOW)
    assert text == "Purchases of property, plant and equipment (PP&E): 2018: (1,577) (in millions) [ID:1]"


def test_a_figure_of_something_else_is_no_answer(minilm: MiniLmEmbedder) -> None:
    exhibits = (
        "The Exhibits filed herewith do not include certain instruments with respect to long-term debt of NIKE, as the "
        "total debt authorized does not exceed 10 percent of the total assets of NIKE."
    )
    grounding = Grounding(
        question="How much total current assets did Nike have at the end of FY2019?",
        passages=(replace(passage(exhibits), document_name="NIKE_2019_10K.pdf"),),
    )
    text = "".join(delta.text for delta in ExtractiveChat(minilm).stream(ChatRequest(turns=(), grounding=grounding)))
    assert text == "Nothing in the documents answers this question."


def test_the_dates_above_a_table_choose_the_column(answer) -> None:  # type: ignore[no-untyped-def]
    text = answer("How much total current assets did Nike have at the end of FY2019? Answer in USD millions.", BALANCE)
    assert text == "Total current assets: 2019: 16,525 (in millions) [ID:0]"


def test_plain_lines_of_a_statement_are_rows(answer) -> None:  # type: ignore[no-untyped-def]
    lines = "CONSOLIDATED BALANCE SHEETS (in millions)\n\nDecember 31, 2016 2017\nASSETS\n"
    lines += "Current assets: Cash and cash equivalents $ 19,334 $ 20,522\nMarketable securities 6,647 10,464\n"
    text = answer("How much cash and cash equivalents were there at December 31, 2017?", lines)
    assert text == "Cash and cash equivalents: 2017: $ 20,522 (in millions) [ID:0]"


def test_a_section_is_told_where_the_question_is_about_it(answer) -> None:  # type: ignore[no-untyped-def]
    segments = "| | 2016 | 2017 |\n|---|---|---|\n| AWS | | |\n| Operating income | $ 3,108 | $ 4,331 |\n"
    assert answer("What was AWS operating income in 2017?", segments) == "AWS, Operating income: 2017: $ 4,331 [ID:0]"


def test_prose_that_states_the_fact_comes_before_a_row(answer) -> None:  # type: ignore[no-untyped-def]
    prose = "Research, development and related expenses totaled $1.821 billion in 2018 and $1.870 billion in 2017."
    row = "| | 2018 | 2017 |\n|---|---|---|\n| Research, development and related expenses | 5.6 | 5.9 |\n"
    text = answer("How much did 3M spend on research and development in 2018?", row, prose)
    assert text.startswith(f"{prose} [ID:1]")


def test_a_document_that_the_question_names_comes_first(minilm: MiniLmEmbedder) -> None:
    sentence = "The effective tax rate was {} percent in 2018."
    passages = tuple(
        replace(passage(sentence.format(rate), number=number), document_name=name)
        for number, (rate, name) in enumerate(((20.4, "OTHER_2018_10K.pdf"), (23.4, "BESTBUY_2018_10K.pdf")))
    )
    grounding = Grounding(question="What was Best Buy's effective tax rate in 2018?", passages=passages)
    text = "".join(delta.text for delta in ExtractiveChat(minilm).stream(ChatRequest(turns=(), grounding=grounding)))
    assert text == "The effective tax rate was 23.4 percent in 2018. [ID:1]"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (
            "Figma On September 15, 2022, we agreed to acquire Figma.",
            "On September 15, 2022, we agreed to acquire Figma.",
        ),
        ("Two Peaks, LLC d/b/a Yardbird Furniture In fiscal 2022, we grew.", "In fiscal 2022, we grew."),
        ("Risks Related to Our Business and Operations We depend on airlines.", "We depend on airlines."),
        ("\uf0b7 We evaluated it.", "We evaluated it."),
        ("• First item •", "First item"),
        ('"For the first time, revenue rose.', "For the first time, revenue rose."),
        ("Doctor Who was first shown in 1963.", "Doctor Who was first shown in 1963."),
        ("In 2018, The Hague was chosen.", "In 2018, The Hague was chosen."),
    ],
)
def test_a_quotation_is_readable_on_its_own(raw: str, shown: str) -> None:
    assert readable(raw) == shown


def test_the_passage_with_the_likeliest_row_is_kept() -> None:
    passages = [passage(WEATHER, number=number) for number in range(6)] + [passage(BALANCE, number=6)]
    assert worth_reading("What are Nike's total current assets?", passages, 2) == [0, 6]
    assert worth_reading("What are Nike's total current assets?", passages[:2], 2) == [0, 1]


def test_the_search_knows_what_reports_call_things() -> None:
    assert search_text("What was capex in 2018?") == "What was capex in 2018? purchases of property plant equipment"
    assert search_text("Where is the office?") == "Where is the office?"
