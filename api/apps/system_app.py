"""`/v1/system` (web.md section 2), and what operators ask: `/healthz`, `/readyz`, `/metrics`."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from quart import Blueprint, Response

from api.apps.auth import login_required, public
from api.apps.context import services, web_state
from api.apps.envelope import http_date, json_response, json_result
from api.apps.openapi import describe
from api.db.services.records import NewToken, TokenRecord
from rag.core.blocking import Lane, run_in
from rag.core.errors import RagError
from rag.core.resources import project_version
from rag.core.types import Principal

bp = Blueprint("system", __name__)


@bp.get("/healthz")
@public
@describe(tag="operation")
async def alive() -> Response:
    """200 as long as the process answers."""
    return json_response({"status": "ok"})


@bp.get("/readyz")
@public
@describe(tag="operation")
async def ready() -> Response:
    """200 when everything is loaded and every server answers, else 503 with what is missing, and why if that is known.

    `status` is `starting` while something loads, `unavailable` when only servers are away. `notes` say what an
    operator should do though all works, such as an index that lacks entries.
    """
    state = web_state()
    if state.ready:
        notes = {part: note for part, note in state.notes.items() if note}
        return json_response({"status": "ready"} | ({"notes": notes} if notes else {}))
    status = "starting" if state.missing else "unavailable"
    body = {"status": status, "missing": sorted(state.lacking), "failed": state.failed | state.away}
    return json_response(body, 503)


@bp.get("/v1/system/ping")
@public
@describe(tag="system")
async def ping() -> Response:
    """`pong`."""
    return Response("pong", content_type="text/plain; charset=utf-8")


@bp.get("/v1/system/healthz")
@public
@describe(tag="system")
async def healthz() -> Response:
    """Whether each backend answers; 500 when one does not. There is no Redis: the queue stands for it."""
    found = services()
    body: dict[str, Any] = {}
    meta: dict[str, Any] = {}
    checks: dict[str, Callable[[], Awaitable[Any]]] = {
        "db": lambda: found.db.run(lambda: None),
        "redis": found.queue.check,
        "doc_engine": found.store.check,
        "storage": found.blobs.check,
    }

    async def ask(part: str) -> None:
        began = found.clock.monotonic()
        try:
            await checks[part]()
            body[part] = "ok"
        except RagError as error:
            body[part] = "nok"
            elapsed = f"{(found.clock.monotonic() - began) * 1000:.1f}"
            meta[part] = {"elapsed": elapsed, "error": error.code}

    await asyncio.gather(*(ask(part) for part in checks))
    body["status"] = "nok" if meta else "ok"
    return json_response(body | ({"_meta": meta} if meta else {}), 500 if meta else 200)


@bp.get("/v1/system/config")
@public
@describe(tag="system")
async def config() -> Response:
    """What a sign-in page must know."""
    return json_result({"registerEnabled": int(services().settings.auth.register_enabled)})


@bp.get("/v1/system/version")
@login_required
@describe(tag="system")
async def show_version(principal: Principal) -> Response:
    """The version of this server."""
    return json_result(f"v{await run_in(Lane.FILES, project_version)}")


@bp.post("/v1/system/new_token")
@login_required
@describe(tag="system")
async def new_token(principal: Principal) -> Response:
    """Make an API key with its share token. Nothing shows them again."""
    return json_result(_new_token_body(await services().tokens.create(principal)))


@bp.get("/v1/system/token_list")
@login_required
@describe(tag="system")
async def token_list(principal: Principal) -> Response:
    """The tenant's keys, masked."""
    return json_result([_token_body(record) for record in await services().tokens.list(principal)])


@bp.delete("/v1/system/token/<token>")
@login_required
@describe(tag="system")
async def delete_token(principal: Principal, token: str) -> Response:
    """Revoke a key, named by itself, its id or its masked form; true even if there is none."""
    await services().tokens.revoke(principal, token)
    return json_result(True)


def _new_token_body(token: NewToken) -> dict[str, Any]:
    return {
        "id": token.record.id,
        "tenant_id": token.record.tenant_id,
        "token": token.key,
        "beta": token.share,
        "create_time": token.record.create_time,
        "create_date": http_date(token.record.create_time),
        "update_time": None,
        "update_date": None,
    }


def _token_body(record: TokenRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "tenant_id": record.tenant_id,
        "name": record.name,
        "token": record.hint,
        "dialog_id": None,
        "source": None,
        "beta": "…" if record.has_share else None,
        "create_time": record.create_time,
        "create_date": http_date(record.create_time),
        "update_time": record.update_time,
        "update_date": http_date(record.update_time),
    }
