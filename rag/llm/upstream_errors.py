"""What a provider's error means: HTTP status and body to our errors, in one table."""

from datetime import UTC
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

import orjson

from rag.core.clock import Clock, SystemClock
from rag.core.errors import ModelError, ModelOverloaded, ModelRefused, ModelTimeout

if TYPE_CHECKING:
    import aiohttp

MAX_ERROR_BYTES: Final = 64 << 10
"""Of the body of an error."""
_MAX_REASON_CHARS = 400
_NO_QUOTA = ("insufficient_quota", "billing_hard_limit_reached")
_WHAT_TO_DO = {
    400: "The provider did not take the request",
    401: "The provider refused the key; check it in the settings",
    402: "The provider asks for payment; check the account",
    403: "The provider refused the key; check what it may do",
    404: "The provider knows no such model or address; check both in the settings",
    413: "The request is too long for the model; ask for less",
    422: "The provider did not take the request",
    429: "The provider limits the rate of calls; try again later",
}

_STATUS_OF_WORD = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "invalid_prompt": 400,
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "invalid_image": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "timeout_error": 408,
}
"""Errors that providers name in a stream, where no status can tell; any other word means trouble at the provider."""


async def error_of(response: "aiohttp.ClientResponse", *, model: str, secret: str = "") -> ModelError:
    """The error of a reply that is not 200, read to its end or to `MAX_ERROR_BYTES`, whatever segments it comes in.
    The caller sets a deadline, and closes the reply.
    """
    # Imported here because litellm_port shares this module, and processes without a provider of our own import it.
    import aiohttp

    pieces: list[bytes] = []
    room, cut = MAX_ERROR_BYTES, False
    try:
        async for piece in response.content.iter_any():
            pieces.append(piece[:room])
            cut = len(piece) > room
            room -= len(pieces[-1])
            if cut:
                break
    except aiohttp.ClientError:
        cut = True  # The status has been told, and says more than that the connection was lost.
    body = b"".join(pieces)
    retry_after = response.headers.get("Retry-After")
    return error_for(
        response.status,
        without_begun(body, secret) if cut else body,
        model=model,
        retry_after=retry_after,
        secret=secret,
    )


def without_begun(body: bytes, secret: str) -> bytes:
    """`body`, which was cut, without the part of `secret` that it ends with."""
    key = secret.encode()
    begun = next((length for length in range(len(key) - 1, 0, -1) if body.endswith(key[:length])), 0)
    return body[: len(body) - begun]


def error_for(status: int, body: bytes, *, model: str, retry_after: str | None = None, secret: str = "") -> ModelError:
    """The error of a reply that is not 200. `secret` never shows in its message."""
    detail: Any = None
    try:
        detail = orjson.loads(body)
    except orjson.JSONDecodeError:
        detail = body.decode("utf-8", "replace") if not body.lstrip().startswith(b"<") else ""
    if isinstance(detail, dict):
        detail = detail.get("error", detail)
    return _error(status, detail, model=model, retry_after_s=seconds(retry_after), secret=secret)


def error_in_stream(detail: Any, *, model: str, secret: str = "") -> ModelError:
    """The error that a provider sent as a piece of its stream; its code may be a status."""
    codes = [detail.get("code"), detail.get("type")] if isinstance(detail, dict) else []
    status = next((found for code in codes if (found := _status_of(code)) is not None), 500)
    return _error(status, detail, model=model, retry_after_s=None, secret=secret)


def _status_of(code: object) -> int | None:
    if isinstance(code, int):
        return code
    if not isinstance(code, str):
        return None
    # ASCII: `isdigit` takes characters that `int` does not, and `int` refuses what is longer than any code.
    return int(code) if code.isascii() and code.isdigit() and len(code) < 10 else _STATUS_OF_WORD.get(code)


def seconds(retry_after: str | None, clock: Clock | None = None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or an HTTP date, in UTC if it names no zone. None if it is
    neither."""
    if not retry_after:
        return None
    try:
        wanted = float(retry_after)
        return max(0.0, wanted) if isfinite(wanted) else None
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return max(0.0, (then - (clock or SystemClock()).now()).total_seconds())


def _error(status: int, detail: Any, *, model: str, retry_after_s: float | None, secret: str) -> ModelError:
    reason, code = _reason(detail)
    # Before it is cut: a part of the key is still the key's.
    reason = (reason.replace(secret, "***") if secret else reason)[:_MAX_REASON_CHARS].strip()
    what = _WHAT_TO_DO.get(status, "The provider has trouble; try again later" if status >= 500 else "The call failed")
    message = f"{model!r}: {what} (status {status})." + (f" It says: {reason}" if reason else "")
    facts: dict[str, Any] = {"model": model, "status": status}
    if retry_after_s is not None:
        facts["retry_after_s"] = retry_after_s
    if code == "context_length_exceeded":
        facts["too_long"] = True
    if status == 408:
        return ModelTimeout(message, **facts)
    if status >= 500 or (status == 429 and code not in _NO_QUOTA):
        return ModelOverloaded(message, **facts)
    return ModelRefused(message, **facts)


def _reason(detail: Any) -> tuple[str, str]:
    if isinstance(detail, dict):
        message = detail.get("message") or detail.get("detail") or ""
        return str(message), str(detail.get("code") or detail.get("type") or "")
    return (detail if isinstance(detail, str) else ""), ""
