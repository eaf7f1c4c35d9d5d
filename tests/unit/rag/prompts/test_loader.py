import hashlib
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.core.errors import InvalidInput
from rag.prompts.loader import PLACEHOLDERS, fill, has_slot, load_prompts, slots

NASTY = "{x.__init__.__globals__} {{''.__class__}} {question} {history} %s ${a} {0} {} } {"


def folder_with(tmp_path: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (tmp_path / f"{name}.md").write_text(text, "utf-8")
    return tmp_path


def test_all_prompts_of_the_project_load() -> None:
    prompts = load_prompts()
    for name, takes in PLACEHOLDERS.items():
        assert prompts[name].placeholders == takes
        assert prompts[name].text


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    prompts = load_prompts(folder_with(tmp_path, a="Say {word}.\n"), {"a": frozenset({"word"})})
    assert prompts.hashes == {"a": hashlib.sha256(b"Say {word}.\n").hexdigest()}


@pytest.mark.parametrize(
    ("text", "takes"),
    [("Say {word}.", set()), ("Say.", {"word"}), ("Say {word} {other}.", {"word"})],
    ids=["unknown", "missing", "one-too-many"],
)
def test_placeholders_are_checked_at_load(tmp_path: Path, text: str, takes: set[str]) -> None:
    with pytest.raises(InvalidInput, match="placeholders"):
        load_prompts(folder_with(tmp_path, a=text), {"a": frozenset(takes)})


def test_files_and_table_must_agree(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="missing"):
        load_prompts(tmp_path, {"a": frozenset()})
    with pytest.raises(InvalidInput, match="not known"):
        load_prompts(folder_with(tmp_path, b="x"), {})


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match="UTF-8"):
        load_prompts(tmp_path, {"a": frozenset()})


def test_values_are_put_in_once_and_stay_literal() -> None:
    text = load_prompts()["full_question"].render(history=NASTY, question=NASTY)
    assert text.count(NASTY) == 2


def test_the_values_must_be_those_the_prompt_takes() -> None:
    prompt = load_prompts()["full_question"]
    with pytest.raises(TypeError, match="takes"):
        prompt.render(question="a")
    with pytest.raises(TypeError, match="takes"):
        prompt.render(question="a", history="b", more="c")


def test_only_braces_without_a_value_stay() -> None:
    assert fill('{"json": 1} {a} {b} {a.b} {{a}}', {"a": "{b}"}) == '{"json": 1} {b} {b} {a.b} {{b}}'
    assert has_slot("x {a b} y", "a b")
    assert not has_slot("x {a.b} y", "a")


@given(st.dictionaries(st.sampled_from(["a", "b", "knowledge"]), st.text()), st.text())
def test_filling_never_looks_at_values_again(values: dict[str, str], rest: str) -> None:
    marked = {key: f"<{value}>" for key, value in values.items()}
    text = fill("{a}|{b}|{knowledge}", marked)
    assert text == "|".join(marked.get(key, f"{{{key}}}") for key in ("a", "b", "knowledge"))
    assert fill(rest, {}) == rest


def test_a_long_value_that_is_named_a_thousand_times_is_not_put_together() -> None:
    value = "a" * 1_000_000
    tracemalloc.start()
    try:
        text = fill("-{x}" * 1000, {"x": value}, most_chars=100_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert text == f"-{value}"[:100_000]
    assert peak < 5_000_000


@given(st.text(alphabet="{}ab \n"), st.integers(0, 40))
def test_what_is_filled_is_the_beginning_of_it_all(text: str, most: int) -> None:
    values = {"a": "{b}", "b": "", "ab": "long value"}
    assert fill(text, values, most_chars=most) == fill(text, values)[:most]


def test_slots_are_counted() -> None:
    assert slots("{a}{b} {a}{} {{a}} { a\n}") == {"a": 3, "b": 1}
