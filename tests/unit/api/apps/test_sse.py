import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from api.apps.sse import arrivals, dumps, event_payload, frame, named_frame, stream_response
from rag.core.events import (
    Cited,
    DialogEvent,
    Done,
    Failed,
    Reasoning,
    RetrievalFinished,
    RetrievalStarted,
    Started,
    Stopped,
    Token,
    Usage,
)
from rag.core.types import CitedChunk, DocumentCount, Position, Reference, TokenUsage

CHUNK = CitedChunk(
    index=0,
    chunk_id="c1",
    document_id="d1",
    document_name="report.pdf",
    dataset_id="s1",
    content="Net sales rose.",
    positions=(Position(page=7, left=1.2, right=2.7, top=3.0, bottom=4.4),),
    similarity=0.5,
    vector_similarity=0.4,
    term_similarity=0.6,
)
REFERENCE = Reference(
    total=1,
    chunks=(CHUNK,),
    documents=(DocumentCount(document_id="d1", document_name="report.pdf", count=1),),
)

EVERY_EVENT: list[tuple[DialogEvent, str]] = [
    (Started(message_id="m", session_id="s"), "started"),
    (RetrievalStarted(question="q"), "retrieval_started"),
    (RetrievalFinished(reference=REFERENCE), "retrieval_finished"),
    (Token(text="t"), "token"),
    (Reasoning(text="t"), "reasoning"),
    (Cited(answer="a", reference=REFERENCE), "citations"),
    (Usage(model="m", usage=TokenUsage(prompt_tokens=1, completion_tokens=2)), "usage"),
    (Done(answer="a", reference=REFERENCE), "done"),
    (Failed(code="internal", message="m"), "failed"),
    (Stopped(answer="a"), "stopped"),
]


def test_a_frame_is_one_line_for_every_way_of_splitting_lines() -> None:
    text = "a\u0085b\u2028c\u2029d\ne\x0bf\x1cg"
    written = frame({"answer": text})
    assert written.startswith(b'data:{"')
    assert len(written.decode().splitlines()) == 2
    assert json.loads(written[5:]) == {"answer": text}


def test_dumps_leaves_other_text_alone() -> None:
    assert dumps({"a": "é汉"}) == '{"a":"é汉"}'.encode()


def test_a_named_frame_has_id_and_event() -> None:
    assert named_frame(3, "token", {"text": "x"}) == b'id: 3\nevent: token\ndata: {"text":"x"}\n\n'


@pytest.mark.parametrize(("event", "name"), EVERY_EVENT)
def test_every_event_has_a_name_and_a_json_payload(event: DialogEvent, name: str) -> None:
    found, payload = event_payload(event)
    assert found == name
    assert json.loads(dumps(payload)) == payload


async def test_what_arrived_together_comes_together() -> None:
    gate = asyncio.Event()

    async def source() -> AsyncIterator[int]:
        yield 1
        yield 2
        await gate.wait()
        yield 3

    batches = []
    async for batch in arrivals(source()):
        batches.append(batch)
        gate.set()
    assert batches == [[1, 2], [3]]


async def test_silence_gives_empty_batches() -> None:
    gate = asyncio.Event()

    async def source() -> AsyncIterator[int]:
        await gate.wait()
        yield 1

    batches = []
    async for batch in arrivals(source(), idle_s=0.01):
        batches.append(batch)
        if len(batches) == 2:
            gate.set()
    assert batches[:2] == [[], []]
    assert batches[-1] == [1]


async def test_leaving_early_closes_the_source() -> None:
    closed = asyncio.Event()

    async def source() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.sleep(60)
        finally:
            closed.set()

    batches = arrivals(source())
    assert await anext(batches) == [1]
    await batches.aclose()
    assert closed.is_set()


async def test_an_error_comes_after_the_items_before_it() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        raise ValueError("broken")

    batches = arrivals(source())
    assert await anext(batches) == [1]
    with pytest.raises(ValueError, match="broken"):
        await anext(batches)


async def test_a_slow_reader_holds_the_source_back() -> None:
    made = 0

    async def source() -> AsyncIterator[int]:
        nonlocal made
        for number in range(5000):
            made += 1
            yield number

    batches = arrivals(source())
    seen = await anext(batches)
    await asyncio.sleep(0.01)
    assert made < 3000
    async for batch in batches:
        seen += batch
    assert seen == list(range(5000))


async def test_a_stream_that_crashes_ends_in_words() -> None:
    async def frames() -> AsyncIterator[bytes]:
        yield b"first"
        raise ValueError("a defect")

    response = stream_response(frames(), on_crash=b"last")
    assert response.timeout is None
    assert await response.get_data() == b"firstlast"
