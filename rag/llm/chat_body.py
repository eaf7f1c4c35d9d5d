"""A request in the form of OpenAI's chat completions."""

from base64 import b64encode
from typing import Any, Final

import orjson

from rag.core.blocking import Lane, run_in
from rag.core.errors import InvalidInput
from rag.core.types import Picture, ToolCall, Turn
from rag.llm.base import ChatRequest, ModelInfo
from rag.llm.endpoint import Endpoint
from rag.llm.tool_calls import GOOGLE_MARK, signature_for
from rag.llm.tool_schemas import SCHEMAS, ToolSchemas

ALLOWED_EXTRA: Final = frozenset(
    {"reasoning_effort", "response_format", "seed", "logit_bias", "user", "verbosity", "service_tier"}
)
"""What a request may set besides its sampling. Addresses, headers and keys come from settings alone: a request
that could name another host would be sent the provider's key (CVE-2024-6587)."""

_MARK: Final = {"type": "ephemeral"}
_BIG_BYTES: Final = 512 << 10
"""Requests from this size on are put together in a thread."""


def check_abilities(request: ChatRequest, info: ModelInfo) -> None:
    """Refuse what the model cannot do, before anything is sent.

    Raises:
        InvalidInput: no message, or tools, pictures or a reply schema that the model does not take.
    """
    if not any(turn.content.strip() or turn.pictures or turn.tool_calls for turn in request.turns):
        raise InvalidInput("There is nothing to answer: every message is empty.", field="messages")
    can = info.capabilities
    for wanted, able, what in (
        (request.tools, can.tools, "use tools"),
        (request.reply_schema, can.json_schema, "keep to a JSON schema"),
        (any(turn.pictures for turn in request.turns), can.vision, "see pictures"),
    ):
        if wanted and not able:
            raise InvalidInput(f"The model {info.name!r} cannot {what}. Choose another model.", field="model")


def sampling_fields(request: ChatRequest, endpoint: Endpoint) -> dict[str, Any]:
    """The fields that steer the reply.

    Raises:
        InvalidInput: `extra` holds something that a request may not set.
    """
    refused = sorted(set(request.extra) - ALLOWED_EXTRA)
    if refused:
        raise InvalidInput(f"A request may not set {', '.join(map(repr, refused))}.", field=refused[0])
    sampling = request.sampling
    fields: dict[str, Any] = dict(request.extra)
    if sampling.max_tokens:
        fields["max_completion_tokens" if endpoint.reasoning else "max_tokens"] = sampling.max_tokens
    if not endpoint.reasoning:
        for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
            value = getattr(sampling, name)
            if value is not None:
                fields[name] = value
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    return fields


async def chat_body(
    request: ChatRequest, info: ModelInfo, endpoint: Endpoint, *, schemas: ToolSchemas = SCHEMAS
) -> dict[str, Any]:
    """Messages and fields of `request` as the provider's family takes them; model and streaming are not among them.

    Raises:
        InvalidInput: the request asks for what the model cannot do or a request may not set, or a tool is refused.
    """
    check_abilities(request, info)
    family = endpoint.family
    marked = request.cache_prefix and info.capabilities.prompt_caching == "marked"
    fields = sampling_fields(request, endpoint)
    if request.tools:
        tools = await schemas.tools(request.tools, info=info, family=family, form="chat")
        if marked:
            tools[-1]["cache_control"] = _MARK
        fields |= {"tools": tools, **tool_fields(request, info)}
    if request.reply_schema is not None:
        fields["response_format"] = await schemas.reply(request.reply_schema, info=info, form="chat")
    if weight(request) < _BIG_BYTES:
        told = messages(request, endpoint, model=info.name, marked=marked)
    else:
        told = await run_in(Lane.TEXT, messages, request, endpoint, model=info.name, marked=marked)
    return {
        **family.fields(fields, model=endpoint.model, reasoning=endpoint.reasoning),
        "messages": family.messages(told, has_tools=bool(request.tools)),
    }


def tool_fields(request: ChatRequest, info: ModelInfo) -> dict[str, Any]:
    """How tools may be chosen, where it is not the default of every provider."""
    fields: dict[str, Any] = {}
    if request.tool_choice != "auto":
        fields["tool_choice"] = request.tool_choice
    if not request.parallel_tools and info.capabilities.parallel_tools:
        fields["parallel_tool_calls"] = False
    return fields


async def as_json(body: dict[str, Any], *, big: bool) -> bytes:
    """`body` as it is sent; a `big` one is written in a thread.

    Raises:
        InvalidInput: it holds something that JSON does not know.
    """
    try:
        return await run_in(Lane.TEXT, orjson.dumps, body) if big else orjson.dumps(body)
    except TypeError as error:
        raise InvalidInput(f"The request cannot be sent to the model: {error}.") from error


def is_big(request: ChatRequest) -> bool:
    """Whether putting the request together would hold the event loop."""
    return weight(request) >= _BIG_BYTES


def weight(request: ChatRequest) -> int:
    """About how many bytes the turns take."""
    return sum(len(turn.content) + sum(len(picture.data) for picture in turn.pictures) for turn in request.turns)


def messages(
    request: ChatRequest, endpoint: Endpoint, *, model: str = "", marked: bool = False
) -> list[dict[str, Any]]:
    """The turns; lone surrogates, which JSON cannot carry, are replaced. `marked`: the last system turn asks the
    provider to keep what comes before its end."""
    last_system = max((n for n, turn in enumerate(request.turns) if turn.role == "system"), default=-1)
    found = []
    for number, turn in enumerate(request.turns):
        if turn.role == "assistant" and turn.tool_calls:
            found.append(_calling(turn, endpoint, model))
        elif turn.role == "tool":
            found.append({"role": "tool", "tool_call_id": turn.tool_call_id, "content": valid(turn.content)})
        else:
            mark = marked and number == last_system
            found.append({"role": turn.role, "content": _content(turn, mark=mark)})
    return found


def data_url(picture: Picture) -> str:
    """The picture itself as an address."""
    return f"data:{picture.media_type};base64,{b64encode(picture.data).decode()}"


def sent_arguments(call: ToolCall) -> str:
    """The arguments as they go back: providers refuse a history with broken JSON."""
    return "{}" if call.problem else valid(call.arguments) or "{}"


def valid(text: str) -> str:
    """`text` without lone surrogates."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _content(turn: Turn, *, mark: bool) -> str | list[dict[str, Any]]:
    if not mark and not turn.pictures:
        return valid(turn.content)
    parts: list[dict[str, Any]] = [{"type": "text", "text": valid(turn.content)}] if turn.content else []
    parts += [{"type": "image_url", "image_url": {"url": data_url(picture)}} for picture in turn.pictures]
    if not parts:
        return ""
    if mark:
        parts[-1]["cache_control"] = _MARK
    return parts


def _calling(turn: Turn, endpoint: Endpoint, model: str) -> dict[str, Any]:
    """An assistant's message with calls, and with what the model that made them wants back."""
    found: dict[str, Any] = {"role": "assistant", "content": valid(turn.content) or None}
    if turn.reasoning and endpoint.family.gives_reasoning_back:
        found["reasoning_content"] = valid(turn.reasoning)
    found["tool_calls"] = calls = []
    for call in turn.tool_calls:
        function = {"name": call.name, "arguments": sent_arguments(call)}
        told: dict[str, Any] = {"id": call.id, "type": "function", "function": function}
        signature = signature_for(model, call)
        if signature.startswith('{"thinking_blocks":'):
            found |= orjson.loads(signature)
        elif signature.startswith(GOOGLE_MARK):
            told["extra_content"] = {"google": {"thought_signature": signature.removeprefix(GOOGLE_MARK)}}
        elif signature:
            told["provider_specific_fields"] = {"thought_signature": signature}
        calls.append(told)
    return found
