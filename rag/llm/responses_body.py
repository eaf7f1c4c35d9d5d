"""A request in the form of OpenAI's Responses."""

from typing import Any, Final

import orjson

from rag.core.blocking import Lane, run_in
from rag.core.types import Turn
from rag.llm.base import ChatRequest, ModelInfo
from rag.llm.chat_body import check_abilities, data_url, is_big, sampling_fields, sent_arguments, tool_fields, valid
from rag.llm.endpoint import Endpoint
from rag.llm.tool_calls import signature_for
from rag.llm.tool_schemas import SCHEMAS, ToolSchemas

_SAME: Final = ("temperature", "top_p", "user", "service_tier")
"""Fields with the same name and meaning. The format knows no penalties, stops, seed and biases: they are left out, as
dialogs send them to every model."""


async def responses_body(
    request: ChatRequest, info: ModelInfo, endpoint: Endpoint, *, schemas: ToolSchemas = SCHEMAS
) -> dict[str, Any]:
    """Input and fields of `request`; model and streaming are not among them. Nothing is kept at the provider.

    Raises:
        InvalidInput: the request asks for what the model cannot do or a request may not set, or a tool is refused.
    """
    check_abilities(request, info)
    given = sampling_fields(request, endpoint)
    fields: dict[str, Any] = {name: given[name] for name in _SAME if name in given}
    if request.sampling.max_tokens:
        fields["max_output_tokens"] = request.sampling.max_tokens
    if effort := given.get("reasoning_effort"):
        fields["reasoning"] = {"effort": effort, "summary": "auto"}
    if request.tools:
        tools = await schemas.tools(request.tools, info=info, family=endpoint.family, form="responses")
        fields |= {"tools": tools, **tool_fields(request, info)}
    if info.capabilities.reasoning:
        # Thinking that is not kept there has to go back with the calls that it led to.
        fields["include"] = ["reasoning.encrypted_content"]
    text = {"verbosity": given["verbosity"]} if "verbosity" in given else {}
    if request.reply_schema is not None:
        text["format"] = await schemas.reply(request.reply_schema, info=info, form="responses")
    elif "response_format" in given:
        text["format"] = _format(given["response_format"])
    if text:
        fields["text"] = text
    told = await run_in(Lane.TEXT, items, request, info.name) if is_big(request) else items(request, info.name)
    return {**fields, "input": told, "store": False}


def items(request: ChatRequest, model: str) -> list[dict[str, Any]]:
    """The turns as input items: calls and their results are items of their own."""
    found: list[dict[str, Any]] = []
    for turn in request.turns:
        if turn.role == "tool":
            output = valid(turn.content)
            found.append({"type": "function_call_output", "call_id": turn.tool_call_id, "output": output})
            continue
        if turn.content or turn.pictures or not turn.tool_calls:
            found.append({"role": turn.role, "content": _content(turn)})
        for call in turn.tool_calls:
            signature = signature_for(model, call)
            if signature:
                found.extend(orjson.loads(signature))
            told = {"type": "function_call", "call_id": call.id, "name": call.name}
            found.append(told | {"arguments": sent_arguments(call)})
    return found


def _content(turn: Turn) -> str | list[dict[str, Any]]:
    if not turn.pictures:
        return valid(turn.content)
    parts: list[dict[str, Any]] = [{"type": "input_text", "text": valid(turn.content)}] if turn.content else []
    return parts + [{"type": "input_image", "image_url": data_url(picture)} for picture in turn.pictures]


def _format(chosen: Any) -> Any:
    """`response_format` of the chat form, whose schema lies one level deeper."""
    if isinstance(chosen, dict) and isinstance(inner := chosen.get("json_schema"), dict):
        return {"type": "json_schema", **inner}
    return chosen
