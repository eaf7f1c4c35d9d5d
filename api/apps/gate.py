"""What every request passes: Host check, body limit, cross-origin headers, the one error handler, metrics.

The contract answers errors with HTTP 200 and a code in the body; that holds for its own paths. Our own routes and
the OpenAI faces use the HTTP status.
"""

import ipaddress
import re
import time

import structlog
from quart import Quart, Response, current_app, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from api.apps import repr_texts
from api.apps.context import web_state
from api.apps.envelope import Refused, json_response, json_result, openai_error
from api.apps.incoming import LIMIT_MARK, MeasuredBody
from api.apps.telemetry import Telemetry
from api.errors import EXCEPTION, FORBIDDEN, default_of
from rag.core.errors import RagError
from rag.core.settings import Settings

OPENAI_PATHS = ("/v1/models", "/v1/chat/", "/v1/embeddings", "/v1/responses")
INTERNAL_ERROR = "<InternalServerError '500: Internal Server Error'>"
_HOST = re.compile(r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<name>[^\[\]:@/?#]+))(?::[0-9]{0,5})?")
_log = structlog.get_logger(__name__)


def install(app: Quart, settings: Settings, telemetry: Telemetry) -> None:
    """Hang the gate into `app`."""
    allowed_hosts = {host.lower() for host in settings.auth.allowed_hosts}

    @app.before_request
    async def check_request() -> Response | None:
        g.began = time.monotonic()
        if web_state().loopback and not host_allowed(request.headers.get("Host", ""), allowed_hosts):
            return refuse(FORBIDDEN, "This Host header is not served here; see PARLEY_AUTH__ALLOWED_HOSTS.")
        _limit_body(settings)
        return None

    @app.after_request
    async def finish(response: Response) -> Response:
        _cross_origin(response)
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        rule = request.url_rule.rule if request.url_rule is not None else "(none)"
        seconds = time.monotonic() - g.get("began", time.monotonic())
        telemetry.answered(method=request.method, route=rule, status=response.status_code, seconds=seconds)
        return response

    app.register_error_handler(Refused, _refused)
    app.register_error_handler(RagError, _domain_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)


def host_allowed(host: str, further: set[str]) -> bool:
    """Whether a Host header names this machine. A page of another site that was rebound to a loopback address
    still sends that site's name. No header at all is no browser."""
    text = host.lower()
    if not text or text in further:
        return True
    matched = _HOST.fullmatch(text)
    if matched is None:
        return False
    name = matched["six"] or matched["name"]
    if name in further or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _limit_body(settings: Settings) -> None:
    body = request.body
    if not isinstance(body, MeasuredBody):
        return
    view = current_app.view_functions.get(request.endpoint or "")
    is_upload = getattr(view, LIMIT_MARK, False)
    body.limit(settings.server.max_upload_bytes if is_upload else settings.server.max_body_bytes)


def _cross_origin(response: Response) -> None:
    """Any page may call the API with a key of its own; never with what the browser adds by itself."""
    if not request.path.startswith("/api/v1/"):
        return
    response.headers["Access-Control-Allow-Origin"] = "*"
    if request.method == "OPTIONS":
        response.headers["Access-Control-Allow-Methods"] = "GET, POST, PUT, DELETE, HEAD, OPTIONS"
        response.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type, Last-Event-ID"
        response.headers["Access-Control-Max-Age"] = "600"


def of_contract(path: str) -> bool:
    """Whether errors on `path` are answered as README section 6 says: with HTTP 200."""
    return path.startswith(("/api/", "/v1/")) and not path.startswith(OPENAI_PATHS)


def refuse(status: int, message: str) -> Response:
    """Refuse a request before its route had a say, with a real HTTP status on every path."""
    if request.path.startswith(OPENAI_PATHS):
        return openai_error(message, status)
    return json_response({"code": status, "message": message}, status)


async def _refused(error: Refused) -> Response:
    return error.reply()


async def _domain_error(error: RagError) -> Response:
    """The default of an error that no route put into words of its own."""
    default = default_of(error)
    if default.status >= 500:
        _log.warning("request_failed", path=_rule(), code=error.code, error=error.message)
    if request.path.startswith(OPENAI_PATHS):
        return openai_error(error.message, default.status, code=error.code)
    if of_contract(request.path):
        return json_result(None, error.message, default.code)
    return json_response({"code": error.code, "message": error.message}, default.status)


async def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    if isinstance(error, RequestRedirect):
        return Response(status=status, headers={"Location": error.new_url})
    if request.path.startswith(OPENAI_PATHS):
        return openai_error(error.description or error.name, status)
    if status == 413:  # clients of uploads look at the status
        return json_response({"code": status, "message": f"The request is too large: {error.name}."}, status)
    body_status = 200 if of_contract(request.path) else status
    text = repr_texts.of_status(type(error).__name__, status, error.name)
    return json_result(None, text, EXCEPTION, status=body_status)


async def _unexpected(error: Exception) -> Response:
    """A defect. The log has the traceback; the client gets no internals."""
    _log.exception("request_crashed", path=_rule(), error=type(error).__name__, exc_info=error)
    if request.path.startswith(OPENAI_PATHS):
        return openai_error("The server failed; its log says why.", 500)
    return json_result(None, INTERNAL_ERROR, EXCEPTION, status=200 if of_contract(request.path) else 500)


def _rule() -> str:
    return request.url_rule.rule if request.url_rule is not None else "(none)"
