"""The OpenAPI document, made by quart-schema when it is first asked for.

Contract routes check their bodies by themselves, in the contract's order; `describe` only puts what they take into
the document. quart-schema costs 0.3 s to import, which a start does not need, so the marks are its own attribute
names set without it.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel
from quart import Quart, Response

from api.apps.auth import AUTH_MARK, public
from api.apps.envelope import json_response
from rag.core import blocking
from rag.core.blocking import Lane
from rag.core.resources import project_version

F = TypeVar("F", bound=Callable[..., Any])
_REQUEST, _QUERY, _TAGS = "parley_request", "parley_query", "parley_tags"
_SECURITY: dict[str, list[dict[str, list[str]]]] = {
    "api_key": [{"api_key": []}],
    "login": [{"login_token": []}],
    "share": [{"share_token": []}],
    "public": [],
}


def describe(
    *, request: type[BaseModel] | None = None, query: type[BaseModel] | None = None, tag: str = ""
) -> Callable[[F], F]:
    """Put the shape of a route's body and query into the OpenAPI document. It validates nothing."""

    def decorate(view: F) -> F:
        setattr(view, _REQUEST, request)
        setattr(view, _QUERY, query)
        setattr(view, _TAGS, {tag} if tag else set())
        return view

    return decorate


def install(app: Quart) -> None:
    """Serve the document at `/openapi.json`. There is no page for it: those load scripts from other origins."""
    built: list[dict[str, Any]] = []

    @public
    async def openapi() -> Response:
        """This document."""
        if not built:
            built.append(await blocking.run_in(Lane.FILES, build, app))
        return json_response(built[0])

    app.add_url_rule("/openapi.json", "openapi", openapi)


def build(app: Quart) -> dict[str, Any]:
    """The document as OpenAPI 3.1 objects. Blocking: imports quart-schema and walks every model."""
    from quart_schema import QuartSchema  # see the module's docstring
    from quart_schema import openapi as marks
    from quart_schema import validation as places
    from quart_schema.openapi import APIKeySecurityScheme, HttpSecurityScheme, OpenAPIProvider

    for view in app.view_functions.values():
        plain: Any = getattr(view, "__func__", view)
        if getattr(plain, _REQUEST, None) is not None:
            setattr(plain, places.QUART_SCHEMA_REQUEST_ATTRIBUTE, (getattr(plain, _REQUEST), places.DataSource.JSON))
        if getattr(plain, _QUERY, None) is not None:
            setattr(plain, places.QUART_SCHEMA_QUERYSTRING_ATTRIBUTE, getattr(plain, _QUERY))
        setattr(plain, marks.QUART_SCHEMA_TAG_ATTRIBUTE, getattr(plain, _TAGS, set()))
        security = _SECURITY.get(getattr(plain, AUTH_MARK, "api_key"), [{"api_key": []}])
        setattr(plain, marks.QUART_SCHEMA_SECURITY_ATTRIBUTE, security)
    app.config.setdefault("QUART_SCHEMA_CONVERT_CASING", False)
    app.config.setdefault("QUART_SCHEMA_CONVERSION_PREFERENCE", "pydantic")
    extension = QuartSchema(
        openapi_path=None,
        info={"title": "Parley", "version": project_version()},
        conversion_preference="pydantic",
        security_schemes={
            "api_key": HttpSecurityScheme(scheme="bearer"),
            "share_token": HttpSecurityScheme(scheme="bearer"),
            "login_token": APIKeySecurityScheme(in_="header", name="Authorization"),
        },
    )
    return OpenAPIProvider(app, extension).schema()
