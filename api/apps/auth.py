"""Credential -> Principal, for all four carriers.

| carrier | opens |
|---|---|
| `Authorization: Bearer <API key>` | `/api/v1`, the OpenAI faces |
| `Authorization: <login token>` | `/v1` |
| `Authorization: Bearer <share token>` | the share routes only |
| cookie `parley-<port>` | what API key and login token open; only from our own pages |

An Authorization header wins over the cookie. Every carrier ends in the same scope check. Messages are those of
README section 2, quirks included.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

from quart import request
from werkzeug.sansio.response import Response as AnyResponse

from api.apps import repr_texts
from api.apps.context import services, web_state
from api.apps.envelope import Refused
from api.errors import DATA_ERROR, EXCEPTION, NOT_AUTHENTICATED, UNAUTHORIZED
from rag.core.types import Principal, Scope

View = Callable[..., Awaitable[Any]]
AUTH_MARK = "parley_auth"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
UNAUTHORIZED_TEXT = "<Unauthorized '401: Unauthorized'>"


class Denial(StrEnum):
    """Why nobody was recognised."""

    MISSING = "missing"
    MALFORMED = "malformed"
    UNKNOWN = "unknown"
    WRONG_SCOPE = "wrong_scope"
    FOREIGN_ORIGIN = "foreign_origin"


class NotAuthenticated(Exception):
    """Raised by `authenticate`; each face shapes its own reply from `denial`."""

    def __init__(self, denial: Denial) -> None:
        super().__init__(denial.value)
        self.denial = denial


@dataclass(frozen=True, kw_only=True, slots=True)
class Door:
    """What a route accepts: how the Authorization header is read, and which scopes pass."""

    bearer: bool
    scopes: frozenset[Scope]
    cookie: bool = True


API_DOOR = Door(bearer=True, scopes=frozenset({Scope.API, Scope.WEB}))
WEB_DOOR = Door(bearer=False, scopes=frozenset({Scope.WEB}))
SHARE_DOOR = Door(bearer=True, scopes=frozenset({Scope.SHARE}), cookie=False)


async def authenticate(door: Door) -> Principal:
    """Who asks.

    Raises:
        NotAuthenticated: nobody this door lets in; `denial` says why.
    """
    header = request.headers.get("Authorization", "")
    if header.strip():
        principal = await (_of_bearer(header, door) if door.bearer else _of_login_token(header))
    elif door.cookie:
        principal = await _of_cookie()
    else:
        raise NotAuthenticated(Denial.MISSING)
    if principal.scope not in door.scopes:
        raise NotAuthenticated(Denial.WRONG_SCOPE)
    return principal


async def _of_bearer(header: str, door: Door) -> Principal:
    words = header.split()
    if len(words) < 2 or (len(words) != 2 and Scope.SHARE in door.scopes):
        raise NotAuthenticated(Denial.MALFORMED)
    tokens = services().tokens
    principal = await tokens.principal_of_key(words[1]) or await tokens.principal_of_share(words[1])
    if principal is None:
        raise NotAuthenticated(Denial.UNKNOWN)
    return principal


async def _of_login_token(header: str) -> Principal:
    principal = await services().users.principal_of_login(header.strip())
    if principal is None:
        raise NotAuthenticated(Denial.UNKNOWN)
    return principal


async def _of_cookie() -> Principal:
    value = request.cookies.get(cookie_name())
    if not value:
        raise NotAuthenticated(Denial.MISSING)
    if not _from_our_page():
        raise NotAuthenticated(Denial.FOREIGN_ORIGIN)
    principal = await services().users.principal_of_cookie(value)
    if principal is None:
        raise NotAuthenticated(Denial.UNKNOWN)
    return principal


def _from_our_page() -> bool:
    """Whether the request's Origin is this server. Reads may come without one (top-level navigation)."""
    origin = request.headers.get("Origin")
    if origin is None:
        return request.method in _SAFE_METHODS
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc == request.headers.get("Host", "")


def cookie_name() -> str:
    """Cookies ignore the port, so the name carries it: two servers on one machine do not sign each other out."""
    return f"parley-{web_state().port}"


def set_cookie(response: AnyResponse, value: str) -> None:
    """Sign the browser in."""
    response.set_cookie(
        cookie_name(),
        value,
        max_age=services().settings.auth.login_max_age_s,
        httponly=True,
        samesite="Strict",
        secure=request.scheme == "https",
        path="/",
    )


def drop_cookie(response: AnyResponse) -> None:
    response.delete_cookie(cookie_name(), path="/", httponly=True, samesite="Strict")


_API_DENIALS: dict[Denial, Refused] = {
    # Code 0 is the contract's own quirk; clients of the original see exactly this.
    Denial.MISSING: Refused(0, "`Authorization` can't be empty", data=False),
    Denial.MALFORMED: Refused(0, "Please check your authorization format.", data=False),
    Denial.UNKNOWN: Refused(NOT_AUTHENTICATED, "Authentication error: API key is invalid!", data=False),
    Denial.WRONG_SCOPE: Refused(NOT_AUTHENTICATED, "Authentication error: API key is invalid!", data=False, status=403),
    Denial.FOREIGN_ORIGIN: Refused(
        NOT_AUTHENTICATED, "Requests from other sites must carry an API key.", data=False, status=403
    ),
}
_SHARE_DENIALS: dict[Denial, Refused] = {
    Denial.MISSING: Refused(EXCEPTION, repr_texts.NULL_HAS_NO_SPLIT, data=None),
    Denial.MALFORMED: Refused(DATA_ERROR, 'Authorization is not valid!"'),
    Denial.UNKNOWN: Refused(DATA_ERROR, 'Authentication error: API key is invalid!"'),
    Denial.WRONG_SCOPE: Refused(DATA_ERROR, 'Authentication error: API key is invalid!"'),
    Denial.FOREIGN_ORIGIN: Refused(DATA_ERROR, 'Authorization is not valid!"'),
}


def _guard(name: str, door: Door, deny: Callable[[Denial], Refused]) -> Callable[[View], View]:
    def decorate(view: View) -> View:
        @wraps(view)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            try:
                principal = await authenticate(door)
            except NotAuthenticated as error:
                return deny(error.denial).reply()
            return await view(principal, *args, **kwargs)

        setattr(guarded, AUTH_MARK, name)
        return guarded

    return decorate


api_key_required = _guard("api_key", API_DOOR, _API_DENIALS.__getitem__)
"""For `/api/v1`: the view gets the Principal as its first argument."""
login_required = _guard("login", WEB_DOOR, lambda _: Refused(UNAUTHORIZED, UNAUTHORIZED_TEXT, data=None))
"""For `/v1`: the view gets the Principal as its first argument."""
share_required = _guard("share", SHARE_DOOR, _SHARE_DENIALS.__getitem__)
"""For the share routes: the view gets the Principal as its first argument."""


def public(view: View) -> View:
    """Mark a view that anybody may call. A test fails on routes that say nothing."""
    setattr(view, AUTH_MARK, "public")
    return view


def marked(name: str) -> Callable[[View], View]:
    """Mark a view that calls `authenticate` itself, in the words of its own face."""

    def decorate(view: View) -> View:
        setattr(view, AUTH_MARK, name)
        return view

    return decorate
