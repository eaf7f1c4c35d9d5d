from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.core.types import TokenUsage, ToolCall
from rag.llm.base import Delta, ToolFragment
from rag.llm.responses_reply import ResponsesReader


def text(delta: Any, **more: Any) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "item_id": "msg", "output_index": 0, "delta": delta, **more}


def thought(delta: str, kind: str = "reasoning_summary_text") -> dict[str, Any]:
    return {"type": f"response.{kind}.delta", "item_id": "rs", "delta": delta}


def call(number: int, arguments: str = "", **more: Any) -> dict[str, Any]:
    item = {"type": "function_call", "id": f"fc{number}", "call_id": f"call{number}", "name": f"tool{number}"}
    return item | {"arguments": arguments, **more}


def event(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", **more}


def added(number: int, **more: Any) -> dict[str, Any]:
    return event("output_item.added", item=call(number), **more)


def arguments(number: int, delta: str, **more: Any) -> dict[str, Any]:
    return event("function_call_arguments.delta", item_id=f"fc{number}", delta=delta, **more)


def completed(*output: dict[str, Any], **more: Any) -> dict[str, Any]:
    return event("completed", response={"status": "completed", "output": list(output), **more})


def message(said: str) -> dict[str, Any]:
    return {"type": "message", "id": "msg", "content": [{"type": "output_text", "text": said}]}


def read(*events: dict[str, Any], model: str = "") -> tuple[str, str, Delta]:
    """(reasoning, text, last delta)."""
    reader = ResponsesReader(model=model)
    found = [reader.read(one) for one in events]
    *held, last = reader.last()
    found += [(delta.reasoning, delta.text) for delta in held]
    return "".join(r for r, _ in found), "".join(t for _, t in found), last


def told(last: Delta) -> list[tuple[str, str, str]]:
    return [(one.id, one.name, one.arguments) for one in last.tool_calls]


def test_text_thinking_and_usage() -> None:
    usage = {"input_tokens": 9, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 4}}
    usage |= {"output_tokens_details": {"reasoning_tokens": 3}}
    reasoning, said, last = read(
        thought("Hm"), thought("m."), text("Hel"), text("lo"), completed(message("Hello"), usage=usage)
    )
    assert (reasoning, said) == ("Hmm.", "Hello")
    assert last == Delta(
        usage=TokenUsage(prompt_tokens=9, completion_tokens=5, cached_tokens=4, reasoning_tokens=3), finish="stop"
    )


def test_what_was_streamed_is_not_read_again() -> None:
    item = {"type": "reasoning", "id": "other", "summary": [{"type": "summary_text", "text": "Hm"}]}
    reasoning, said, last = read(
        thought("Hm"),
        event("output_item.done", item=item),
        text("Hello"),
        event("output_item.done", item=message("Hello") | {"id": "changed"}),
        added(1, output_index=2),
        arguments(1, "{}"),
        event("function_call_arguments.done", item_id="fc1", arguments="{}"),
        event("output_item.done", item=call(1, "{}"), output_index=2),
        completed(item, message("Hello"), call(1, "{}", id="changed")),
    )
    assert (reasoning, said, told(last)) == ("Hm", "Hello", [("call1", "tool1", "{}")])


def test_what_was_not_streamed_is_read_at_the_end_of_its_item() -> None:
    reasoning, said, last = read(
        event("output_item.done", item={"type": "reasoning", "id": "rs", "content": [{"text": "Hm"}]}),
        event("output_item.done", item=message("Hello")),
        event("output_item.done", item=call(1, '{"a":1}')),
        completed(),
    )
    assert (reasoning, said, told(last)) == ("Hm", "Hello", [("call1", "tool1", '{"a":1}')])


def test_what_was_not_streamed_is_read_at_the_end_of_the_reply() -> None:
    _, said, last = read(completed(message("Hello"), call(1, '{"a":1}'), call(2)))
    assert (said, told(last)) == ("Hello", [("call1", "tool1", '{"a":1}'), ("call2", "tool2", "{}")])
    assert last.finish == "tool_calls"


def test_two_messages_are_both_read() -> None:
    _, said, _ = read(
        text("One. "),
        event("output_item.done", item=message("One. ")),
        event("output_item.done", item=message("Two.")),
        completed(message("One. "), message("Two.")),
    )
    assert said == "One. Two."


@pytest.mark.parametrize("place", [lambda n: {"output_index": n}, lambda n: {"output_index": 0}, lambda n: {}])
def test_parallel_calls_in_pieces(place: Any) -> None:
    whole = {1: '{"a": [1, 2]}', 2: '{"b": "ü"}'}
    events = [added(n, **place(n)) for n in whole]
    for at in range(max(map(len, whole.values()))):
        events += [arguments(n, one[at], **place(n)) for n, one in whole.items() if at < len(one)]
    events += [event("output_item.done", item=call(n, one), **place(n)) for n, one in whole.items()]
    reader = ResponsesReader()
    fragments: list[ToolFragment] = []
    for one in [*events, completed()]:
        assert reader.read(one) == ("", "")
        fragments += reader.take_fragments()
    (last,) = reader.last()
    assert told(last) == [(f"call{n}", f"tool{n}", one) for n, one in whole.items()]
    for number, one in enumerate(whole.values()):
        assert "".join(f.arguments for f in fragments if f.index == number) == one


def test_calls_whose_items_have_no_id() -> None:
    bare = [{**call(n), "id": None} for n in (1, 2)]
    _, _, last = read(
        event("output_item.added", item=bare[0], output_index=0),
        event("output_item.added", item=bare[1], output_index=1),
        event("function_call_arguments.delta", output_index=0, delta='{"a"'),
        event("function_call_arguments.delta", output_index=1, delta="{}"),
        event("function_call_arguments.delta", output_index=0, delta=":1}"),
        event("output_item.done", item={**bare[0], "arguments": '{"a":1}'}, output_index=0),
        completed(),
    )
    assert told(last) == [("call1", "tool1", '{"a":1}'), ("call2", "tool2", "{}")]


def test_the_end_of_a_call_adds_only_what_is_missing() -> None:
    _, _, last = read(
        added(1),
        arguments(1, '{"a"'),
        event("function_call_arguments.done", item_id="fc1", arguments='{"a":1}'),
        event("output_item.done", item=call(1, '{ "a" : 1 }')),
        completed(),
    )
    assert told(last) == [("call1", "tool1", '{"a":1}')]


@pytest.mark.parametrize(
    ("ending", "meant"),
    [
        (completed(), "stop"),
        (
            event(
                "incomplete", response={"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
            ),
            "length",
        ),
        (
            event("incomplete", response={"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}),
            "content_filter",
        ),
        (event("incomplete", response={"status": "incomplete", "incomplete_details": None}), "cut_off"),
        (event("cancelled", response={"status": "cancelled"}), "cut_off"),
        (event("completed"), "stop"),
        (event("in_progress", response={"status": "in_progress"}), "cut_off"),
    ],
)
def test_how_replies_end(ending: dict[str, Any], meant: str) -> None:
    assert read(text("x"), ending)[2].finish == meant


def test_a_call_that_was_cut_off_says_so() -> None:
    _, _, last = read(added(1), arguments(1, '{"a"'))
    assert last.finish == "cut_off"
    assert "cut off" in last.tool_calls[0].problem


def test_parts_of_thinking_are_paragraphs() -> None:
    part = [event("reasoning_summary_part.added", summary_index=n) for n in (0, 1)]
    assert read(part[0], thought("One"), part[1], thought("Two"))[0] == "One\n\nTwo"
    assert read(thought("Raw", "reasoning_text"))[0] == "Raw"


def test_a_refusal_is_text() -> None:
    assert read({"type": "response.refusal.delta", "item_id": "msg", "delta": "No."}, completed())[1] == "No."


def test_thinking_within_the_text_is_taken_apart() -> None:
    assert read(text("<think>Hm</thi"), text("nk>\n\nYes."), completed())[:2] == ("Hm", "Yes.")


def test_sealed_thinking_goes_with_the_call_it_led_to() -> None:
    item = {"type": "reasoning", "id": "rs1", "summary": [], "encrypted_content": "gAAA", "status": "completed"}
    _, _, last = read(
        event("output_item.done", item=item),
        added(1),
        arguments(1, "{}"),
        added(2),
        completed(item, call(1, "{}"), call(2, "{}")),
        model="gpt-5@OpenAI",
    )
    maker, _, signature = last.tool_calls[0].signature.partition(" ")
    assert maker == "gpt-5@OpenAI"
    assert orjson.loads(signature) == [{"type": "reasoning", "summary": [], "id": "rs1", "encrypted_content": "gAAA"}]
    assert last.tool_calls[1] == ToolCall(id="call2", name="tool2", arguments="{}")


def test_a_whole_reply() -> None:
    reader = ResponsesReader()
    assert reader.read_whole({"status": "completed", "output": [message("Hi"), call(1, "{}")]}) == ("", "Hi")
    assert told(reader.last()[-1]) == [("call1", "tool1", "{}")]
    assert ResponsesReader().read_whole({"choices": []}) is None


values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.text(max_size=4) | st.sampled_from(["fc1", "{}"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "type", "call_id", "name", "arguments", "output", "usage", "summary", "content"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
kinds = st.sampled_from(
    ["output_text.delta", "output_item.added", "output_item.done", "function_call_arguments.delta", "completed"]
    + ["function_call_arguments.done", "incomplete", "reasoning_text.delta", "reasoning_summary_part.added", "x"]
).map("response.{}".format)
keys = st.sampled_from(["item", "item_id", "output_index", "delta", "arguments", "response", "summary_index"])


@given(st.lists(st.tuples(kinds, st.dictionaries(keys, values, max_size=4)), max_size=6))
def test_no_event_breaks_it(events: list[tuple[str, dict[str, Any]]]) -> None:
    assert read(*({"type": kind, **more} for kind, more in events))[2].finish is not None
