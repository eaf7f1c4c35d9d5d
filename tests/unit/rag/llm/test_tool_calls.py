import itertools
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.core.errors import ModelBadOutput
from rag.core.types import ToolCall
from rag.llm import tool_calls
from rag.llm.base import ToolFragment
from rag.llm.tool_calls import (
    MAX_ARGUMENT_CHARS,
    MAX_CALLS,
    MAX_TOLD_CHARS,
    ToolCallAssembler,
    signature_for,
    signed_for,
)


def piece(
    arguments: str | None = None, *, index: int | None = None, call_id: str | None = None, name: str | None = None
) -> dict[str, Any]:
    """One entry of `tool_calls`; what is None is not sent."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    found: dict[str, Any] = {"function": function}
    if index is not None:
        found["index"] = index
    if call_id is not None:
        found["id"] = call_id
    return found


def assembled(*deltas: list[Any], cut: bool = False) -> tuple[ToolCall, ...]:
    assembler = ToolCallAssembler()
    for delta in deltas:
        assembler.feed(delta)
    return assembler.calls(cut=cut)


def told(calls: tuple[ToolCall, ...]) -> list[tuple[str, str]]:
    return [(call.name, call.arguments) for call in calls]


ARGUMENTS = '{"query": "Büro in Genf \\u00e9 🙂", "top": {"k": [1, 2]}}'


def test_every_split_of_the_arguments_gives_the_same() -> None:
    for first, second in itertools.combinations_with_replacement(range(len(ARGUMENTS) + 1), 2):
        parts = [ARGUMENTS[:first], ARGUMENTS[first:second], ARGUMENTS[second:]]
        deltas = [[piece(part, index=0)] for part in parts]
        calls = assembled([piece("", index=0, call_id="a", name="find")], *deltas)
        assert calls == (ToolCall(id="a", name="find", arguments=ARGUMENTS),)


def test_one_character_at_a_time() -> None:
    deltas = [[piece(char, index=0)] for char in ARGUMENTS]
    assert told(assembled([piece(index=0, call_id="a", name="find")], *deltas)) == [("find", ARGUMENTS)]


json_objects = st.dictionaries(
    st.text(max_size=5), st.one_of(st.integers(-99, 99), st.text(max_size=9), st.lists(st.booleans(), max_size=3))
)
numbering = st.sampled_from(["index", "zero and ids", "ids on each", "index and ids on each"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[tuple[str, str, str]], list[dict[str, Any]]]:
    """The calls that are meant, and their pieces, mixed as their numbering allows."""
    style = draw(numbering)
    calls = [
        (f"id{n}", draw(st.sampled_from(["find", "read"])), orjson.dumps(value).decode())
        for n, value in enumerate(draw(st.lists(json_objects, min_size=1, max_size=4)))
    ]
    queues: list[list[dict[str, Any]]] = []
    for n, (call_id, name, arguments) in enumerate(calls):
        cuts = sorted(draw(st.lists(st.integers(0, len(arguments)), max_size=4)))
        parts = [arguments[a:b] for a, b in zip([0, *cuts], [*cuts, len(arguments)], strict=True)]
        index = {"index": n, "zero and ids": 0, "ids on each": None, "index and ids on each": n}[style]
        later = call_id if "on each" in style else None
        queues.append([piece("", index=index, call_id=call_id, name=name)])
        queues[-1] += [piece(part, index=index, call_id=later) for part in parts]
    if style == "zero and ids":
        return calls, [one for queue in queues for one in queue]
    mixed = [queue.pop(0) for queue in queues]
    while any(queues):
        mixed.append(draw(st.sampled_from([queue for queue in queues if queue])).pop(0))
    return calls, mixed


@given(streams())
def test_parallel_calls_are_told_apart(stream: tuple[list[tuple[str, str, str]], list[dict[str, Any]]]) -> None:
    calls, pieces = stream
    found = assembled(*([one] for one in pieces))
    assert [(call.id, call.name, call.arguments) for call in found] == calls
    assert not any(call.problem for call in found)


@given(streams())
def test_fragments_add_up_to_the_calls(stream: tuple[list[tuple[str, str, str]], list[dict[str, Any]]]) -> None:
    calls, pieces = stream
    assembler = ToolCallAssembler()
    fragments = [fragment for one in pieces for fragment in assembler.feed([one])]
    for number, (_, name, arguments) in enumerate(calls):
        own = [fragment for fragment in fragments if fragment.index == number]
        assert ("".join(f.name for f in own), "".join(f.arguments for f in own)) == (name, arguments)
        assert own[0].name == name


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=4) | st.sampled_from(["a", "{}", '{"a":1}']),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "index", "function", "name", "arguments"]), inner, max_size=5)
    ),
)


@given(st.lists(st.lists(anything, max_size=4), max_size=8), st.booleans())
def test_no_piece_breaks_it(deltas: list[list[Any]], cut: bool) -> None:
    calls = assembled(*deltas, cut=cut)
    assert len({call.id for call in calls}) == len(calls)
    for call in calls:
        assert call.problem or isinstance(orjson.loads(call.arguments), dict)


def test_no_ids_and_no_indexes_but_whole_calls() -> None:
    calls = assembled([piece('{"a":1}', name="find")], [piece('{"a":2}', name="find"), piece("{}", name="read")])
    assert told(calls) == [("find", '{"a":1}'), ("find", '{"a":2}'), ("read", "{}")]
    assert len({call.id for call in calls}) == 3
    assert all(call.id for call in calls)


def test_empty_ids_and_index_zero_for_all() -> None:
    calls = assembled(
        [piece('{"a":1}', index=0, call_id="", name="find")], [piece('{"a":2}', index=0, call_id="", name="find")]
    )
    assert told(calls) == [("find", '{"a":1}'), ("find", '{"a":2}')]


def test_a_name_on_each_piece_is_one_call() -> None:
    calls = assembled(*([piece(part, index=0, name="find")] for part in ("", '{"a"', ":1", "}")))
    assert told(calls) == [("find", '{"a":1}')]


def test_a_new_id_on_each_piece_is_one_call() -> None:
    calls = assembled(
        [piece("", index=0, call_id="r1", name="find")],
        [piece('{"a":', index=0, call_id="r2")],
        [piece("1}", index=0, call_id="r3")],
    )
    assert [(call.id, call.name, call.arguments) for call in calls] == [("r1", "find", '{"a":1}')]


def test_an_id_that_comes_late_belongs_to_its_call() -> None:
    calls = assembled([piece(index=0, name="find")], [piece("{}", index=0, call_id="late")])
    assert [(call.id, call.name) for call in calls] == [("late", "find")]


def test_an_id_given_twice_is_made_unique() -> None:
    calls = assembled([piece("{}", index=0, call_id="x", name="a")], [piece("{}", index=1, call_id="x", name="b")])
    assert [call.name for call in calls] == ["a", "b"]
    assert calls[0].id == "x"
    assert calls[1].id not in ("", "x")


def test_each_of_a_whole_message_is_a_call_of_its_own() -> None:
    assembler = ToolCallAssembler()
    assembler.feed([piece("", index=0, name="find"), piece("", index=0, name="find")], whole=True)
    assert told(assembler.calls()) == [("find", "{}"), ("find", "{}")]


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [("", "{}"), (" \n", "{}"), ("null", "{}"), (' {"a": 1} ', ' {"a": 1} '), ('"{\\"a\\": 1}"', '{"a": 1}')],
)
def test_arguments_that_can_be_used(arguments: str, kept: str) -> None:
    (call,) = assembled([piece(arguments, index=0, call_id="a", name="find")])
    assert (call.arguments, call.problem) == (kept, "")


@pytest.mark.parametrize("arguments", ["[1]", "1", '"a"', '"[1]"', '{"a":', "{'a': 1}", '{"a": NaN}', "{}{}"])
def test_arguments_that_cannot_be_used(arguments: str) -> None:
    (call,) = assembled([piece(arguments, index=0, call_id="a", name="find")])
    assert call.problem == "The call cannot be used: its arguments are not a JSON object."
    assert call.arguments == arguments


@pytest.mark.parametrize(("arguments", "cut_off"), [("", True), ('{"a":', True), ('{"a":1}', False)])
def test_a_reply_that_was_cut_off(arguments: str, cut_off: bool) -> None:
    (call,) = assembled([piece(arguments, index=0, call_id="a", name="find")], cut=True)
    assert ("cut off" in call.problem) is cut_off


def test_arguments_as_an_object() -> None:
    (call,) = assembled([{"id": "a", "function": {"name": "find", "arguments": {"a": [1]}}}])
    assert (call.arguments, call.problem) == ('{"a":[1]}', "")


def test_a_call_without_a_name() -> None:
    (call,) = assembled([piece("{}", index=0, call_id="a")])
    assert "names no tool" in call.problem


def test_arguments_beyond_the_limit_are_not_kept() -> None:
    half = "x" * (MAX_ARGUMENT_CHARS // 2)
    calls = assembled(
        [piece("{}", index=0, call_id="a", name="small")], *([piece(half, index=1, name="big")] for _ in range(4))
    )
    assert (calls[0].problem, calls[1].arguments) == ("", "{}")
    assert "longer than" in calls[1].problem


def test_calls_beyond_the_limit_are_refused() -> None:
    with pytest.raises(ModelBadOutput, match="tools at once"):
        assembled([piece("{}", index=number, name="find") for number in range(MAX_CALLS + 1)])


@pytest.mark.parametrize(
    ("extra", "signature"),
    [
        ({"id": "a", "extra_content": {"google": {"thought_signature": "sig=="}}}, "google:sig=="),
        ({"id": "a", "provider_specific_fields": {"thought_signature": "sig=="}}, "sig=="),
        ({"id": "a__thought__sig=="}, "sig=="),
        ({"id": "a", "extra_content": {"google": {}}, "provider_specific_fields": {}}, ""),
    ],
)
def test_a_signature_is_kept_apart(extra: dict[str, Any], signature: str) -> None:
    (call,) = assembled([piece("{}", index=0, name="find") | extra])
    assert (call.id, call.signature) == ("a", signature)


def test_a_signature_is_for_the_model_that_made_it() -> None:
    (call,) = signed_for("gemini@Google", (ToolCall(id="a", name="b", arguments="{}", signature="sig=="),))
    assert signature_for("gemini@Google", call) == "sig=="
    assert signature_for("other@Google", call) == ""


def test_a_piece_that_adds_nothing_shows_nothing() -> None:
    assembler = ToolCallAssembler()
    assert not assembler
    assert assembler.feed([piece("", index=0, call_id="a", name="find")]) == [ToolFragment(index=0, name="find")]
    assert assembler.feed([piece("", index=0)]) == []
    assert assembler


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of all arguments that were parsed."""
    found: list[int] = []
    parse = tool_calls._object

    def counted(arguments: str) -> str | None:
        found.append(len(arguments))
        return parse(arguments)

    monkeypatch.setattr(tool_calls, "_object", counted)
    return found


@pytest.mark.parametrize("begin", ['{"a":"' + "x" * 1000, "{}x", "{}]", "}{", '{"a" x}', "{}", '{"a":"' + "\\" * 3])
@pytest.mark.parametrize("more", ["}", " ", "{}", '"}', "\\"])
def test_many_ids_cost_few_parses(parses: list[int], begin: str, more: str) -> None:
    assembler = ToolCallAssembler()
    assembler.feed([piece("", index=1, call_id="other", name="read"), piece(begin, index=0, call_id="c", name="find")])
    with suppress(ModelBadOutput):  # What is whole is followed by another call, and these have a limit.
        for n in range(500):
            assembler.feed([piece(more, index=0, call_id="c"), piece(more, index=0, call_id="other")])
            assembler.feed([piece(more, index=0, call_id="c"), piece(more, index=0, call_id=f"c{n}")])
    assert len(parses) <= MAX_CALLS


@given(json_objects, st.data())
def test_where_a_call_is_whole_is_known_however_it_is_cut(value: dict[str, Any], data: st.DataObject) -> None:
    text = orjson.dumps({**value, 'b"}': '\\"}{\\\\', "c": {"d": ["}"]}}).decode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    call = tool_calls._Open(0, "a")
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        call.add(text[start:end])
        assert call.is_whole() is (end == len(text))
    call.add(" \n")
    assert call.is_whole()
    call.add("{}")
    assert not call.is_whole()


def test_arguments_without_an_end_are_refused() -> None:
    assembler = ToolCallAssembler()
    big = piece("x" * MAX_ARGUMENT_CHARS, index=0, call_id="a", name="find")
    for _ in range(MAX_TOLD_CHARS // MAX_ARGUMENT_CHARS):
        assembler.feed([big])
    assert "longer than" in assembler.calls()[0].problem
    with pytest.raises(ModelBadOutput, match="arguments"):
        assembler.feed([piece("x", index=0)])
