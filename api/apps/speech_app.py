"""`/v1/conversation/tts` (web.md section 7): a text as sound, clause by clause."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import structlog
from quart import Blueprint, Response

from api.apps import repr_texts
from api.apps.auth import login_required
from api.apps.body import raw_object
from api.apps.context import services
from api.apps.dialog_models import Say
from api.apps.envelope import Refused, bad_argument, uncaught
from api.apps.openapi import describe
from api.db.services.llm_service import LLMBundle
from api.db.services.spoken import spoken
from api.errors import DATA_ERROR
from rag.core.errors import NotFound, RagError
from rag.core.types import Principal

bp = Blueprint("speech", __name__)

LONGEST_CHARS: Final = 100_000
"""Of a text that is said in one call: an hour and a half of speech."""
_HEADERS: Final = {"Cache-Control": "no-cache", "Connection": "keep-alive", "X-Accel-Buffering": "no"}
_log = structlog.get_logger(__name__)


@bp.post("/v1/conversation/tts")
@login_required
@describe(request=Say, tag="page")
async def say(principal: Principal) -> Response:
    """The sound of a text, as MP3 that comes while it is made."""
    body = await raw_object()
    if "text" not in body:
        raise uncaught(repr_texts.missing("text"))
    text = body["text"]
    if not isinstance(text, str):
        raise uncaught(repr_texts.wrong_type("text must be text", text))
    if len(text) > LONGEST_CHARS:
        raise bad_argument(f"`text` has at most {LONGEST_CHARS} characters.")
    sound = spoken(await _voice(principal), text)
    # An error before the first sound still has its reply.
    first = await anext(sound, b"")
    response = Response(_rest(first, sound), headers=_HEADERS, content_type="audio/mpeg")
    response.timeout = None
    return response


async def _voice(principal: Principal) -> LLMBundle:
    try:
        await services().users.tenant_info(principal)
    except NotFound as error:
        raise Refused(DATA_ERROR, "Tenant not found!") from error
    try:
        return services().models.bundle_speak(tenant_id=principal.tenant_id, key_id=principal.key_id)
    except NotFound as error:
        if error.id:
            raise uncaught(repr_texts.failed_lookup(f"Model({error.id}) not authorized")) from error
        raise Refused(DATA_ERROR, "No default TTS model is set") from error


async def _rest(first: bytes, sound: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """All of the sound. After its first piece no error can be told any more: it ends there, and the log says why."""
    async with aclosing(sound):
        yield first
        try:
            async for piece in sound:
                yield piece
        except RagError as error:
            _log.warning("speech_broke_off", code=error.code, error=error.message)
