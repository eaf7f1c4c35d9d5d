"""Every error the engine and the use cases raise.

    RagError
    |- InvalidInput        the caller sent something that cannot be used
    |- NotFound            no such object, or not one the principal owns
    |- Conflict            the object's state forbids it (name taken, already running)
    |- NotAllowed          the principal may not do this
    |- LimitExceeded       a size, count or rate was reached
    |  |- BudgetSpent         what may be spent on models in a day is spent
    |- WrongThread         a blocking call was made where it would wait for itself
    |- StoreError          an index, row, file or queue backend failed
    |  |- StoreUnavailable    no reply in time, connection lost, disk full
    |     |- OutcomeUnknown      the connection was lost while a change was stored: it may have been
    |- ModelError          a model call failed
    |  |- ModelTimeout        first token, next token or the whole took too long
    |  |- ModelRefused        the provider refused (key, quota, policy, unknown model)
    |  |- ModelOverloaded     rate limit or server error
    |  |- ModelBadOutput      the reply could not be understood
    |- IngestError         a document could not be ingested
       |- Unsupported         this type of file or chunk method cannot be read
       |- EmptyDocument       nothing to index in it
       |- ParserDied          its parser was killed or crashed
       |- ParserLimit         it needed more memory, time or output than allowed

`code` is stable and part of the API; `retryable` tells the caller who owns the retry budget
whether the same call may succeed later. Domain errors know nothing of HTTP.
"""

from typing import Any, ClassVar


class RagError(Exception):
    """Base of all errors of this project. `message` says what to do next."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts

    def __str__(self) -> str:
        return self.message


class InvalidInput(RagError):
    code = "invalid_input"


class NotFound(RagError):
    """`kind` and `id` of what was looked for; the same error for absent and for foreign objects."""

    code = "not_found"

    def __init__(self, kind: str, object_id: str, message: str | None = None) -> None:
        super().__init__(message or f"No {kind} {object_id!r}.", kind=kind, id=object_id)
        self.kind = kind
        self.id = object_id


class Conflict(RagError):
    code = "conflict"


class NotAllowed(RagError):
    code = "not_allowed"


class LimitExceeded(RagError):
    code = "limit_exceeded"


class BudgetSpent(LimitExceeded):
    """Facts: `scope` ("tenant" or "key"), `unit` ("usd" or "tokens"), `retry_after_s` until the next day begins."""

    code = "budget_spent"


class WrongThread(RagError, RuntimeError):
    """A defect of the caller; also a RuntimeError, as the standard library raises in such a place."""


class StoreError(RagError):
    code = "store_error"


class StoreUnavailable(StoreError):
    code = "store_unavailable"
    retryable = True


class OutcomeUnknown(StoreUnavailable):
    """The change may be there already: who repeats the call must be able to tell."""


class ModelError(RagError):
    """Facts: `model`, `status`, `retry_after_s`, `tokens` already received."""

    code = "model_error"


class ModelTimeout(ModelError):
    code = "model_timeout"
    retryable = True


class ModelRefused(ModelError):
    code = "model_refused"


class ModelOverloaded(ModelError):
    code = "model_overloaded"
    retryable = True


class ModelBadOutput(ModelError):
    code = "model_bad_output"


class IngestError(RagError):
    code = "ingest_error"


class Unsupported(IngestError):
    code = "unsupported"


class EmptyDocument(IngestError):
    code = "empty_document"


class ParserDied(IngestError):
    code = "parser_died"
    retryable = True


class ParserLimit(IngestError):
    code = "parser_limit"
