from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.core.types import TokenUsage, ToolCall
from rag.llm.base import Delta, ToolFragment
from rag.llm.chat_reply import DeltaReader


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], **more}


def call(arguments: str = "", **more: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, "function": {"arguments": arguments}, **more}]}


def named(name: str, call_id: str, arguments: str = "{}", index: int = 0) -> dict[str, Any]:
    return {"index": index, "id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def read(*pieces: dict[str, Any], model: str = "") -> tuple[str, str, Delta]:
    """(reasoning, text, last delta)."""
    reader = DeltaReader(model=model)
    found = [reader.read(piece) for piece in pieces]
    *held, last = reader.last()
    found += [(delta.reasoning, delta.text) for delta in held]
    return "".join(r for r, _ in found), "".join(t for _, t in found), last


def test_text_and_calls_of_one_reply() -> None:
    reader = DeltaReader()
    assert reader.read(chunk({"role": "assistant", "content": "Let me "})) == ("", "Let me ")
    assert reader.take_fragments() == ()
    assert reader.read(chunk({"content": "see.", "tool_calls": [named("find", "a", '{"q"')]})) == ("", "see.")
    assert reader.take_fragments() == (ToolFragment(index=0, name="find", arguments='{"q"'),)
    assert reader.read(chunk(call(": 1}"))) == ("", "")
    assert reader.take_fragments() == (ToolFragment(index=0, arguments=": 1}"),)
    reader.read(chunk(finish="tool_calls"))
    assert reader.last() == [
        Delta(tool_calls=(ToolCall(id="a", name="find", arguments='{"q": 1}'),), finish="tool_calls")
    ]


def test_a_whole_message_with_calls() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [named("find", "a"), named("find", "a")]}
    reader = DeltaReader()
    assert reader.read_whole({"choices": [{"message": message, "finish_reason": "tool_calls"}]}) == ("", "")
    (last,) = reader.last()
    assert [one.name for one in last.tool_calls] == ["find", "find"]
    assert len({one.id for one in last.tool_calls}) == 2


def test_what_is_no_reply() -> None:
    assert DeltaReader().read_whole({"models": []}) is None


def test_the_call_of_old_servers() -> None:
    _, _, last = read(
        chunk({"function_call": {"name": "find", "arguments": ""}}),
        chunk({"function_call": {"arguments": '{"q":1}'}}),
        chunk(finish="function_call"),
    )
    assert [(one.name, one.arguments) for one in last.tool_calls] == [("find", '{"q":1}')]
    assert last.tool_calls[0].id
    assert last.finish == "tool_calls"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("stop", "stop"),
        ("eos", "stop"),
        ("length", "length"),
        ("MAX_TOKENS", "length"),
        ("content_filter", "content_filter"),
        ("SAFETY", "content_filter"),
        ("error", "cut_off"),
        ("insufficient_system_resource", "cut_off"),
        ("tool_calls", "stop"),
        (None, "cut_off"),
    ],
)
def test_finish_reasons_without_calls(said: str | None, meant: str) -> None:
    assert read(chunk({"content": "x"}), chunk(finish=said))[2].finish == meant


@pytest.mark.parametrize(
    ("said", "meant"),
    [("tool_calls", "tool_calls"), ("stop", "tool_calls"), ("length", "length"), (None, "cut_off")],
)
def test_finish_reasons_with_calls(said: str | None, meant: str) -> None:
    last = read(chunk({"tool_calls": [named("find", "a")]}), chunk(finish=said))[2]
    assert last.finish == meant
    assert last.tool_calls[0].problem == ""


def test_calls_that_were_cut_off_say_so() -> None:
    last = read(chunk({"tool_calls": [named("find", "a", '{"q"')]}), chunk(finish="length"))[2]
    assert "cut off" in last.tool_calls[0].problem


def test_usage_that_is_sent_twice_counts_once() -> None:
    usage = [{"prompt_tokens": 7, "completion_tokens": n} for n in (1, 5)]
    last = read(chunk({"content": "x"}, usage=usage[0]), chunk(finish="stop"), {"choices": [], "usage": usage[1]})[2]
    assert last.usage == TokenUsage(prompt_tokens=7, completion_tokens=5)


def test_usage_in_other_places() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 5}
    meant = TokenUsage(prompt_tokens=7, completion_tokens=5)
    moonshot = {"choices": [{"delta": {}, "finish_reason": "stop", "usage": usage}]}
    assert read(moonshot)[2].usage == meant
    assert read(chunk(finish="stop", x_groq={"usage": usage}))[2].usage == meant
    assert read(chunk({"content": "x"}, usage=None), chunk(finish="stop"))[2].usage is None


def test_thinking_in_parts() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    reasoning, text, _ = read(
        chunk({"content": [thinking]}), chunk({"content": [{"type": "text", "text": "4"}, {"type": "reference"}]})
    )
    assert (reasoning, text) == ("Hm.", "4")


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thinking_beside_the_text(field: str) -> None:
    assert read(chunk({field: "Hm", "content": None}), chunk({field: None, "content": "4"}))[:2] == ("Hm", "4")


def test_a_refusal_is_text() -> None:
    assert read(chunk({"content": None, "refusal": "I will not."}))[1] == "I will not."


def test_signed_thinking_goes_with_the_first_call() -> None:
    _, _, last = read(
        chunk({"thinking_blocks": [{"type": "thinking", "thinking": "Hm", "signature": None}]}),
        chunk({"thinking_blocks": [{"type": "thinking", "thinking": "m", "signature": ""}]}),
        chunk({"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "s1"}]}),
        chunk({"thinking_blocks": [{"type": "redacted_thinking", "data": "zz"}]}),
        chunk({"tool_calls": [named("find", "a"), named("find", "b", index=1)]}, "tool_calls"),
        model="claude@Anthropic",
    )
    maker, _, signature = last.tool_calls[0].signature.partition(" ")
    assert maker == "claude@Anthropic"
    assert orjson.loads(signature) == {
        "thinking_blocks": [
            {"type": "thinking", "thinking": "Hmm", "signature": "s1"},
            {"type": "redacted_thinking", "data": "zz"},
        ]
    }
    assert last.tool_calls[1].signature == ""


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "message", "content", "tool_calls", "function", "usage", "finish_reason", "text"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.lists(st.dictionaries(st.sampled_from(["choices", "usage", "x_groq"]), json_values), max_size=5))
def test_no_json_breaks_it(pieces: list[dict[str, Any]]) -> None:
    assert read(*pieces)[2].finish is not None
