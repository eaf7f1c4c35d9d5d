import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.nlp.analysis import MAX_TOKEN_CHARS, analyse, index_tokens, query_terms


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        (" \n\t()", []),
        ("Companies' running costs", ["compani", "run", "cost"]),
        ("the company's", ["the", "compani"]),
        ("$1,577.00", ["1577"]),
        ("1,577", ["1577"]),
        ("1577.50", ["1577.50"]),
        ("2018,2017,2016", ["2018", "2017", "2016"]),
        ("v1.2", ["v1.2", "v1", "2"]),
        ("10-K", ["10k", "10", "k"]),
        ("10K", ["10k", "10"]),
        ("10\u2011K", ["10k", "10", "k"]),
        ("FY2018", ["fy2018", "fy", "2018"]),
        ("U.S. GAAP", ["us", "gaap"]),
        ("user_name", ["usernam", "user", "name"]),
        ("C++ and C#", ["c++", "c", "and", "c#", "c"]),
        ("state-of-the-art", ["state", "of", "the", "art"]),
        ("\ufb01nance Stra\u00dfe", ["financ", "strass"]),
        ("\uff11\uff12 \u0663\u0664", ["12", "34"]),
        ("na\u00efve cafe\u0301", ["na\u00efv", "caf\u00e9"]),
        ("\u9ed1\u8c79\u961f", ["\u9ed1", "\u8c79", "\u961f", "\u9ed1\u8c79", "\u8c79\u961f"]),
        ("AI\u6280\u672f", ["ai", "\u6280", "\u672f", "\u6280\u672f"]),
        ("\u30ab\u30bf", ["\u30ab", "\u30bf", "\u30ab\u30bf"]),
        ("\ud55c\uad6d", ["\ud55c", "\uad6d", "\ud55c\uad6d"]),
        ("\u0e01\u0e34\u0e19", ["\u0e01\u0e34", "\u0e19", "\u0e01\u0e34\u0e19"]),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", ["\u0939\u093f\u0928\u094d\u0926\u0940"]),
        ("soft\u00adhyphen", ["softhyphen"]),
    ],
)
def test_tokens(text: str, tokens: list[str]) -> None:
    assert analyse(text) == tokens


@pytest.mark.parametrize(
    ("question", "passage"),
    [
        ("10K", "Form 10-K"),
        ("capex in FY2018", "Year ended 2018"),
        ("$1577.00", "| 1,577 |"),
        ("covid 19", "COVID-19"),
        ("covid-19", "COVID19"),
        ("U.S.", "US"),
        ("\u9ed1\u8c79", "\u5361\u7f57\u83b1\u7eb3\u9ed1\u8c79\u961f"),
    ],
)
def test_spellings_meet(question: str, passage: str) -> None:
    assert set(analyse(question)) & set(analyse(passage))


def test_a_question_has_each_term_once() -> None:
    assert query_terms("to be or not to be") == ("to", "be", "or", "not")


@given(st.text(max_size=400))
def test_no_token_is_empty_long_or_holds_white_space(text: str) -> None:
    tokens = analyse(text)
    assert all(token and len(token) <= MAX_TOKEN_CHARS for token in tokens)
    assert index_tokens(text).split() == tokens
    assert not any(c.isspace() or unicodedata.category(c) in ("Cc", "Cs", "Zs") for t in tokens for c in t)


@given(st.text(max_size=200))
def test_the_same_text_gives_the_same_tokens_however_it_is_encoded(text: str) -> None:
    assert analyse(unicodedata.normalize("NFD", text)) == analyse(unicodedata.normalize("NFC", text))


@given(
    st.lists(
        st.sampled_from(["word", "10-K", "\u9ed1\u8c79", "v1.2", "a.b.", "'", "\u0e01\u0e34", "1,000"]), max_size=30
    )
)
def test_lines_are_analysed_apart(words: list[str]) -> None:
    assert analyse("\n".join(words)) == [token for word in words for token in analyse(word)]


@pytest.mark.parametrize(
    "text", ["a" * 100_000, "a-" * 50_000, "1," * 50_000, "\u9ed1" * 20_000, "'" * 50_000, "a'" * 50_000]
)
def test_hostile_runs_end_soon(text: str) -> None:
    assert all(len(token) <= MAX_TOKEN_CHARS for token in analyse(text))
