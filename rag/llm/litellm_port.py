"""The one file that imports LiteLLM: its set-up, one streaming call, and all its exceptions.

Its import takes 2 to 4 s and 150 MB, so `load()` runs in a thread before the process says it is ready, and only
where a configured provider needs it.
"""

import asyncio
import os
import threading
import warnings
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from rag.core.blocking import Lane, run_in
from rag.core.errors import ModelBadOutput, ModelError, ModelOverloaded, ModelRefused, ModelTimeout
from rag.llm.endpoint import Endpoint
from rag.llm.gemini_pieces import GeminiPieces, with_arguments
from rag.llm.upstream_errors import seconds

_lock = threading.Lock()
_library: Any = None

_SWITCHES = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # Else the import fetches the price map, with retries.
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",  # Else a call fetches a list of headers, on the event loop.
    "LITELLM_MODE": "PRODUCTION",  # Else it reads `.env` into the environment.
}

TRANSLATIONS: tuple[tuple[str, type[ModelError]], ...] = (
    ("Timeout", ModelTimeout),
    ("RateLimitError", ModelOverloaded),
    ("MidStreamFallbackError", ModelOverloaded),
    ("ServiceUnavailableError", ModelOverloaded),
    ("BadGatewayError", ModelOverloaded),
    ("InternalServerError", ModelOverloaded),
    ("JSONSchemaValidationError", ModelBadOutput),
    ("APIResponseValidationError", ModelBadOutput),
    ("APIConnectionError", ModelOverloaded),
    ("AuthenticationError", ModelRefused),
    ("PermissionDeniedError", ModelRefused),
    ("NotFoundError", ModelRefused),
    ("UnprocessableEntityError", ModelRefused),
    ("BadRequestError", ModelRefused),
    ("InvalidRequestError", ModelRefused),
    ("ModelNotMappedError", ModelRefused),
    ("BudgetExceededError", ModelRefused),
    ("GuardrailRaisedException", ModelRefused),
    ("BlockedPiiEntityError", ModelRefused),
    ("ModifyResponseException", ModelRefused),
    ("SensitiveDataRouteException", ModelRefused),
    ("APIError", ModelOverloaded),
    ("OpenAIError", ModelRefused),
)
"""Exception of `litellm.exceptions` to ours, the most specific first; a subclass goes with its base."""


def load() -> Any:
    """LiteLLM, imported and set up. Blocking: 2 to 4 s the first time."""
    global _library
    with _lock:
        if _library is None:
            for name, value in _SWITCHES.items():
                os.environ.setdefault(name, value)  # noqa: TID251  # LiteLLM is configured in no other way.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import litellm  # Imported here, see the module's docstring.
                import openai.resources  # noqa: F401  # Else imported by the first call, on the event loop.
                from litellm.anthropic_beta_headers_manager import get_unsupported_headers

                litellm.telemetry = False
                litellm.suppress_debug_info = True
                litellm.drop_params = True
                _mend_gemini()
                get_unsupported_headers("anthropic")  # Else the first call reads a file, on the event loop.
                asyncio.run(_rehearse(litellm))
            _library = litellm
        return _library


def _mend_gemini() -> None:
    """Let the library read Gemini's calls that have no arguments, or have them in pieces. It offers no place for that:
    its two readers are replaced, of the version that is pinned."""
    from litellm.llms.vertex_ai.gemini import vertex_and_google_ai_studio_gemini

    gemini: Any = vertex_and_google_ai_studio_gemini
    read_parts, base = gemini.VertexGeminiConfig._transform_parts, gemini.ModelResponseIterator

    def transform_parts(parts: Any, *arguments: Any, **named: Any) -> Any:
        return read_parts(with_arguments(parts), *arguments, **named)

    class WholeCalls(base):  # type: ignore[misc,valid-type]
        def chunk_parser(self, chunk: dict[str, Any]) -> Any:
            pieces = self.__dict__.setdefault("pieces_of_calls", GeminiPieces())
            return super().chunk_parser(pieces.put_right(chunk))

    gemini.VertexGeminiConfig._transform_parts = staticmethod(transform_parts)
    gemini.ModelResponseIterator = WholeCalls


async def _rehearse(litellm: Any) -> None:
    """A call that reaches no provider: the first one imports 0.5 s more, which would hold the event loop."""
    turn = [{"role": "user", "content": "rehearsal"}]
    stream = await litellm.acompletion(model="openai/none", messages=turn, mock_response="yes", stream=True)
    async for piece in stream:
        piece.model_dump()


async def _ready(endpoint: Endpoint) -> Any:
    """The library, with what this provider's adapter would else load at its first call, on the event loop.

    Leaves the loop only where something is missing yet, and never for the threads of local models: a call to a provider
    does not wait for computing here. Call it within the call's deadline.
    """
    library = _library or await run_in(Lane.REMOTE, load)
    if endpoint.litellm_prefix == "bedrock" and not _prepare_bedrock.cache_info().currsize:
        await run_in(Lane.REMOTE, _prepare_bedrock)
    return library


@cache
def _prepare_bedrock() -> None:
    load()
    from botocore.credentials import Credentials  # type: ignore[import-untyped]  # it ships no types
    from litellm.llms.bedrock import base_aws_llm, common_utils

    def own_keys(
        _: Any, *, aws_access_key_id: str, aws_secret_access_key: str, aws_session_token: str | None, **_others: Any
    ) -> Any:
        return Credentials(aws_access_key_id, aws_secret_access_key, aws_session_token or None)

    # The library's own choice takes the roles, profiles and tokens that a call does not name from the environment of
    # the process, and prefers them to the call's keys.
    base: Any = base_aws_llm.BaseAWSLLM
    base.get_credentials = own_keys
    common_utils._get_local_model_cost_map()  # It reads the whole price map again and keeps it.


async def open_stream(endpoint: Endpoint, body: dict[str, Any], *, timeout_s: float) -> Any:
    """LiteLLM's stream of a reply; iterate it with `pieces`, and close it with `close`."""
    # Usage is asked for in any case: without it the library knows none, and says 0.
    return await _complete(endpoint, body, timeout_s=timeout_s, stream=True, stream_options={"include_usage": True})


async def whole_reply(endpoint: Endpoint, body: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
    """A reply that is not streamed, in the form of OpenAI's chat completions."""
    reply = await _complete(endpoint, body, timeout_s=timeout_s)
    return _dumped(reply)


async def _complete(endpoint: Endpoint, body: dict[str, Any], *, timeout_s: float, **more: Any) -> Any:
    library = await _ready(endpoint)
    return await library.acompletion(
        **endpoint.litellm_arguments(),
        **more,
        timeout=timeout_s,
        # One retry loop in all, ours: without these each layer of the library has its own.
        max_retries=0,
        num_retries=0,
        # Else a call with tools imports `litellm.proxy`, which needs another `mcp` than ours and fails.
        _skip_mcp_handler=True,
        **body,
    )


async def pieces(stream: Any) -> AsyncIterator[dict[str, Any]]:
    """The stream's chunks in the form of OpenAI's chat completions."""
    async for chunk in stream:
        yield _dumped(chunk)


def _dumped(model: Any) -> dict[str, Any]:
    """One of the library's objects as plain values, without those that are None.

    They do not fit their own schema. pydantic is told not to say so: `warnings.catch_warnings` would change the filters
    of all threads, and where two overlap, for good.
    """
    found: dict[str, Any] = model.model_dump(exclude_none=True, warnings=False)
    return found


def was_cut_off(stream: Any) -> bool:
    """Whether the provider gave no finish reason: the library then makes up `stop`."""
    reasons = [getattr(stream, name, "stop") for name in ("received_finish_reason", "intermittent_finish_reason")]
    return not any(reasons)


def counted_by_itself(stream: Any) -> bool:
    """Whether the provider told no usage: the library then counts with a tokenizer of its own and does not say so."""
    chunks = getattr(stream, "chunks", None) or []
    return bool(chunks) and not any(getattr(chunk, "usage", None) for chunk in chunks)


async def close(stream: Any) -> None:
    """End the provider's request; leaving the iteration alone keeps it running."""
    closing = getattr(stream, "aclose", None)
    if closing is not None:
        await closing()


async def close_clients() -> None:
    """Close the library's pooled connections, on the loop that used them."""
    if _library is not None:
        await _library.close_litellm_async_clients()


def translation_of(error: BaseException) -> type[ModelError] | None:
    """Our class for one of LiteLLM's exceptions; None if it is not one."""
    if _library is None:
        return None
    exceptions = _library.exceptions
    for name, ours in TRANSLATIONS:
        theirs = getattr(exceptions, name, None)
        if isinstance(theirs, type) and isinstance(error, theirs):
            return ours
    # Those of the SDK below, which come through where the library does not wrap them.
    if isinstance(error, exceptions.openai.APIConnectionError):
        return ModelOverloaded
    return ModelRefused if isinstance(error, exceptions.openai.OpenAIError) else None


@contextmanager
def translated(model: str, *, secrets: Sequence[str] = ()) -> Iterator[None]:
    """Raise LiteLLM's exceptions as ours, with status and Retry-After as facts. `secrets` show in no message."""
    try:
        yield
    except Exception as error:  # All of LiteLLM's classes; every other error goes on unchanged.
        ours = translation_of(error)
        if ours is None:
            raise
        raise _translate(error, ours, model=model, secrets=secrets) from error


def _translate(error: Any, ours: type[ModelError], *, model: str, secrets: Sequence[str]) -> ModelError:
    response = getattr(error, "response", None)
    headers = getattr(error, "litellm_response_headers", None) or getattr(response, "headers", None) or {}
    facts: dict[str, Any] = {"model": model}
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        facts["status"] = status
    retry_after_s = seconds(headers.get("retry-after"))
    if retry_after_s is not None:
        facts["retry_after_s"] = retry_after_s
    if isinstance(error, _library.exceptions.ContextWindowExceededError):
        facts["too_long"] = True
    if "insufficient_quota" in str(error):
        ours = ModelRefused
    # `litellm.RateLimitError: RateLimitError: OpenAIException - what the provider said`
    # For failures in mid-stream that is followed by a stack trace, which is nobody's business.
    told = str(getattr(error, "message", "") or error).partition("Traceback (most recent call last)")[0]
    reason = told.rpartition("Exception - ")[2].strip()
    for secret in secrets:
        reason = reason.replace(secret, "***")
    # Cut last: a part of a key is still the key's.
    return ours(f"{model!r}: the call failed. The provider says: {reason[:400]}", **facts)


async def embed(endpoint: Endpoint, texts: list[str], *, name: str, query: bool, timeout_s: float) -> dict[str, Any]:
    """The vectors of `texts`, in the form of OpenAI's reply; `query`: they are questions.

    Raises:
        ModelError: the call failed.
    """
    more: dict[str, Any] = {}
    if "cohere" in f"{endpoint.litellm_prefix}/{endpoint.model}":
        # Its models embed questions and passages differently, and newer ones refuse not to be told.
        more["input_type"] = "search_query" if query else "search_document"
    return await _ask(endpoint, "aembedding", name=name, timeout_s=timeout_s, input=texts, **more)


async def rerank(
    endpoint: Endpoint, question: str, passages: list[str], *, name: str, timeout_s: float
) -> dict[str, Any]:
    """The scores of `passages`, in the form of Cohere's reply.

    Raises:
        ModelError: the call failed.
    """
    if endpoint.litellm_prefix == "bedrock" and not endpoint.model.startswith("arn:"):
        region = dict(endpoint.arguments).get("aws_region_name")
        place = region.get_secret_value() if region else ""
        # Bedrock wants the whole name of a reranking model; the library passes on what it is given.
        endpoint = endpoint.for_model(f"arn:aws:bedrock:{place}::foundation-model/{endpoint.model}")
    return await _ask(
        endpoint,
        "arerank",
        name=name,
        timeout_s=timeout_s,
        query=question,
        documents=passages,
        top_n=len(passages),
        return_documents=False,
    )


async def _ask(endpoint: Endpoint, function: str, *, name: str, timeout_s: float, **fields: Any) -> dict[str, Any]:
    try:
        async with asyncio.timeout(timeout_s):
            library = await _ready(endpoint)
            with translated(name, secrets=endpoint.secrets):
                reply = await getattr(library, function)(
                    **endpoint.litellm_arguments(), timeout=timeout_s, max_retries=0, num_retries=0, **fields
                )
    except TimeoutError as error:
        raise ModelTimeout(f"{name!r} did not answer within {timeout_s:g} s.", model=name) from error
    return await run_in(Lane.TEXT, _dumped, reply)
