import json
from collections.abc import AsyncIterator

import pytest

from api.apps.sse import dumps, event_payload, frame, named_frame, stream_response
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


async def test_a_stream_that_crashes_ends_in_words() -> None:
    async def frames() -> AsyncIterator[bytes]:
        yield b"first"
        raise ValueError("a defect")

    response = stream_response(frames(), on_crash=b"last")
    assert response.timeout is None
    assert await response.get_data() == b"firstlast"
