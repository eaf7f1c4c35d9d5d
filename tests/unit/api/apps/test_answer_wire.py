import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import pytest

from api.apps.answer_wire import AnswerFailed, AnswerFrames, AnswerShape, answer_frames, answer_object
from rag.core.errors import StoreUnavailable
from rag.core.events import Cited, DialogEvent, Done, Failed, Reasoning, RetrievalFinished, Spoken, Stopped, Token
from rag.core.types import Reference
from tests.unit.api.apps.test_sse import REFERENCE


def shape(*, decorated: bool = True, fixed: bool = False) -> AnswerShape:
    return AnswerShape(message_id="m", session_id="s", decorated=decorated, fixed_when_empty=fixed, created_at=5.0)


def payloads(written: bytes) -> list[dict[str, Any]]:
    return [json.loads(part.removeprefix(b"data:")) for part in written.split(b"\n\n") if part]


async def batches_of(events: Sequence[DialogEvent]) -> AsyncGenerator[Sequence[DialogEvent], None]:
    yield events


async def stream(events: Sequence[DialogEvent]) -> AsyncIterator[DialogEvent]:
    for event in events:
        yield event


async def frames_of(events: Sequence[DialogEvent], form: AnswerShape) -> list[dict[str, Any]]:
    return payloads(b"".join([part async for part in answer_frames(batches_of(events), form)]))


def test_the_first_token_goes_at_once_then_every_sixteen_then_the_rest() -> None:
    frames = AnswerFrames(shape())
    written = [frames.feed([Token(text="a ")]) for _ in range(20)]
    assert [i for i, part in enumerate(written) if part] == [0, 16]
    last = payloads(frames.feed([Cited(answer="x", reference=REFERENCE)]))
    assert [each["data"]["answer"] for each in last] == ["a " * 20]


def test_a_long_increment_counts_for_several_tokens() -> None:
    frames = AnswerFrames(shape())
    frames.feed([Token(text="a")])
    assert frames.feed([Token(text="word " * 16)])


async def test_frames_of_an_answer_with_citations() -> None:
    done = Done(answer="Hello [ID:0]", reference=REFERENCE, prompt="p", created_at=9.0)
    partial, final, end = await frames_of([Token(text="Hello"), done], shape())
    assert partial == {
        "code": 0,
        "data": {
            "answer": "Hello",
            "reference": {"chunks": []},
            "audio_binary": None,
            "id": "m",
            "session_id": "s",
        },
    }
    assert "message" not in final
    assert set(final["data"]) == {"answer", "reference", "prompt", "created_at", "id", "session_id"}
    assert final["data"]["answer"] == "Hello [ID:0]"
    assert final["data"]["reference"]["chunks"][0]["positions"] == [[7, 1, 3, 3, 4]]
    assert final["data"]["reference"]["doc_aggs"] == [{"doc_name": "report.pdf", "doc_id": "d1", "count": 1}]
    assert end == {"code": 0, "data": True}


async def test_without_datasets_the_last_partial_frame_is_the_answer() -> None:
    events = [Token(text="Hello"), Done(answer="Hello", reference=Reference())]
    partial, end = await frames_of(events, shape(decorated=False))
    assert partial["data"]["prompt"] == ""
    assert partial["data"]["created_at"] == 5.0
    assert end["data"] is True


async def test_nothing_found_is_one_frame() -> None:
    events = [
        RetrievalFinished(reference=Reference()),
        Token(text="Sorry!"),
        Done(answer="Sorry!", reference=Reference()),
    ]
    only, end = await frames_of(events, shape(fixed=True))
    assert only["data"]["answer"] == "Sorry!"
    assert only["data"]["reference"] == {"total": 0, "chunks": [], "doc_aggs": []}
    assert "audio_binary" in only["data"]
    assert end["data"] is True


async def test_reasoning_is_shown_in_think_marks() -> None:
    events = [Reasoning(text="hm"), Token(text="Yes"), Done(answer="Yes", reference=Reference())]
    frames = await frames_of(events, shape())
    assert frames[-2]["data"]["answer"] == "<think>hm</think>Yes"


async def test_a_failing_model_is_a_normal_frame() -> None:
    events = [Token(text="So"), Failed(code="model_refused", message="Invalid key", answer="So")]
    _, final, end = await frames_of(events, shape())
    assert final["code"] == 0
    assert final["data"]["answer"].startswith("So\n**ERROR**: Invalid key Please set LLM API-Key")
    assert end["data"] is True


async def test_another_failure_is_an_error_frame() -> None:
    error, end = await frames_of([Failed(code="store_error", message="No disk.")], shape())
    assert error == {
        "code": 500,
        "message": "No disk.",
        "data": {"answer": "**ERROR**: No disk.", "reference": []},
    }
    assert end["data"] is True


async def test_an_error_of_the_log_is_an_error_frame() -> None:
    async def broken() -> AsyncGenerator[Sequence[DialogEvent], None]:
        yield [Token(text="So")]
        raise StoreUnavailable("Gone.")

    written = b"".join([part async for part in answer_frames(broken(), shape())])
    _, error, end = payloads(written)
    assert error["code"] == 500
    assert end["data"] is True


async def test_a_stopped_answer_keeps_its_text() -> None:
    frames = await frames_of([Token(text="So"), Stopped(answer="So")], shape())
    assert frames[-2]["data"]["answer"] == "So"


async def test_the_object_of_an_answer() -> None:
    done = Done(answer="Hi", reference=REFERENCE, prompt="p", created_at=9.0)
    answer = await answer_object(stream([Token(text="Hi"), done]), shape())
    assert set(answer) == {
        "answer",
        "reference",
        "prompt",
        "created_at",
        "audio_binary",
        "id",
        "session_id",
    }
    assert answer["reference"]["total"] == 1


async def test_an_answer_object_that_failed_is_raised() -> None:
    with pytest.raises(AnswerFailed, match="No disk"):
        await answer_object(stream([Failed(code="store_error", message="No disk.")]), shape())


async def test_frames_with_a_message() -> None:
    with_message = AnswerShape(
        message_id="m", session_id="s", decorated=True, fixed_when_empty=False, created_at=5.0, with_message=True
    )
    events = [Token(text="a"), Done(answer="a", reference=Reference())]
    written = b"".join([each async for each in answer_frames(batches_of(events), with_message)])
    assert written.startswith(b'data:{"code":0,"message":"","data":{"answer":"a",')
    assert [set(frame) for frame in payloads(written)] == [{"code", "message", "data"}] * 3
    assert payloads(written)[-1] == {"code": 0, "message": "", "data": True}


async def test_speech_is_in_partial_frames_and_once() -> None:
    events = [Token(text="Hello "), Spoken(audio=b"\x01"), Spoken(audio=b"\xff"), Token(text="you")]
    frames = AnswerFrames(shape())
    written = [each for event in events for each in payloads(frames.feed([event]))]
    assert [(each["data"]["answer"], each["data"]["audio_binary"]) for each in written] == [
        ("Hello ", None),
        ("Hello ", "01"),
        ("Hello ", "ff"),
    ]
    partial, final = payloads(frames.feed([Spoken(audio=b"\x02"), Done(answer="Hello you", reference=REFERENCE)]))
    assert (partial["data"]["answer"], partial["data"]["audio_binary"]) == ("Hello you", "02")
    assert "audio_binary" not in final["data"]


async def test_speech_of_one_frame_and_of_an_answer_that_is_not_streamed_is_whole() -> None:
    events = [RetrievalFinished(reference=Reference()), Token(text="Sorry!"), Spoken(audio=b"\x01")]
    events += [Spoken(audio=b"\x02"), Done(answer="Sorry!", reference=Reference(), prompt="p")]
    only, _ = await frames_of(events, shape(fixed=True))
    assert only["data"]["audio_binary"] == "0102"
    assert (await answer_object(stream(events), shape()))["audio_binary"] == "0102"
