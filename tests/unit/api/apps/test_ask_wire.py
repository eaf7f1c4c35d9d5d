from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from api.apps.ask_wire import STOPPING, ask_frames
from rag.core.errors import StoreUnavailable
from rag.core.events import Cited, DialogEvent, Done, Failed, Reasoning, RetrievalFinished, Stopped, Token
from rag.core.types import Reference
from tests.unit.api.apps.test_answer_wire import payloads
from tests.unit.api.apps.test_sse import REFERENCE

END = {"code": 0, "message": "", "data": True}
NONE = {"total": 0, "chunks": [], "doc_aggs": []}


async def frames(*batches: Sequence[DialogEvent]) -> list[dict[str, Any]]:
    async def arriving() -> AsyncGenerator[Sequence[DialogEvent], None]:
        for batch in batches:
            yield batch

    return payloads(b"".join([written async for written in ask_frames(arriving())]))


def said(answer: str, reference: Any) -> dict[str, Any]:
    return {"code": 0, "message": "", "data": {"answer": answer, "reference": reference}}


async def test_every_piece_makes_a_frame_and_the_last_has_marks_and_sources() -> None:
    events = [
        RetrievalFinished(reference=REFERENCE),
        Token(text="In "),
        Token(text="1932."),
        Cited(answer="In 1932. [ID:0]", reference=REFERENCE),
        Done(answer="In 1932. [ID:0]", reference=REFERENCE),
    ]
    *partial, final, end = await frames(events)
    assert partial == [said("In ", {}), said("In 1932.", {})]
    assert final["data"]["answer"] == "In 1932. [ID:0]"
    assert set(final["data"]["reference"]) == {"total", "chunks", "doc_aggs"}
    assert len(final["data"]["reference"]["chunks"][0]) == 12
    assert end == END


async def test_batches_make_no_difference() -> None:
    events = [Token(text="a"), Token(text="b"), Done(answer="ab", reference=Reference())]
    assert await frames(events) == await frames(*[[event] for event in events])


async def test_reasoning_comes_first_in_marks() -> None:
    found = await frames([Reasoning(text="Hm"), Token(text="Yes"), Done(answer="Yes", reference=Reference())])
    assert [each["data"]["answer"] for each in found[:-1]] == [
        "<think>Hm</think>",
        "<think>Hm</think>Yes",
        "<think>Hm</think>Yes",
    ]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (Done(answer="a", reference=Reference()), said("a", NONE)),
        (Failed(code="model_timeout", message="late", answer="a"), said("a\n**ERROR**: late", NONE)),
        (Stopped(answer="a"), said("a", NONE)),
        (
            Failed(code="not_found", message="gone", answer="a"),
            {"code": 500, "message": "gone", "data": {"answer": "**ERROR**: gone", "reference": []}},
        ),
    ],
)
async def test_how_it_ends(event: DialogEvent, expected: dict[str, Any]) -> None:
    assert await frames([Token(text="a"), event]) == [said("a", {}), expected, END]


async def test_a_server_that_stops_says_so() -> None:
    first, last, end = await frames([Token(text="a")])
    assert (first, end) == (said("a", {}), END)
    assert (last["code"], last["message"]) == (500, STOPPING)


async def test_an_error_on_the_way_is_told() -> None:
    async def broken() -> AsyncGenerator[Sequence[DialogEvent], None]:
        yield [Token(text="a")]
        raise StoreUnavailable("The index is away.")

    found = payloads(b"".join([written async for written in ask_frames(broken())]))
    assert [each["code"] for each in found] == [0, 500, 0]
    assert found[1]["message"] == "The index is away."


async def test_who_leaves_early_ends_the_answer() -> None:
    closed = []

    async def endless() -> AsyncGenerator[Sequence[DialogEvent], None]:
        try:
            while True:
                yield [Token(text="a")]
        finally:
            closed.append(True)

    reading = ask_frames(endless())
    await anext(reading)
    await reading.aclose()
    assert closed == [True]
