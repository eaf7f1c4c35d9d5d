"""`/v1/llm` (web.md section 8): providers, the tenant's keys for them, and its models. No reply holds a key."""

from typing import Any, Final

import orjson
from quart import Blueprint, Response

from api.apps import repr_texts
from api.apps.auth import login_required
from api.apps.body import arg, required, whole_number
from api.apps.context import services
from api.apps.envelope import Refused, data_error, json_result, times
from api.apps.llm_models import AddModel, ListModels, Mine, NamedFactory, NamedModel, SetKey
from api.apps.openapi import describe
from api.db.services.tenant_model_list import ModelAtProvider
from api.db.services.tenant_model_service import NewModel, NothingToProbe, ProbeFailed
from api.errors import BAD_ARGUMENT, EXCEPTION
from rag.core.errors import InvalidInput, LimitExceeded, NotFound
from rag.core.types import Principal

bp = Blueprint("llm", __name__, url_prefix="/v1/llm")
_NO_KEY: Final = "x"
"""What the contract sends for servers that want no key."""
_SUFFIXES: Final = {
    "LocalAI": "___LocalAI",
    "HuggingFace": "___HuggingFace",
    "OpenAI-API-Compatible": "___OpenAI-API",
    "VLLM": "___VLLM",
}
_HIDDEN: Final = frozenset({"Youdao", "FastEmbed", "BAAI", "Builtin"})
_KEY_PARTS: Final = {
    "bedrock_ak": "aws_access_key_id",
    "bedrock_sk": "aws_secret_access_key",
    "bedrock_region": "aws_region_name",
    "aws_session_token": "aws_session_token",
    "api_version": "api_version",
}
"""Provider-specific keys of a body -> the parts of a key that takes several."""


@bp.get("/factories")
@login_required
@describe(tag="models")
async def factories(principal: Principal) -> Response:
    """The providers of models, the highest rank first."""
    found = [
        {
            "name": one.name,
            "logo": "",
            "tags": one.tags,
            "rank": one.rank,
            "status": "1",
            "model_types": list(one.kinds),
            **times(0, 0),
        }
        for one in services().tenant_models.factories()
        if one.name not in _HIDDEN
    ]
    return json_result(found)


@bp.post("/set_api_key")
@login_required
@describe(request=SetKey, tag="models")
async def set_api_key(principal: Principal) -> Response:
    """Keep a key for a provider once a call with it went through."""
    body = await required("llm_factory", "api_key")
    factory = _text(body, "llm_factory")
    try:
        await services().tenant_models.set_key(
            principal,
            factory,
            api_key=_text(body, "api_key"),
            base_url=_text(body, "base_url"),
            kind=_text(body, "model_type"),
            model=_text(body, "llm_name"),
        )
    except NotFound as error:
        raise _unsupported(
            f"{_text(body, 'model_type') or 'chat'} model from {factory} is not supported yet."
        ) from error
    except NothingToProbe as error:
        raise _unsupported(error.message) from error
    except ProbeFailed as error:
        return data_error(_failures(error))
    except (InvalidInput, LimitExceeded) as error:
        return data_error(error.message)
    return json_result(True)


@bp.post("/add_llm")
@login_required
@describe(request=AddModel, tag="models")
async def add_llm(principal: Principal) -> Response:
    """Add a model of a provider once a call of it went through."""
    body = await required("llm_factory", "model_type", "llm_name")
    factory, key = _text(body, "llm_factory"), _text(body, "api_key")
    own = NewModel(
        name=_text(body, "llm_name"),
        kind=_text(body, "model_type"),
        max_tokens=whole_number(body.get("max_tokens") or 0),
        api_key=_key("" if key == _NO_KEY else key, body),
        base_url=_text(body, "api_base"),
    )
    try:
        await services().tenant_models.add(principal, factory, own)
    except NotFound:
        return data_error(f"LLM factory {factory} is not allowed")
    except ProbeFailed as error:
        return data_error(_failures(error))
    except (InvalidInput, LimitExceeded) as error:
        return data_error(error.message)
    return json_result(True)


@bp.post("/delete_llm")
@login_required
@describe(request=NamedModel, tag="models")
async def delete_llm(principal: Principal) -> Response:
    """Forget a model that the tenant added."""
    body = await required("llm_factory", "llm_name")
    try:
        await services().tenant_models.delete(principal, _text(body, "llm_factory"), _text(body, "llm_name"))
    except NotFound:
        return json_result(True)  # what is not there is deleted, as the contract has it
    return json_result(True)


@bp.post("/enable_llm")
@login_required
@describe(request=NamedModel, tag="models")
async def enable_llm(principal: Principal) -> Response:
    """Switch a model on or off for the tenant."""
    body = await required("llm_factory", "llm_name")
    status = str(body.get("status", "1"))
    if status not in ("0", "1"):
        raise Refused(BAD_ARGUMENT, '"status" must be either 0 or 1!', data=None)
    try:
        await services().tenant_models.enable(
            principal, _text(body, "llm_factory"), _text(body, "llm_name"), on=status == "1"
        )
    except (NotFound, LimitExceeded) as error:
        return data_error(error.message)
    return json_result(True)


@bp.post("/delete_factory")
@login_required
@describe(request=NamedFactory, tag="models")
async def delete_factory(principal: Principal) -> Response:
    """Forget the tenant's key of a provider and its models there."""
    body = await required("llm_factory")
    try:
        await services().tenant_models.delete_provider(principal, _text(body, "llm_factory"))
    except NotFound:
        return json_result(True)  # as above
    return json_result(True)


@bp.get("/my_llms")
@login_required
@describe(query=Mine, tag="models")
async def my_llms(principal: Principal) -> Response:
    """The models of the providers that the tenant set up."""
    details = arg("include_details").lower() == "true"
    tags = _tags()
    found: dict[str, Any] = {}
    for one in await services().tenant_models.mine(principal):
        model: dict[str, Any] = {
            "type": one.kind,
            "name": _shown(one),
            "used_token": one.used_tokens,
            "status": _status(one),
        }
        if details:
            model |= {"api_base": one.base_url, "max_tokens": one.max_tokens}
        entry = found.setdefault(one.provider, {"tags": tags.get(one.provider, ""), "llm": []})
        entry["llm"].append(model)
    return json_result(found)


@bp.get("/list")
@login_required
@describe(query=ListModels, tag="models")
async def list_llms(principal: Principal) -> Response:
    """All models by provider, with whether the tenant can use them."""
    kind = arg("model_type")
    tags = _tags()
    found: dict[str, list[dict[str, Any]]] = {}
    for one in await services().tenant_models.listed(principal):
        if kind not in one.kind:
            continue
        model: dict[str, Any] = {
            "llm_name": _shown(one),
            "model_type": one.kind,
            "fid": one.provider,
            "available": one.available,
            "status": _status(one),
        }
        if not one.own:
            model |= {"max_tokens": one.max_tokens, "tags": tags.get(one.provider, ""), "is_tools": one.tools}
            model |= times(one.update_time, one.update_time)
        found.setdefault(one.provider, []).append(model)
    return json_result(found)


def _tags() -> dict[str, str]:
    return {one.name: one.tags for one in services().tenant_models.factories()}


def _shown(one: ModelAtProvider) -> str:
    """The name, with the suffix that the contract puts behind models on own servers."""
    suffix = _SUFFIXES.get(one.provider, "") if one.own else ""
    return one.name if one.name.endswith(suffix) else one.name + suffix


def _status(one: ModelAtProvider) -> str:
    return "1" if one.enabled else "0"


def _key(key: str, body: dict[str, Any]) -> str:
    """The key, as a JSON object where the provider takes several parts."""
    parts = {name: _text(body, field) for field, name in _KEY_PARTS.items() if body.get(field)}
    if not parts:
        return key
    return orjson.dumps({"api_key": key} | parts if key else parts).decode()


def _failures(error: ProbeFailed) -> str:
    return "".join(
        f"\nFail to access model({provider}/{model}) using this api key.{reason}"
        for provider, model, reason in error.failures
    )


def _unsupported(text: str) -> Refused:
    return Refused(EXCEPTION, repr_texts.failed_check(text), data=None)


def _text(body: dict[str, Any], key: str) -> str:
    """A text of the body; null and what is absent are empty.

    Raises:
        Refused: 101, it is something else.
    """
    value = body.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Refused(BAD_ARGUMENT, f"`{key}` should be a string", data=None)
    return value
