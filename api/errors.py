"""Which HTTP status and which code of the wire contract an error class means by default.

Domain errors know nothing of HTTP; routes that owe the contract a special code or text answer for themselves
beside their checks. Everything a route does not catch is looked up here, nearest class first.
"""

from dataclasses import dataclass

from rag.core import errors as domain


@dataclass(frozen=True, kw_only=True, slots=True)
class Default:
    """`status` is for our own routes and the OpenAI faces; `code` for the contract's bodies (sent with HTTP 200)."""

    status: int
    code: int


EXCEPTION = 100
BAD_ARGUMENT = 101
DATA_ERROR = 102
OPERATING_ERROR = 103
NO_PERMISSION = 108
NOT_AUTHENTICATED = 109
UNAUTHORIZED = 401
FORBIDDEN = 403
NOT_FOUND = 404
TOO_LARGE = 413
SERVER_ERROR = 500

DEFAULTS: dict[type[domain.RagError], Default] = {
    domain.RagError: Default(status=500, code=EXCEPTION),
    domain.InvalidInput: Default(status=400, code=BAD_ARGUMENT),
    domain.NotFound: Default(status=404, code=DATA_ERROR),
    domain.Conflict: Default(status=409, code=DATA_ERROR),
    domain.NotAllowed: Default(status=403, code=NO_PERMISSION),
    domain.LimitExceeded: Default(status=413, code=BAD_ARGUMENT),
    domain.BudgetSpent: Default(status=429, code=DATA_ERROR),
    domain.WrongThread: Default(status=500, code=EXCEPTION),
    domain.StoreError: Default(status=500, code=SERVER_ERROR),
    domain.StoreUnavailable: Default(status=503, code=SERVER_ERROR),
    domain.OutcomeUnknown: Default(status=503, code=SERVER_ERROR),
    domain.ModelError: Default(status=502, code=SERVER_ERROR),
    domain.ModelTimeout: Default(status=504, code=SERVER_ERROR),
    domain.ModelRefused: Default(status=502, code=SERVER_ERROR),
    domain.ModelOverloaded: Default(status=503, code=SERVER_ERROR),
    domain.ModelBadOutput: Default(status=502, code=SERVER_ERROR),
    domain.IngestError: Default(status=422, code=SERVER_ERROR),
    domain.Unsupported: Default(status=415, code=SERVER_ERROR),
    domain.EmptyDocument: Default(status=422, code=SERVER_ERROR),
    domain.ParserDied: Default(status=422, code=SERVER_ERROR),
    domain.ParserLimit: Default(status=422, code=SERVER_ERROR),
}


def default_of(error: domain.RagError) -> Default:
    """The entry of the nearest class that has one."""
    for cls in type(error).__mro__:
        if cls in DEFAULTS:
            return DEFAULTS[cls]
    return DEFAULTS[domain.RagError]
