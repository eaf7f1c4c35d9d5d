"""Readers of recorded replies in the formats of Anthropic, Google, AWS and Cohere. The rules: `recorded_truth`."""

import json
import re
from typing import Any

from tests.integration.rag.llm.recorded_reader import Event, Reader, Usage


class Anthropic(Reader):
    def __init__(self) -> None:
        super().__init__()
        self._counts: Event = {}

    def event(self, event: Event) -> None:
        kind = event["type"]
        if kind == "message_start":
            self._usage(event["message"]["usage"])
        elif kind == "content_block_start":
            self._block(event["content_block"], event["index"], streamed=True)
        elif kind == "content_block_delta":
            delta = event["delta"]
            if delta["type"] == "text_delta":
                self.text.append(delta["text"])
            elif delta["type"] == "thinking_delta":
                self.reasoning.append(delta["thinking"])
            elif delta["type"] == "input_json_delta" and event["index"] in self.calls:
                self.calls[event["index"]]["arguments"] += delta["partial_json"]
        elif kind == "message_delta":
            self._usage(event["usage"])
            self.finish = event["delta"]["stop_reason"] or self.finish
        elif kind == "error":
            self.error = event["error"]["message"]

    def whole(self, reply: Event) -> None:
        for index, block in enumerate(reply["content"]):
            self._block(block, index)
        self._usage(reply["usage"])
        self.finish = reply["stop_reason"]

    def _block(self, block: Event, index: int, *, streamed: bool = False) -> None:
        if block["type"] == "text":
            self.text.append(block["text"])
        elif block["type"] == "thinking":
            self.reasoning.append(block["thinking"])
        elif block["type"] == "tool_use":
            given = json.dumps(block["input"]) if block["input"] else ""
            self.call(index, id=block["id"], name=block["name"], arguments="" if streamed else given)
            if streamed and given:
                self.calls[index]["arguments"] = given

    def _usage(self, usage: Event) -> None:
        """The figures of the later events are running totals. Where `iterations` are listed (a compaction, an advisor,
        a fallback), the figures beside them leave some out, and their sum is what was used."""
        self._counts |= {name: value for name, value in usage.items() if value is not None}
        rounds = self._counts.get("iterations") or [self._counts]
        cached = sum(each.get("cache_read_input_tokens") or 0 for each in rounds)
        written = sum(each.get("cache_creation_input_tokens") or 0 for each in rounds)
        self.usage = Usage(
            prompt=sum(each["input_tokens"] for each in rounds) + cached + written,
            completion=sum(each["output_tokens"] for each in rounds),
            cached=cached,
            written=written,
            reasoning=(self._counts.get("output_tokens_details") or {}).get("thinking_tokens"),
        )


class Gemini(Reader):
    """`functionCall` may come in pieces: a name, then `partialArgs` with paths, then an empty one."""

    def __init__(self) -> None:
        super().__init__()
        self._open: int | None = None

    def whole(self, reply: Event) -> None:
        self.event(reply)

    def event(self, event: Event) -> None:
        for candidate in event.get("candidates") or ():
            for part in (candidate.get("content") or {}).get("parts") or ():
                self._part(part)
            self.finish = candidate.get("finishReason") or self.finish
        usage = event.get("usageMetadata") or {}
        if "promptTokenCount" in usage:
            thinking = usage.get("thoughtsTokenCount", 0)
            self.usage = Usage(
                prompt=usage["promptTokenCount"] + usage.get("toolUsePromptTokenCount", 0),
                completion=usage.get("candidatesTokenCount", 0) + thinking,
                cached=usage.get("cachedContentTokenCount", 0),
                reasoning=thinking,
            )

    def _part(self, part: Event) -> None:
        if "functionCall" in part:
            self._function(part["functionCall"])
        elif part.get("thought"):
            self.reasoning.append(part.get("text", ""))
        else:
            self.text.append(part.get("text", ""))

    def _function(self, call: Event) -> None:
        if "name" in call:
            self._open = len(self.calls)
            self.call(self._open, id=call.get("id"), name=call["name"], arguments=json.dumps(call.get("args") or {}))
        for piece in call.get("partialArgs") or ():
            assert self._open is not None
            arguments = json.loads(self.calls[self._open]["arguments"])
            _put(arguments, piece)
            self.calls[self._open]["arguments"] = json.dumps(arguments)


def _put(arguments: Event, piece: Event) -> None:
    """Add a piece at its path, such as `$.recipe.steps[9]`; text at the same path goes on."""
    steps = [int(s[1:-1]) if s[0] == "[" else s for s in re.findall(r"\[\d+\]|[^.\[\]]+", piece["jsonPath"][2:])]
    at: Any = arguments
    for step, following in zip(steps, steps[1:], strict=False):
        empty: Any = [] if isinstance(following, int) else {}
        if isinstance(step, int):
            while len(at) <= step:
                at.append(empty)
            at = at[step]
        else:
            at = at.setdefault(step, empty)
    value = next(piece[name] for name in ("stringValue", "numberValue", "boolValue") if name in piece)
    last = steps[-1]
    if isinstance(last, int):
        while len(at) <= last:
            at.append("" if isinstance(value, str) else value)
        at[last] = at[last] + value if isinstance(value, str) else value
    else:
        at[last] = at.get(last, "") + value if isinstance(value, str) else value


class Bedrock(Reader):
    def event(self, event: Event) -> None:
        (kind, data), *_ = event.items()
        if kind == "contentBlockStart" and "toolUse" in data["start"]:
            use = data["start"]["toolUse"]
            self.call(data["contentBlockIndex"], id=use["toolUseId"], name=use["name"])
        elif kind == "contentBlockDelta":
            delta = data["delta"]
            self.text.append(delta.get("text", ""))
            self.reasoning.append((delta.get("reasoningContent") or {}).get("text", ""))
            if "toolUse" in delta:
                self.calls[data["contentBlockIndex"]]["arguments"] += delta["toolUse"]["input"]
        elif kind == "messageStop":
            self.finish = data["stopReason"]
        elif kind == "metadata":
            self._usage(data["usage"])

    def whole(self, reply: Event) -> None:
        for index, block in enumerate(reply["output"]["message"]["content"]):
            self.text.append(block.get("text", ""))
            thought = (block.get("reasoningContent") or {}).get("reasoningText") or {}
            self.reasoning.append(thought.get("text", ""))
            if "toolUse" in block:
                use = block["toolUse"]
                self.call(index, id=use["toolUseId"], name=use["name"], arguments=json.dumps(use["input"]))
        self.finish = reply["stopReason"]
        self._usage(reply["usage"])

    def _usage(self, usage: Event) -> None:
        cached, written = usage.get("cacheReadInputTokens", 0), usage.get("cacheWriteInputTokens", 0)
        self.usage = Usage(
            prompt=usage["inputTokens"] + cached + written,
            completion=usage["outputTokens"],
            cached=cached,
            written=written,
            reasoning=None,
        )


class Cohere(Reader):
    """Version 2. `tool_plan` is the model's reflection on which tools to use. `tokens` counts what the model read and
    wrote, `billed_units` what is paid for."""

    def event(self, event: Event) -> None:
        kind, message = event["type"], (event.get("delta") or {}).get("message") or {}
        if kind in ("content-start", "content-delta"):
            self.text.append(message["content"].get("text", ""))
            self.reasoning.append(message["content"].get("thinking", ""))
        elif kind == "tool-plan-delta":
            self.reasoning.append(message["tool_plan"])
        elif kind == "tool-call-start":
            call = message["tool_calls"]
            self.call(event["index"], id=call["id"], name=call["function"]["name"])
            self.calls[event["index"]]["arguments"] += call["function"]["arguments"]
        elif kind == "tool-call-delta":
            self.calls[event["index"]]["arguments"] += message["tool_calls"]["function"]["arguments"]
        elif kind == "message-end":
            self.finish = event["delta"]["finish_reason"]
            self._usage(event["delta"]["usage"])

    def whole(self, reply: Event) -> None:
        message = reply["message"]
        self.reasoning.append(message.get("tool_plan", ""))
        for part in message.get("content") or ():
            self.text.append(part.get("text", ""))
            self.reasoning.append(part.get("thinking", ""))
        for index, call in enumerate(message.get("tool_calls") or ()):
            function = call["function"]
            self.call(index, id=call["id"], name=function["name"], arguments=function["arguments"])
        self.finish = reply["finish_reason"]
        self._usage(reply["usage"])

    def _usage(self, usage: Event) -> None:
        tokens = usage["tokens"]
        self.usage = Usage(
            prompt=tokens["input_tokens"],
            completion=tokens["output_tokens"],
            cached=usage.get("cached_tokens", 0),
            reasoning=None,
        )


class Interactions(Reader):
    """Gemini's steps. What its own tools brought is prompt, as `total_tokens` has it."""

    def event(self, event: Event) -> None:
        kind = event["event_type"]
        if kind == "step.start":
            self._step(event["step"], event["index"])
        elif kind == "step.delta":
            delta = event["delta"]
            if delta["type"] == "text":
                self.text.append(delta["text"])
            elif delta["type"] == "thought_summary":
                self.reasoning.append(delta["content"]["text"])
            elif delta["type"] == "arguments_delta":
                self.calls[event["index"]]["arguments"] += delta["arguments"]
        elif kind == "interaction.completed":
            self._end(event["interaction"])

    def whole(self, reply: Event) -> None:
        for index, step in enumerate(reply["steps"]):
            self._step(step, index)
        self._end(reply)

    def _step(self, step: Event, index: int) -> None:
        if step["type"] == "model_output":
            self.text += [part["text"] for part in step.get("content") or ()]
        elif step["type"] == "thought":
            self.reasoning += [part["text"] for part in step.get("summary") or ()]
        elif step["type"] == "function_call":
            given = json.dumps(step["arguments"]) if step["arguments"] else ""
            self.call(index, id=step["id"], name=step["name"], arguments=given)

    def _end(self, interaction: Event) -> None:
        self.finish = {"completed": "stop", "requires_action": "tool_calls"}[interaction["status"]]
        usage = interaction["usage"]
        self.usage = Usage(
            prompt=usage["total_tokens"] - usage["total_output_tokens"] - usage["total_thought_tokens"],
            completion=usage["total_output_tokens"] + usage["total_thought_tokens"],
            cached=usage["total_cached_tokens"],
            reasoning=usage["total_thought_tokens"],
        )
