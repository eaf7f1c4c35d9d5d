import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.db.services.names import (
    check_file_name_length,
    clean_file_name,
    clean_folder,
    clean_label,
    deduplicate,
    extension,
    normalise,
)
from rag.core.errors import Conflict, InvalidInput, LimitExceeded

HOSTILE = st.text(
    st.one_of(
        st.sampled_from("/\\.:\x00\n\r\t\u202e\u2066\u200b\ufeff\u2044\uff0f\uff3c\ud800\udfff()* \u200d\u0301"),
        st.characters(),
    ),
    max_size=60,
)


@given(HOSTILE)
def test_a_cleaned_file_name_is_harmless_and_stays_as_it_is(name: str) -> None:
    try:
        cleaned = clean_file_name(name)
    except InvalidInput:
        return
    assert cleaned.strip(".")
    assert cleaned == cleaned.strip()
    assert not set(cleaned) & set("/\\\x00\n\r\t\u2044\u2215\uff0f\uff3c")
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in cleaned)
    assert not set(cleaned) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\ufeff\u200b")
    cleaned.encode("utf-8")
    assert clean_file_name(cleaned) == cleaned


@given(HOSTILE)
def test_a_cleaned_folder_has_no_way_up(path: str) -> None:
    cleaned = clean_folder(path)
    assert not cleaned.startswith("/")
    assert all(part.strip(".") for part in cleaned.split("/") if cleaned)
    assert clean_folder(cleaned) == cleaned
    cleaned.encode("utf-8")


@given(HOSTILE)
def test_normal_forms_are_short_and_settled(name: str) -> None:
    norm = normalise(name)
    assert normalise(norm) == norm
    assert normalise(name.upper().lower()) == normalise(name.lower())
    assert len(normalise(name * 40)) <= 255


@given(st.text(st.sampled_from("ab().1"), min_size=1, max_size=8), st.integers(1, 12))
def test_deduplicated_names_are_free_and_keep_the_extension(name: str, copies: int) -> None:
    taken: set[str] = set()
    for _ in range(copies):
        free = deduplicate(name, taken.__contains__)
        assert free not in taken
        assert extension(free) == extension(name)
        taken.add(free)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd.txt", "passwd.txt"),
        ("C:\\Users\\ann\\report.pdf", "report.pdf"),
        ("a\x00b.pdf", "ab.pdf"),
        ("re\u202efdp.exe", "refdp.exe"),
        ("a\uff0fb.pdf", "a_b.pdf"),
        (" line\nbreak.txt ", "line break.txt"),
        ("e\u0301te\u0301.md", "\u00e9t\u00e9.md"),
        ("\ud800.txt", "\ufffd.txt"),
        ("年度报告.pdf", "年度报告.pdf"),
        ("👩\u200d🔬.txt", "👩\u200d🔬.txt"),
        ("CON.txt", "CON.txt"),
        ("'; DROP TABLE document; --.csv", "'; DROP TABLE document; --.csv"),
    ],
)
def test_file_names(sent: str, kept: str) -> None:
    assert clean_file_name(sent) == kept


@pytest.mark.parametrize("name", ["", ".", "..", "a/", "a/..", "\x00", " ", "\u202e", "...."])
def test_names_without_a_name_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        clean_file_name(name)
    assert caught.value.facts["field"] == "name"


@pytest.mark.parametrize(
    ("path", "kept"),
    [("a/b", "a/b"), ("/a//b/", "a/b"), ("../../x", "x"), ("a\\b", "a/b"), ("", ""), ("./.", ""), ("a\x00/b", "a/b")],
)
def test_folders(path: str, kept: str) -> None:
    assert clean_folder(path) == kept


@pytest.mark.parametrize(
    ("name", "following"),
    [
        ("a.pdf", "a(1).pdf"),
        ("a(1).pdf", "a(2).pdf"),
        ("a(09).pdf", "a(10).pdf"),
        ("v1.0", "v1(1).0"),
        ("plain", "plain(1)"),
        (".bashrc", ".bashrc(1)"),
        ("a(x).pdf", "a(x)(1).pdf"),
        ("(3)", "(4)"),
    ],
)
def test_the_next_name(name: str, following: str) -> None:
    assert deduplicate(name, {name}.__contains__) == following


def test_a_thousand_tries_are_enough() -> None:
    with pytest.raises(Conflict):
        deduplicate("a.pdf", lambda name: True)


@pytest.mark.parametrize(
    ("one", "other"), [("Report", "REPORT"), ("ﬁle", "FILE"), ("Straße", "STRASSE"), ("Ａ", "a"), ("e\u0301", "É")]
)
def test_names_that_look_alike_compare_alike(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


def test_long_names_with_different_ends_differ() -> None:
    assert normalise("\ufdfa" * 100 + "a") != normalise("\ufdfa" * 100 + "b")


def test_labels_lose_what_cannot_be_seen() -> None:
    assert clean_label(" a\u200b\x07b\tc\u2028d ") == "ab c d"


def test_the_limit_counts_bytes() -> None:
    check_file_name_length("é" * 127)
    with pytest.raises(LimitExceeded) as caught:
        check_file_name_length("é" * 128)
    assert caught.value.facts["size"] == 256
