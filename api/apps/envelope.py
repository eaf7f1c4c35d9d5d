"""The reply shapes of the wire contract (README section 3), each once.

`sdk_result`, `sdk_error` and `partial` are for `/api/v1`, `json_result` and `data_error` for `/v1`. A check deep
inside a route raises `Refused`; the one handler in `api/apps/gate.py` turns it into its reply.
"""

from collections.abc import Mapping, Sequence
from email.utils import format_datetime
from typing import Any

import orjson
from quart import Response

from api.apps.openai_wire import failure
from api.db.services.records import BatchResult
from api.errors import BAD_ARGUMENT, DATA_ERROR, EXCEPTION
from rag.core.clock import from_ms
from rag.core.errors import BudgetSpent

_ABSENT: Any = object()


class Refused(Exception):
    """An error reply of the contract. With `data` it has the JSON-result shape, without it the SDK shape."""

    def __init__(self, code: int, message: str, *, data: Any = _ABSENT, status: int = 200) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data
        self.status = status

    def reply(self) -> Response:
        if self.data is _ABSENT:
            return sdk_error(self.message, self.code, status=self.status)
        return json_result(self.data, self.message, self.code, status=self.status)


def bad_argument(message: str) -> Refused:
    """Code 101 in the SDK shape, to be raised."""
    return Refused(BAD_ARGUMENT, message)


def uncaught(text: str) -> Refused:
    """Code 100 with the repr of an exception as text (README section 6), to be raised."""
    return Refused(EXCEPTION, text, data=None)


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Any JSON body, ended by a newline."""
    content = orjson.dumps(body, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
    return Response(content, status=status, headers=dict(headers or {}), content_type="application/json")


def sdk_result(data: Any = None, **more: Any) -> Response:
    """`{"code": 0}`, with `data` if it is not None, and `more` (only `total_datasets` has a use)."""
    body: dict[str, Any] = {"code": 0}
    if data is not None:
        body["data"] = data
    return json_response(body | more)


def sdk_error(message: str, code: int = DATA_ERROR, *, status: int = 200) -> Response:
    """`{"code": n, "message": text}`; an empty text becomes `Error`."""
    return json_response({"code": code, "message": message or "Error"}, status)


def json_result(data: Any = None, message: str = "success", code: int = 0, *, status: int = 200) -> Response:
    """`{"code", "message", "data"}`, all three always."""
    return json_response({"code": code, "message": message, "data": data}, status)


def data_error(message: str) -> Response:
    """`{"code": 102, "message": text}`, the business errors of `/v1`."""
    return sdk_error(message)


def partial(count: int, errors: Sequence[str]) -> Response:
    """Code 0 with what was done and what was not (README section 9)."""
    return sdk_result({"success_count": count, "errors": list(errors)})


def batch_reply(result: BatchResult, *, duplicate: str) -> Response:
    """The reply to a request over ids that were all found: bare, or partial when ids came twice.

    Args:
        duplicate: What stands before a repeated id, such as `Duplicate document ids: `.
    """
    if result.duplicates:
        return partial(len(result.done), [f"{duplicate}{twice}" for twice in result.duplicates])
    return sdk_result()


def http_date(ms: int | None) -> str | None:
    """Unix milliseconds as RFC 1123 text in GMT."""
    return None if ms is None else format_datetime(from_ms(ms), usegmt=True)


def times(create_time: int, update_time: int) -> dict[str, Any]:
    """The four time fields that most objects carry."""
    return {
        "create_time": create_time,
        "create_date": http_date(create_time),
        "update_time": update_time,
        "update_date": http_date(update_time),
    }


def openai_error(message: str, status: int, *, code: str | None = None, param: str | None = None) -> Response:
    """An error body as OpenAI's clients expect it, with the HTTP status they branch on."""
    # OpenAI's client would try again twice otherwise, though the budget is spent until tomorrow.
    headers = {"x-should-retry": "false"} if code == BudgetSpent.code else None
    return json_response(failure(message, status, code=code, param=param), status, headers)
