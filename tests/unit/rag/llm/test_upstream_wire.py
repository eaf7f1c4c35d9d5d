"""Replies as a network may cut them: in segments, without an end, without a bound."""

import orjson
import pytest
from pydantic import SecretStr

from rag.core.errors import ModelBadOutput, ModelError, ModelOverloaded, ModelRefused
from rag.core.types import TokenUsage
from rag.llm import upstream_call, upstream_errors, upstream_lane
from rag.llm.base import Delta
from rag.llm.endpoint import Endpoint
from rag.llm.openai_lane import OpenAiLane
from rag.llm.upstream import UpstreamPool
from rag.llm.upstream_call import UpstreamCall
from rag.testing.chat_model_suite import a_request
from tests.unit.rag.llm.conftest import INFO, SHORT
from tests.unit.rag.llm.raw_server import EVENTS, chunk, failed, sending

KEY = "sk-tenant-abcdefghijkl"


class Heard:
    """What a chat said, and the error that ended it."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.error: ModelError | None = None

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)


async def heard(url: str, pool: UpstreamPool) -> Heard:
    found = Heard()
    there = Endpoint(base_url=url, api_key=SecretStr(KEY), model="m")
    try:
        async for delta in OpenAiLane(INFO, there, pool=pool, deadlines=SHORT).stream(a_request()):
            found.deltas.append(delta)
    except ModelError as error:
        found.error = error
    return found


async def refused(url: str, pool: UpstreamPool, *, by: str) -> ModelError:
    """The error of a chat, or of a call in one piece."""
    if by == "lane":
        error = (await heard(url, pool)).error
        assert error is not None
        return error
    there = Endpoint(base_url=url, api_key=SecretStr(KEY), model="m")
    with pytest.raises(ModelError) as caught:
        await UpstreamCall("m@Here", there, pool=pool, timeout_s=2.0).post_json("/embeddings", {})
    return caught.value


both = pytest.mark.parametrize("by", ["lane", "call"])


@both
async def test_an_error_in_two_segments_is_read_whole(pool: UpstreamPool, by: str) -> None:
    for code, fact in (("insufficient_quota", "status"), ("context_length_exceeded", "too_long")):
        sent = failed(429, orjson.dumps({"error": {"message": "No more.", "code": code}}))
        async with sending([sent[:-30], sent[-30:]]) as url:
            error = await refused(url, pool, by=by)
        assert "No more." in str(error)
        assert fact in error.facts
        assert isinstance(error, ModelRefused) is (code == "insufficient_quota")


@both
@pytest.mark.parametrize("shown", [1, 4, 12, len(KEY) - 1])
async def test_no_segment_shows_a_part_of_the_key(pool: UpstreamPool, by: str, shown: int) -> None:
    sent = failed(401, orjson.dumps({"error": {"message": f"Incorrect API key provided: {KEY}."}}))
    cut = sent.index(KEY.encode()) + shown
    async with sending([sent[:cut], sent[cut:]]) as url:
        error = await refused(url, pool, by=by)
    assert error.facts["status"] == 401
    assert "provided: ***." in str(error)


@both
async def test_an_error_that_the_connection_cut_shows_no_part_of_the_key(pool: UpstreamPool, by: str) -> None:
    body = f"Incorrect API key provided: {KEY[:12]}".encode()
    async with sending([failed(401, body, length=500)]) as url:
        error = await refused(url, pool, by=by)
    assert error.facts["status"] == 401
    assert str(error).endswith("It says: Incorrect API key provided:")


@both
async def test_an_error_without_an_end_is_read_to_the_limit(
    pool: UpstreamPool, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr(upstream_errors, "MAX_ERROR_BYTES", 20)
    monkeypatch.setattr(upstream_call, "MAX_ERROR_BYTES", 20)
    async with sending(
        [failed(401, b"Wrong: " + KEY[:9].encode(), length=900_000), KEY[9:].encode() + b"x" * 500_000]
    ) as url:
        error = await refused(url, pool, by=by)
    assert str(error).endswith("It says: Wrong:")


SAID = b'data: {"choices":[{"delta":{"content":"hello"}}]}\n\n'
END = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    "segments", [[SAID + END + USAGE + DONE], [SAID, END + USAGE], [SAID, END, USAGE], [SAID + END + USAGE]]
)
async def test_a_whole_answer_may_end_uncleanly(pool: UpstreamPool, segments: list[bytes], reset: bool) -> None:
    async with sending([EVENTS, *map(chunk, segments)], reset=reset) as url:
        found = await heard(url, pool)
    assert found.error is None
    assert found.text == "hello"
    assert found.deltas[-1] == Delta(usage=TokenUsage(prompt_tokens=3, completion_tokens=1), finish="stop")


@pytest.mark.parametrize("last", [b"", USAGE, b'data: {"choices":[{"delta":{},"finish_reason":"abort"}]}\n\n'])
async def test_an_answer_without_its_end_is_lost_with_the_connection(pool: UpstreamPool, last: bytes) -> None:
    async with sending([EVENTS, chunk(SAID + last)]) as url:
        found = await heard(url, pool)
    assert found.text == "hello"
    assert isinstance(found.error, ModelOverloaded)
    assert found.error.facts["started"] is True


async def test_a_whole_answer_of_a_server_that_hangs_is_no_failure(pool: UpstreamPool) -> None:
    async with sending([EVENTS + chunk(SAID + END + USAGE)], wait_s=3.0) as url:
        found = await heard(url, pool)
    assert (found.error, found.deltas[-1].finish) == (None, "stop")


@pytest.mark.parametrize("field", ["content", "reasoning_content"])
async def test_an_answer_has_a_bound(pool: UpstreamPool, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    monkeypatch.setattr(upstream_lane, "MAX_TEXT_CHARS", 100)
    piece = chunk(b'data: {"choices":[{"delta":{"%s":"%s"}}]}\n\n' % (field.encode(), b"x" * 40))
    for pieces, kind in ((2, type(None)), (3, ModelBadOutput), (50, ModelBadOutput)):
        async with sending([EVENTS, *[piece] * pieces, chunk(END + DONE)], wait_s=0.003) as url:
            found = await heard(url, pool)
        assert type(found.error) is kind
        assert sum(len(delta.text) + len(delta.reasoning) for delta in found.deltas) <= 100
        if found.error:
            assert "longer than 100 characters" in str(found.error)
            assert found.error.facts["started"] is True


async def test_an_answer_in_one_piece_has_a_bound(pool: UpstreamPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_lane, "MAX_TEXT_CHARS", 100)
    body = orjson.dumps({"choices": [{"message": {"content": "x" * 101}, "finish_reason": "stop"}]})
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with sending([head + body]) as url:
        found = await heard(url, pool)
    assert (type(found.error), found.deltas) == (ModelBadOutput, [])
