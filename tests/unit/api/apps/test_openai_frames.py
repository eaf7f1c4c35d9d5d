import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import pytest

from api.apps.openai_frames import AnswerBroke, begin_chunks, whole_answer
from api.apps.openai_wire import Completion
from rag.core.events import DialogEvent, Done, Failed, Reasoning, Started, Stopped, Token, Usage
from rag.core.types import Reference, TokenUsage, ToolCall
from tests.unit.api.apps.test_sse import REFERENCE

COMPLETION = Completion(id="chatcmpl-1", created=1, model="chat:a", base_url="http://h")
USAGE = Usage(model="m", usage=TokenUsage(prompt_tokens=3, completion_tokens=2))


async def stream(events: Sequence[DialogEvent]) -> AsyncGenerator[Sequence[DialogEvent], None]:
    for event in events:
        yield [event]
        await asyncio.sleep(0)


async def one_by_one(events: Sequence[DialogEvent]) -> AsyncIterator[DialogEvent]:
    for event in events:
        yield event


async def chunks_of(events: Sequence[DialogEvent], *, include_usage: bool = False) -> list[dict[str, Any]]:
    frames = await begin_chunks(stream(events), COMPLETION, include_usage=include_usage)
    written = b"".join([part async for part in frames])
    assert written.endswith(b"data: [DONE]\n\n")
    lines = written.decode().split("\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines if line and "[DONE]" not in line]


def text_of(chunks: Sequence[dict[str, Any]]) -> str:
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


async def test_an_answer_ends_with_its_sources_and_usage() -> None:
    done = Done(answer="Yes [ID:0]", reference=REFERENCE)
    events = [Started(message_id="m", session_id=""), Token(text="Yes "), Token(text="[ID:0]"), USAGE, done]
    chunks = await chunks_of(events, include_usage=True)
    assert text_of(chunks) == "Yes [ID:0]"
    last, usage = chunks[-2:]
    assert last["choices"][0]["finish_reason"] == "stop"
    delta = last["choices"][0]["delta"]
    assert delta["annotations"][0]["url_citation"]["start_index"] == 4
    assert delta["references"][0]["document_name"] == "report.pdf"
    assert delta["final_content"] == "Yes [ID:0]"
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 5


async def test_text_that_only_the_end_has_is_sent() -> None:
    assert text_of(await chunks_of([Done(answer="Sorry!", reference=Reference())])) == "Sorry!"
    events = [Token(text="Yes"), Done(answer="Yes [ID:0]", reference=REFERENCE)]
    assert text_of(await chunks_of(events)) == "Yes [ID:0]"


async def test_text_that_was_changed_in_the_middle_is_not_sent_again() -> None:
    events = [Token(text="Yes. No."), Done(answer="Yes [ID:0]. No.", reference=REFERENCE)]
    chunks = await chunks_of(events)
    assert text_of(chunks) == "Yes. No."
    assert chunks[-1]["choices"][0]["delta"]["annotations"][0]["url_citation"]["start_index"] == 3


async def test_reasoning_has_a_field_of_its_own() -> None:
    chunks = await chunks_of([Reasoning(text="hm"), Token(text="Yes"), Done(answer="Yes", reference=Reference())])
    assert chunks[0]["choices"][0]["delta"]["reasoning_content"] == "hm"


async def test_a_cut_answer_says_length() -> None:
    chunks = await chunks_of([Token(text="Y"), Done(answer="Y", reference=Reference(), truncated=True)])
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("code", "status"), [("model_timeout", 504), ("store_unavailable", 503), ("invalid_input", 400), ("x", 500)]
)
async def test_a_failure_before_the_first_text_is_a_status(code: str, status: int) -> None:
    with pytest.raises(AnswerBroke) as caught:
        await begin_chunks(stream([Failed(code=code, message="No.")]), COMPLETION, include_usage=False)
    assert caught.value.status == status


async def test_a_failure_in_mid_stream_is_an_error_chunk() -> None:
    chunks = await chunks_of([Token(text="So"), Failed(code="model_timeout", message="Too slow.", answer="So")])
    assert chunks[-1] == {
        "error": {"message": "Too slow.", "type": "server_error", "param": None, "code": "model_timeout"}
    }


async def test_a_stream_that_just_ends_is_an_error_chunk() -> None:
    frames = await begin_chunks(stream([Token(text="So")]), COMPLETION, include_usage=False)
    assert b'"error"' in b"".join([part async for part in frames])


async def test_a_whole_answer() -> None:
    answer = await whole_answer(one_by_one([Token(text="Yes"), USAGE, Done(answer="Yes", reference=REFERENCE)]))
    assert answer.usage.total_tokens == 5
    for end in (Failed(code="model_refused", message="No."), Stopped(answer="")):
        with pytest.raises(AnswerBroke):
            await whole_answer(one_by_one([end]))


async def test_leaving_closes_the_source() -> None:
    closed = asyncio.Event()

    async def source() -> AsyncGenerator[Sequence[DialogEvent], None]:
        try:
            yield [Token(text="So")]
            await asyncio.sleep(60)
        finally:
            closed.set()

    frames = await begin_chunks(source(), COMPLETION, include_usage=False)
    await anext(frames)
    await frames.aclose()
    assert closed.is_set()


async def test_what_arrived_together_is_one_chunk() -> None:
    async def source() -> AsyncGenerator[Sequence[DialogEvent], None]:
        yield [Reasoning(text="h"), Reasoning(text="m"), Token(text="a\u2028"), Token(text='"b"')]
        yield [Token(text="c"), Done(answer='a\u2028"b"c', reference=Reference())]

    frames = await begin_chunks(source(), COMPLETION, include_usage=False)
    first = await anext(frames)
    assert len(first.decode().splitlines()) == 4, "a line break inside the text must not look like one of the framing"
    thought, text = (json.loads(line.removeprefix("data: ")) for line in first.decode().split("\n\n") if line)
    assert thought == COMPLETION.chunk({"role": "assistant", "reasoning_content": "hm"})
    assert text == COMPLETION.chunk({"role": "assistant", "content": 'a\u2028"b"'})
    assert b'"c"' in await anext(frames)
    assert [part async for part in frames] == []


async def test_calls_of_the_clients_tools_come_at_the_end() -> None:
    calls = (ToolCall(id="c1", name="weather", arguments='{"at": "Bern"}'), ToolCall(id="c2", name="t", arguments="{}"))
    done = Done(answer="I look.", reference=Reference(), tool_calls=calls)
    chunks = await chunks_of([Token(text="I look."), USAGE, done])
    told = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert [call["index"] for call in told] == [0, 0, 1, 1]
    assert told[0] == {"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    assert told[1] == {"index": 0, "function": {"arguments": '{"at": "Bern"}'}}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_calls_without_text_are_an_answer() -> None:
    done = Done(answer="", reference=Reference(), tool_calls=(ToolCall(id="c1", name="t", arguments="{}"),))
    answer = await whole_answer(one_by_one([USAGE, done]))
    whole = COMPLETION.whole("", answer.reference, answer.usage, finish=answer.finish, reasoning="", calls=answer.calls)
    (choice,) = whole["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "t", "arguments": "{}"}}
    ]
    assert text_of(await chunks_of([done])) == ""
