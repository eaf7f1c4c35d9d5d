from datetime import UTC, datetime

import orjson
import pytest

from rag.core.errors import ModelOverloaded, ModelRefused, ModelTimeout
from rag.llm.upstream_errors import error_for, error_in_stream, seconds


class At:
    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        ("3", 3.0),
        ("0.5", 0.5),
        ("-1", 0.0),
        ("soon", None),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 00:00:30", 30.0),
        ("Thu, 01 Jan 2026 00:00:30 -0000", 30.0),
        ("Thu, 01 Jan 99999999999999999999 00:00:30 GMT", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_retry_after(header: str | None, expected: float | None) -> None:
    assert seconds(header, At()) == expected


@pytest.mark.parametrize(
    "body", [b"", b"<html>Bad gateway</html>", b"\xff\xfe", b"[1]", b'{"error": "text"}', b'{"error": null}']
)
def test_any_body_makes_an_error(body: bytes) -> None:
    error = error_for(502, body, model="m@P")
    assert type(error) is ModelOverloaded
    assert "m@P" in str(error)
    assert "<html>" not in str(error)


def test_the_reason_is_told_and_the_key_is_not() -> None:
    error = error_for(401, b'{"error": {"message": "Incorrect key sk-1234 given"}}', model="m@P", secret="sk-1234")
    assert type(error) is ModelRefused
    assert "Incorrect key *** given" in str(error)


@pytest.mark.parametrize("length", range(370, 401, 3))
def test_where_the_reason_is_cut_no_part_of_the_key_is_left(length: int) -> None:
    key = "sk-0123456789abcdefghij"
    for body in (f"{'x' * length}{key} and more", orjson.dumps({"detail": f"{'x' * length}{key} and more"}).decode()):
        error = error_for(401, body.encode(), model="m@P", secret=key)
        assert "sk-0" not in str(error)
        assert len(str(error)) < 600


@pytest.mark.parametrize(
    ("detail", "kind"),
    [
        ({"code": 429}, ModelOverloaded),
        ({"code": "401"}, ModelRefused),
        ("text", ModelOverloaded),
        ({"code": "server_error"}, ModelOverloaded),
        ({"code": "rate_limit_exceeded"}, ModelOverloaded),
        ({"code": "insufficient_quota"}, ModelRefused),
        ({"code": None, "type": "invalid_request_error"}, ModelRefused),
        ({"code": "context_length_exceeded", "type": "server_error"}, ModelRefused),
        ({"type": "timeout_error"}, ModelTimeout),
        ({"type": ["odd"]}, ModelOverloaded),
        ({"code": "²"}, ModelOverloaded),
        ({"code": "4" * 5000}, ModelOverloaded),
    ],
)
def test_errors_inside_a_stream(detail: object, kind: type[Exception]) -> None:
    assert type(error_in_stream(detail, model="m@P")) is kind


def test_a_conversation_that_is_too_long_is_told() -> None:
    body = b'{"error": {"message": "Too many tokens.", "code": "context_length_exceeded"}}'
    assert error_for(400, body, model="m@P").facts["too_long"] is True
    assert "too_long" not in error_for(400, b'{"error": {"code": "other"}}', model="m@P").facts
