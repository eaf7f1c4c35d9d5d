from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from rag.core.errors import ModelBadOutput
from rag.llm import event_stream
from rag.llm.chat_reply import DeltaReader
from rag.llm.event_stream import EventParser

RECORDED = Path(__file__).resolve().parents[4].parent / "shared" / "data" / "sse"
STREAM = b'data: {"a":1}\n\n: comment\r\n\r\nevent: x\r\ndata: {"b":\r\ndata: "\xc3\xbc"}\r\n\r\nid: 3\ndata:[DONE]\n\n'
EVENTS = [b'{"a":1}', b'{"b":\n"\xc3\xbc"}', b"[DONE]"]


def test_every_split_in_two_gives_the_same_events() -> None:
    for cut in range(len(STREAM) + 1):
        parser = EventParser()
        assert [*parser.feed(STREAM[:cut]), *parser.feed(STREAM[cut:]), *parser.finish()] == EVENTS


def test_byte_by_byte() -> None:
    parser = EventParser()
    assert [event for byte in STREAM for event in parser.feed(bytes([byte]))] == EVENTS


def test_an_event_without_its_blank_line_is_given_at_the_end() -> None:
    parser = EventParser()
    assert parser.feed(b"data: last") == []
    assert parser.finish() == [b"last"]


def test_a_long_line_is_read_and_an_endless_one_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = EventParser()
    for _ in range(160):
        assert parser.feed(b"x" * 65536) == []
    monkeypatch.setattr(event_stream, "MAX_EVENT_BYTES", 1000)
    with pytest.raises(ModelBadOutput):
        EventParser().feed(b"x" * 1001)


def test_an_event_of_endless_lines_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "MAX_EVENT_BYTES", 1000)
    parser = EventParser()
    assert len(parser.feed(b"data: x\ndata: y\n\n" * 500)) == 500
    with pytest.raises(ModelBadOutput):
        parser.feed(b"data: x\n" * 500)


def recordings() -> Iterator[tuple[str, list[dict[str, Any]], bytes]]:
    """Name, pieces and bytes of each recorded stream in the form of OpenAI's chat completions."""
    for path in sorted(RECORDED.glob("vercel/**/chat/*.chunks.txt")):
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
        pieces = [orjson.loads(line) for line in lines]
        yield path.stem, pieces, b"".join(f"data: {line}\n\n".encode() for line in lines) + b"data: [DONE]\n\n"
    for path in sorted(RECORDED.glob("pydantic_ai/**/*.yaml")):
        for number, exchange in enumerate(yaml.load(path.read_text("utf-8"), yaml.CSafeLoader)["interactions"]):
            body = exchange.get("response", {}).get("body", {}).get("string", "")
            if not exchange.get("request", {}).get("uri", "").endswith("/chat/completions"):
                continue
            text = body if isinstance(body, str) else body.decode("utf-8", "replace")
            if "chat.completion.chunk" not in text[:2000]:
                continue
            data = [line[5:].strip() for line in text.splitlines() if line.startswith("data:")]
            pieces = [orjson.loads(line) for line in data if line != "[DONE]"]
            yield f"{path.stem}-{number}", pieces, text.encode()


def expected(pieces: list[dict[str, Any]]) -> tuple[str, str]:
    """Text and reasoning, read without our code."""
    deltas = [p["choices"][0]["delta"] for p in pieces if p.get("choices")]
    reasoning = "".join(d.get("reasoning_content") or d.get("reasoning") or "" for d in deltas)
    text = "".join(d["content"] for d in deltas if isinstance(d.get("content"), str))
    return text, reasoning


@pytest.mark.shared_data
@pytest.mark.skipif(not RECORDED.is_dir(), reason="../shared/data/sse is absent")
def test_recorded_streams_come_out_equal() -> None:
    count = 0
    for name, pieces, raw in recordings():
        for size in (len(raw), 1, 7, 4096):
            parser, reader = EventParser(), DeltaReader()
            said: list[tuple[str, str]] = []
            for start in range(0, len(raw), size):
                for event in parser.feed(raw[start : start + size]):
                    if event != b"[DONE]":
                        said.append(reader.read(orjson.loads(event)))
            last = reader.last()
            text = "".join(t for _, t in said) + "".join(d.text for d in last)
            reasoning = "".join(r for r, _ in said) + "".join(d.reasoning for d in last)
            assert (text, reasoning) == expected(pieces), name
            assert last[-1].finish != "cut_off" or not any(
                p["choices"][0].get("finish_reason") for p in pieces if p.get("choices")
            ), name
        count += 1
    assert count >= 8
