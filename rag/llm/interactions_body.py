"""A request in the form of OpenAI's chat completions as Gemini's Interactions API takes it."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

_CONFIG: Final = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop_sequences",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
}
_LEVELS: Final = {"minimal": "low", "low": "low", "medium": "high", "high": "high"}


def interactions_body(body: Mapping[str, Any], *, thinks: bool) -> dict[str, Any]:
    """`body` as steps. Nothing is stored at the provider. `thinks`: the model's thoughts are asked for."""
    turns = body["messages"]
    names = {call["id"]: call["function"]["name"] for turn in turns for call in turn.get("tool_calls") or ()}
    found: dict[str, Any] = {"input": [step for turn in turns for step in _steps(turn, names)], "store": False}
    system = "\n\n".join(_text(turn["content"]) for turn in turns if turn["role"] == "system")
    if system:
        found["system_instruction"] = system
    if body.get("tools"):
        found["tools"] = [{"type": "function", **tool["function"]} for tool in body["tools"]]
        for tool in found["tools"]:
            tool.pop("strict", None)
    schema = (body.get("response_format") or {}).get("json_schema")
    if schema:
        found["response_format"] = {"type": "text", "mime_type": "application/json", "schema": schema["schema"]}
    config = _config(body, thinks=thinks)
    return found | ({"generation_config": config} if config else {})


def _config(body: Mapping[str, Any], *, thinks: bool) -> dict[str, Any]:
    config = {new: body[old] for old, new in _CONFIG.items() if body.get(old) is not None}
    choice = {"required": "any", "none": "none"}.get(body.get("tool_choice") or "")
    if choice:
        config["tool_choice"] = choice
    if body.get("reasoning_effort") in _LEVELS:
        config["thinking_level"] = _LEVELS[body["reasoning_effort"]]
    return config | ({"thinking_summaries": "auto"} if thinks else {})


def _steps(turn: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    role, content = turn["role"], turn.get("content")
    if role == "user":
        yield {"type": "user_input", "content": _parts(content)}
    elif role == "tool":
        call_id = turn["tool_call_id"]
        yield {
            "type": "function_result",
            "call_id": call_id,
            "name": names.get(call_id, ""),
            "result": _text(content),
        }
    elif role == "assistant":
        if content:
            yield {"type": "model_output", "content": _parts(content)}
        for call in turn.get("tool_calls") or ():
            signature = ((call.get("extra_content") or {}).get("google") or {}).get("thought_signature")
            if signature:
                # The thought that led to the call; without it a thinking model refuses the call's result.
                yield {"type": "thought", "signature": signature}
            function = call["function"]
            arguments = orjson.loads(function["arguments"])
            yield {"type": "function_call", "id": call["id"], "name": function["name"], "arguments": arguments}


def _parts(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [_picture(part["image_url"]["url"]) if "image_url" in part else _plain(part) for part in content or ()]


def _plain(part: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "text", "text": part.get("text", "")}


def _picture(url: str) -> dict[str, Any]:
    """From `data:<type>;base64,<data>`."""
    kind, _, data = url.removeprefix("data:").partition(";base64,")
    return {"type": "image", "mime_type": kind, "data": data}


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())
