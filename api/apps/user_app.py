"""`/v1/user` (web.md section 1): register, login, logout, info, tenant_info, set_tenant_info.

Passwords come plain: over loopback or TLS. The user object carries neither password hash nor access token.
"""

from typing import Any

from quart import Blueprint, Response

from api.apps import repr_texts
from api.apps.auth import drop_cookie, login_required, public
from api.apps.body import required
from api.apps.context import services
from api.apps.envelope import Refused, data_error, http_date, json_response, json_result, times
from api.apps.openapi import describe
from api.apps.user_models import Login, Register, TenantInfo
from api.db.services.model_catalogue import BUILTIN_EMBEDDING, ModelKind
from api.db.services.records import UserRecord
from api.errors import EXCEPTION, FORBIDDEN, NOT_AUTHENTICATED, OPERATING_ERROR
from rag.core.errors import Conflict, InvalidInput, NotAllowed, NotFound
from rag.core.types import Principal

bp = Blueprint("user", __name__, url_prefix="/v1/user")
PARSERS = (
    "naive:General,qa:Q&A,resume:Resume,manual:Manual,table:Table,paper:Paper,book:Book,laws:Laws,"
    "presentation:Presentation,picture:Picture,one:One,audio:Audio,email:Email,tag:Tag"
)
_KINDS: dict[str, ModelKind] = {
    "llm_id": "chat",
    "embd_id": "embedding",
    "rerank_id": "rerank",
    "asr_id": "speech2text",
    "img2txt_id": "image2text",
    "tts_id": "tts",
}
_REQUIRED_TENANT_KEYS = ("tenant_id", "asr_id", "embd_id", "img2txt_id", "llm_id")


@bp.post("/register")
@public
@describe(request=Register, tag="users")
async def register() -> Response:
    """Register, where the server allows it, and sign in."""
    body = await required("nickname", "email", "password")
    try:
        user, token = await services().users.register(
            _text(body, "email"), _text(body, "nickname"), _text(body, "password")
        )
    except NotAllowed as error:
        raise Refused(OPERATING_ERROR, error.message, data=False) from error
    except Conflict as error:
        raise Refused(OPERATING_ERROR, error.message, data=False) from error
    except InvalidInput as error:
        if error.facts.get("field") == "email":
            raise Refused(OPERATING_ERROR, error.message, data=False) from error
        text = f"User registration failure, error: {error.message}"
        raise Refused(EXCEPTION, text, data=False) from error
    return _signed_in(user, token, f"{user.nickname}, welcome aboard!")


@bp.route("/login", methods=["GET", "POST"])
@public
@describe(request=Login, tag="users")
async def login() -> Response:
    """Sign in by email and password; the token comes in the Authorization header."""
    body = await required()
    if not body:
        raise Refused(NOT_AUTHENTICATED, "Unauthorized!", data=False)
    try:
        user, token = await services().users.login(_text(body, "email"), _text(body, "password"))
    except NotFound as error:
        raise Refused(NOT_AUTHENTICATED, error.message, data=False) from error
    except NotAllowed as error:
        code = FORBIDDEN if error.facts.get("reason") == "suspended" else NOT_AUTHENTICATED
        raise Refused(code, error.message, data=False) from error
    return _signed_in(user, token, "Welcome back!")


@bp.get("/logout")
@login_required
@describe(tag="users")
async def logout(principal: Principal) -> Response:
    """Sign out everywhere."""
    await services().users.logout(principal)
    response = json_result(True)
    drop_cookie(response)
    return response


@bp.get("/info")
@login_required
@describe(tag="users")
async def info(principal: Principal) -> Response:
    """The signed-in user."""
    return json_result(user_body(await services().users.info(principal)))


@bp.get("/tenant_info")
@login_required
@describe(tag="users")
async def tenant_info(principal: Principal) -> Response:
    """The user's tenant and its default models."""
    try:
        tenant = await services().users.tenant_info(principal)
    except NotFound:
        return data_error("Tenant not found!")
    models = services().models
    return json_result(
        {
            "tenant_id": tenant.id,
            "name": tenant.name,
            "llm_id": tenant.llm_id or models.default_chat(principal.tenant_id),
            "embd_id": tenant.embd_id or models.default_embedding(),
            "rerank_id": tenant.rerank_id,
            "asr_id": tenant.asr_id,
            "img2txt_id": tenant.img2txt_id,
            "tts_id": tenant.tts_id,
            "parser_ids": PARSERS,
            "role": "owner",
        }
    )


@bp.post("/set_tenant_info")
@login_required
@describe(request=TenantInfo, tag="users")
async def set_tenant_info(principal: Principal) -> Response:
    """Change the tenant's default models; only the caller's own tenant."""
    body = await required(*_REQUIRED_TENANT_KEYS)
    if body["tenant_id"] != principal.tenant_id:
        return data_error("Tenant not found!")
    changes = {key: value for key, value in body.items() if key != "tenant_id"}
    _check_models(principal, changes)
    try:
        await services().users.set_tenant_info(principal, changes)
    except InvalidInput as error:
        raise Refused(EXCEPTION, repr_texts.failed_attribute(error.message), data=None) from error
    await services().models.refresh()
    return json_result(True)


def _check_models(principal: Principal, changes: dict[str, Any]) -> None:
    """Refuse models that the tenant cannot use. Any embedding model `@Builtin` means the one that is built in here."""
    models = services().models
    for key, kind in _KINDS.items():
        name = changes.get(key)
        if not isinstance(name, str) or not name or models.exists(name, kind, principal.tenant_id):
            continue
        if kind == "embedding" and name.endswith("@Builtin"):
            changes[key] = BUILTIN_EMBEDDING
            continue
        raise Refused(EXCEPTION, repr_texts.failed_lookup(f"Model({name}) not authorized"), data=None)


def user_body(user: UserRecord) -> dict[str, Any]:
    """The user row of the contract without its secrets."""
    return {
        "id": user.id,
        "access_token": "",
        "nickname": user.nickname,
        "password": "",
        "email": user.email,
        "avatar": user.avatar,
        "language": user.language,
        "color_schema": user.color_schema,
        "timezone": user.timezone,
        "last_login_time": http_date(user.last_login_time),
        "is_authenticated": "1",
        "is_active": "1" if user.is_active else "0",
        "is_anonymous": "0",
        "login_channel": "password",
        "status": "1",
        "is_superuser": user.is_superuser,
        **times(user.create_time, user.update_time),
    }


def _signed_in(user: UserRecord, token: str, message: str) -> Response:
    body = {key: value for key, value in user_body(user).items() if value is not None}
    headers = {"Authorization": token, "Access-Control-Expose-Headers": "Authorization"}
    return json_response({"code": 0, "message": message, "data": body}, headers=headers)


def _text(body: dict[str, Any], key: str) -> str:
    value = body.get(key)
    return value if isinstance(value, str) else ""
