"""Recorded replies come out of the model stack as they were recorded; see docs/recordings.md."""

from collections import Counter

import pytest

from tests.integration.rag.llm.recorded_reader import Call
from tests.integration.rag.llm.recorded_truth import told_by
from tests.integration.rag.llm.recording_server import aws_event, framed
from tests.integration.rag.llm.recordings import FOLDER, Exchange, _unframed, recordings
from tests.integration.rag.llm.report import PAGE, REASONS, page, replayed

pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="needs ../shared/data/sse"),
    # LiteLLM's objects do not fit their own pydantic schema, and it leaves clients to the garbage collector.
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.mark.holds_loop("LiteLLM reads long replies at one go")
async def test_recordings_come_out_as_they_were_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    recorded, wrong = await replayed()
    with capsys.disabled():
        print(f"\n{len(recorded) - len(wrong)} of {len(recorded)} recordings match.")
    assert {name: why for name, why in wrong.items() if name not in REASONS} == {}
    assert sorted(set(REASONS) - set(wrong)) == [], "these match now: take them off the list"
    assert PAGE.read_text("utf-8") == page(recorded, wrong), "run `python -m tests.integration.rag.llm.recordings`"


def test_no_recording_is_left_out() -> None:
    """93 streams, 76 whole replies, 7 without an event stream."""
    recorded = recordings()
    assert len(recorded) == 176
    kinds = Counter(
        "stream" if any(e.streams for e in each.exchanges) else "whole" if each.name.endswith(".json") else "neither"
        for each in recorded
    )
    assert kinds == {"stream": 93, "whole": 76, "neither": 7}


def test_the_recordings_say_something() -> None:
    """What the replay is compared with is not empty: else an adapter that reads nothing would match."""
    told = [told_by(e) for each in recordings() if each.name not in REASONS for e in each.exchanges if e.form in _CHATS]
    assert sum(bool(each.text) for each in told) > 110
    assert sum(bool(each.reasoning) for each in told) > 30
    assert sum(len(each.calls) for each in told) > 40
    assert sum(each.usage is not None for each in told) > 160
    assert Counter(each.finish for each in told if not each.error).keys() == {
        "stop", "tool_calls", "length", "content_filter", "cut_off"
    }  # fmt: skip
    assert sum(bool(each.error) for each in told) == 4


_CHATS = {"chat", "responses", "anthropic", "gemini", "bedrock", "cohere", "completion", "interactions"}


def test_bedrocks_framing_is_read_as_it_was_written() -> None:
    events = [{"contentBlockDelta": {"delta": {"text": "Zürich"}}}, {"messageStop": {"stopReason": "end_turn"}}]
    assert list(_unframed(b"".join(map(aws_event, events)))) == events


def test_streams_are_framed_as_their_providers_do() -> None:
    event = {"type": "message-end"}
    assert framed(Exchange(form="cohere", events=(event,))) == b'event: message-end\ndata: {"type": "message-end"}\n\n'
    assert framed(Exchange(form="chat", events=({"id": 1},))) == b'data: {"id": 1}\n\ndata: [DONE]\n\n'
    assert framed(Exchange(form="gemini", events=({"id": 1},))) == b'data: {"id": 1}\r\n\r\n'


def test_arguments_in_pieces_are_put_together_by_path() -> None:
    pieces = [
        {"name": "cook"},
        {"partialArgs": [{"jsonPath": "$.steps[0].text", "stringValue": "Let it "}]},
        {"partialArgs": [{"jsonPath": "$.steps[0].text", "stringValue": "stand."}]},
        {"partialArgs": [{"jsonPath": "$.steps[1].minutes", "numberValue": 15}]},
        {"partialArgs": [{"jsonPath": "$.hot", "boolValue": True}]},
        {},
    ]  # fmt: skip
    events = tuple({"candidates": [{"content": {"parts": [{"functionCall": piece}]}}]} for piece in pieces)
    told = told_by(Exchange(form="gemini", events=events))
    assert told.calls == (
        Call(id=None, name="cook", arguments={"steps": [{"text": "Let it stand."}, {"minutes": 15}], "hot": True}),
    )
