import re
import time

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rag.core.types import CitedChunk, Reference
from rag.nlp.citation import (
    MARK,
    MarkFilter,
    Sentence,
    citable_sentences,
    cited_indices,
    count_documents,
    insert_marks,
    outside_code,
    repair_marks,
    with_counts,
    without_marks,
)
from rag.nlp.citation_check import restored

PIECES = st.sampled_from(
    ["[ID:0]", "[ID:7]", "[ID: 2]", "(ID:1)", "【ID:1】", "[ID:1, ID:2]", "ref2", "REF9", "`", "```\n", "\n"]
    + ["~~~\n", " ", "Sales grew by 4.2 %. ", "The U.S. plant", ".", "[", "ID", ":", "1", "]", "中文。", "  "]
    + ["| a | b |\n", "# Head\n"]
)
TEXTS = st.lists(PIECES, max_size=25).map("".join) | st.text(max_size=60)


@pytest.mark.parametrize(
    ("written", "repaired"),
    [
        ("a [ID:1].", "a [ID:1]."),
        ("a (ID:1).", "a [ID:1]."),
        ("a [id: 1 ].", "a [ID:1]."),
        ("part (ID: 2), (id:1) and (ID:1, ID:2)", "part (ID: 2), (id:1) and (ID:1, ID:2)"),
        ("see ref1.2, ref01, x/ref1, _ref1, ref1-2", "see ref1.2, ref01, x/ref1, _ref1, ref1-2"),
        ("x [\u00a0ID:0] y [\nID:1]", "x [\u00a0ID:0] y [\nID:1]"),
        ("a [ID:99[ID:99]] [ID:99[ID:0]]", "a [ID:99[ID:0]]"),
        ("a [ID:[ID:7]1].", "a [ID:1]."),
        ("a [ID: 1].", "a [ID:1]."),
        ("a 【ID:1】。", "a [ID:1]。"),
        ("a （ID：1）。", "a [ID:1]。"),
        ("a ref1.", "a [ID:1]."),
        ("a Ref1 and REF2", "a [ID:1] and [ID:2]"),
        ("a [ref1].", "a [ID:1]."),
        ("a [ID:0][ID:2].", "a [ID:0][ID:2]."),
        ("a [ID:0, ID:2].", "a [ID:0][ID:2]."),
        ("a [ID:0, 2; 0].", "a [ID:0][ID:2]."),
        ("a [ID:3].", "a."),
        ("a [ID:99] b", "a b"),
        ("a [ID:1, ID:99].", "a [ID:1]."),
        ("a [ID:" + "9" * 5000 + "].", "a."),
        ("his badge (ID:4711)", "his badge (ID:4711)"),
        ("ref2021 and preref1", "ref2021 and preref1"),
        ("a [ID:one] [ID:]", "a [ID:one] [ID:]"),
        ("`x[ID: 1]` and\n```\n(ID:1)\n```\n(ID:1)", "`x[ID: 1]` and\n```\n(ID:1)\n```\n[ID:1]"),
        ("```\n(ID:1) not closed", "```\n(ID:1) not closed"),
        ("[ID:7]```\n```\n[ID: 2]", "```\n```\n[ID:2]"),
    ],
)
def test_marks_are_repaired(written: str, repaired: str) -> None:
    assert repair_marks(written, 3).text == repaired


@given(TEXTS, st.integers(0, 5))
def test_after_repair_every_mark_names_a_source_and_a_second_repair_changes_nothing(text: str, sources: int) -> None:
    repaired = repair_marks(text, sources).text
    assert all(n < sources for n in cited_indices(repaired))
    again = repair_marks(repaired, sources).text
    assert cited_indices(again) == cited_indices(repaired)


@given(TEXTS, st.integers(0, 5))
def test_what_a_mark_was_made_of_can_be_put_back(text: str, sources: int) -> None:
    repaired = repair_marks(text, sources)
    assert all(MARK.search(repaired.text[:end][-9:]) for end in repaired.originals)
    assert restored(repaired.text, repaired.originals) == repair_marks(text, sources, loose=False).text


def test_in_quotations_only_square_brackets_make_a_mark() -> None:
    repaired = repair_marks("a (ID:1) ref2 [ID: 0]", 3, loose=False)
    assert (repaired.text, dict(repaired.originals), repaired.marked) == ("a (ID:1) ref2 [ID:0]", {}, True)
    assert not repair_marks("a (ID:1) ref2", 3).marked


def test_borders_of_code_that_move_on_and_on_come_to_rest() -> None:
    text = "".join(f"[ID:7]```\n```\n[ID:{n}]~~~\n~~~\n" for n in range(50))
    repaired = repair_marks(text, 3).text
    assert all(n < 3 for n in cited_indices(repaired))
    assert cited_indices(without_marks(text)) == ()


@given(st.text(alphabet="ab .\n`~", max_size=60), st.integers(0, 5))
def test_repair_leaves_a_text_without_marks_alone(text: str, sources: int) -> None:
    assert repair_marks(text, sources).text == text


@given(TEXTS)
def test_code_and_text_put_together_are_the_whole(text: str) -> None:
    assert outside_code(text, lambda part: part) == text


def test_cited_indices_come_once_in_order_and_not_from_code() -> None:
    assert cited_indices("a [ID:5] b [ID:0][ID:5] `[ID:3]`\n```\n[ID:4]\n```\n[ID:10]") == (5, 0, 10)


def test_marks_of_both_forms_are_removed() -> None:
    assert without_marks("a [ID:1][ID:2]. b ##0$$. `c [ID:1]`") == "a. b. `c [ID:1]`"


@given(TEXTS, st.lists(st.integers(1, 7), min_size=1, max_size=40))
@example("a [ID:1]", [1])
def test_the_filter_removes_marks_however_the_text_is_cut(text: str, sizes: list[int]) -> None:
    marks = MarkFilter()
    shown, start, turn = "", 0, 0
    while start < len(text):
        size = sizes[turn % len(sizes)]
        shown += marks.feed(text[start : start + size])
        start, turn = start + size, turn + 1
    shown += marks.rest()
    whole = MarkFilter()
    assert shown == whole.feed(text) + whole.rest()
    assert not re.search(r"[\[【] ?ID: ?\d+[\]】]|\(ID:\d\)", shown)


EVERY_FORM = "a [ID: 0] b 【ID:0】 (ID:0) [ID:[ID:1]1] [ID:1, ID:2] [ID   [ID:3]:4] ##5$$"


def test_no_form_passes_the_filter_whole_or_in_pieces() -> None:
    marks = MarkFilter()
    assert marks.feed(EVERY_FORM) + marks.rest() == without_marks(EVERY_FORM) == "a b"
    assert "".join(map(marks.feed, EVERY_FORM)) + marks.rest() == "a b"
    kept = "his badge (ID:4711) or (ID: 5), [ID] and [ID:x]"
    assert marks.feed(kept) + marks.rest() == without_marks(kept) == kept


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_nested_without_end_no_mark_passes_and_little_is_held(size: int) -> None:
    marks = MarkFilter()
    text = "[ID:1" * 1000 + "]" * 1000 + "[" * 5000
    began = time.thread_time()
    shown = ""
    for start in range(0, len(text), size):
        shown += marks.feed(text[start : start + size])
        assert len(marks._held) < 400
    assert without_marks(shown) == shown
    assert time.thread_time() - began < 15


def test_the_filter_holds_back_no_more_than_it_must() -> None:
    marks = MarkFilter()
    assert [marks.feed(piece) for piece in ["One", " two", " [ID", ":0", "]", ". [I am", "]"]] == [
        "One", " two", "", "", "", ". [I am", "]",
    ]  # fmt: skip


def test_sentences_of_prose_only() -> None:
    answer = "# Results 2022\n\nSales grew. The U.S. plant closed!\n- First item here\n| a | b |\n|---|---|\n"
    answer += "\n```\nx = 1.\n```\nEnd"
    found = citable_sentences(answer)
    assert [each.text for each in found] == ["Sales grew.", "The U.S. plant closed!", "- First item here", "End"]
    assert all(answer[: each.end].endswith(each.text) for each in found)


def test_a_sentence_that_the_limit_cuts_gets_no_mark() -> None:
    answer = "Sales grew. " + "Debt fell and " * 4000
    assert [each.text for each in citable_sentences(answer)] == ["Sales grew."]


@given(TEXTS)
def test_sentences_lie_in_the_answer_in_order(text: str) -> None:
    found = citable_sentences(text)
    ends = [each.end for each in found]
    assert ends == sorted(ends)
    assert all(text[: each.end].endswith(each.text) for each in found)


@given(TEXTS, st.integers(0, 6), st.randoms(use_true_random=False))
def test_insertion_only_adds_marks_each_once_at_most_four_together(text: str, sources: int, random: object) -> None:
    answer = without_marks(text)
    claims = citable_sentences(answer)
    scores = np.array([[random.random() for _ in range(sources)] for _ in claims], dtype=np.float32)  # type: ignore[attr-defined]
    scores = scores.reshape(len(claims), sources)
    cited = insert_marks(answer, claims, scores)
    added = re.findall(r" ((?:\[ID:\d+\])+)", cited) if cited != answer else []
    before = re.findall(r" ((?:\[ID:\d+\])+)", answer)
    assert sum(len(each) for each in added) - sum(len(each) for each in before) + cited.count(" [ID:") - answer.count(
        " [ID:"
    ) == len(cited) - len(answer)
    for n in range(sources):
        assert cited.count(f"[ID:{n}]") - answer.count(f"[ID:{n}]") in (0, 1)
    if not before:
        assert all(each.count("[ID:") <= 4 for each in added)


def test_a_source_is_cited_where_it_supports_best() -> None:
    answer = "One two three. Four five six. Seven eight nine."
    claims = citable_sentences(answer)
    scores = np.array([[0.6, 0.1], [0.9, 0.88], [0.2, 0.3]], dtype=np.float32)
    assert insert_marks(answer, claims, scores) == "One two three. Four five six. [ID:0][ID:1] Seven eight nine."


def test_of_many_sources_the_best_four_are_cited_in_order() -> None:
    claims = [Sentence(text="A b c.", end=6)]
    scores = np.array([[0.90, 0.95, 0.91, 0.99, 0.92, 0.98]], dtype=np.float32)
    assert insert_marks("A b c.", claims, scores) == "A b c. [ID:1][ID:3][ID:4][ID:5]"


def test_below_the_threshold_and_far_from_the_best_nothing_is_cited() -> None:
    claims = [Sentence(text="A b c.", end=6)]
    assert insert_marks("A b c.", claims, np.array([[0.49]], dtype=np.float32)) == "A b c."
    assert insert_marks("A b c.", claims, np.array([[0.95, 0.7]], dtype=np.float32)) == "A b c. [ID:0]"
    assert insert_marks("", [], np.zeros((0, 3), dtype=np.float32)) == ""


def chunk(index: int, document_id: str) -> CitedChunk:
    return CitedChunk(
        index=index, chunk_id=f"c{index}", document_id=document_id, document_name=f"{document_id}.pdf", dataset_id="k",
        content="text", positions=(), similarity=0.5, vector_similarity=0.5, term_similarity=0.5,
    )  # fmt: skip


def test_documents_are_counted_by_what_is_cited_or_all() -> None:
    chunks = (chunk(0, "a"), chunk(1, "b"), chunk(2, "b"), chunk(3, "c"))
    reference = with_counts(Reference(total=9, chunks=chunks), "x [ID:0] y [ID:2][ID:1]")
    assert [(each.document_name, each.count) for each in reference.documents] == [("b.pdf", 2), ("a.pdf", 1)]
    everything = with_counts(reference, "nothing cited")
    assert sum(each.count for each in everything.documents) == 4
    assert (everything.total, everything.chunks) == (9, chunks)
    assert count_documents((), frozenset({1})) == ()


HOSTILE = [
    "`" * 20000,
    "[ID:" * 8000,
    "(ID:1," * 8000,
    " " * 30000,
    "\t [ID" * 8000,
    "```\n" * 5001,
    "~~~\n" + "```\n" * 4000,
    " " * 39_000 + "x",
    "[ID:99" * 3000 + "]" * 3000,
    "[ID:7]```\n```\n[ID: 2]" * 1500,
    "[" * 39_000,
    "ref1 " * 8000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:6]))
def test_no_text_takes_long(text: str) -> None:
    began = time.thread_time()
    repair_marks(text, 3)
    without_marks(text)
    cited_indices(text)
    MarkFilter().feed(text)
    citable_sentences(text)
    assert time.thread_time() - began < 2
