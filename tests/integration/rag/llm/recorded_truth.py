"""What a recorded reply says, read by the provider's documented format alone: none of our code, nothing of LiteLLM.

What is told is the same for all providers:

- text: what the answer says, in order, as it was sent.
- reasoning: thinking and summaries of it; blank lines between its parts are no part of it.
- calls: tools that the caller offered (`function_call`, `tool_use`, `functionCall`, `toolUse`). A provider's own tools,
  which it runs itself, are not calls. `id` is None where the provider gave none.
- usage: prompt and completion tokens in all, and the parts of them that were read from a cache, written to it, and
  spent on thinking. Thinking counts as completion and the cache as prompt, also where the provider counts them apart.
- finish: stop, length, tool_calls, content_filter; cut_off where the reply has no end. An ordinary end with calls is
  `tool_calls`, whatever the provider's word.
- error: the provider's message, of a reply that is one or a stream that ends with one.
"""

from tests.integration.rag.llm.recorded_others import Anthropic, Bedrock, Cohere, Gemini, Interactions
from tests.integration.rag.llm.recorded_reader import Event, Reader, Told, Usage
from tests.integration.rag.llm.recordings import Exchange


def told_by(exchange: Exchange) -> Told:
    """What `exchange` says."""
    if exchange.status != 200:
        reply = exchange.reply
        return Told(error=reply.get("message") or reply["error"]["message"])
    reader = _READERS[exchange.form]()
    if exchange.events is None:
        reader.whole(exchange.reply)
    else:
        for event in exchange.events:
            reader.event(event)
    return reader.told()


class _Chat(Reader):
    """OpenAI's chat completions, with the fields that DeepSeek, Groq, Mistral, Moonshot, OpenRouter and xAI add."""

    def event(self, event: Event) -> None:
        if "error" in event:
            self.error = event["error"]["message"]
            return
        groq = event.get("x_groq") or {}
        self._usage(event.get("usage") or groq.get("usage"))
        for choice in event.get("choices") or ():
            self._usage(choice.get("usage"))
            self._said(choice.get("delta") or {})
            self.finish = choice.get("finish_reason") or self.finish

    def whole(self, reply: Event) -> None:
        self._usage(reply.get("usage"))
        choice = reply["choices"][0]
        message = choice["message"]
        self._said(message | {"tool_calls": [{"index": n} | c for n, c in enumerate(message.get("tool_calls") or ())]})
        self.finish = choice["finish_reason"]

    def _said(self, delta: Event) -> None:
        content = delta.get("content") or ""
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "thinking":
                self.reasoning += [inner["text"] for inner in part["thinking"]]
            else:
                self.text.append(part["text"])
        self.reasoning.append(delta.get("reasoning_content") or delta.get("reasoning") or "")
        for piece in delta.get("tool_calls") or ():
            function = piece["function"]
            if piece["index"] not in self.calls:
                self.call(piece["index"], id=piece["id"], name=function["name"])
            self.calls[piece["index"]]["arguments"] += function.get("arguments") or ""

    def _usage(self, usage: Event | None) -> None:
        if not usage:
            return
        prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
        within = usage.get("completion_tokens_details") or {}
        cache = usage.get("prompt_tokens_details") or {}
        reasoning = within.get("reasoning_tokens") or usage.get("reasoning_tokens") or 0
        if reasoning and usage["total_tokens"] == prompt + completion + reasoning:  # xAI counts it apart.
            completion += reasoning
        self.usage = Usage(
            prompt=prompt,
            completion=completion,
            cached=cache.get("cached_tokens")
            or usage.get("cached_tokens")
            or usage.get("prompt_cache_hit_tokens")
            or 0,
            written=cache.get("cache_write_tokens") or 0,
            reasoning=reasoning,
        )


class _Completion(_Chat):
    """OpenAI's legacy completions: text in each choice."""

    def event(self, event: Event) -> None:
        self._usage(event.get("usage"))
        for choice in event["choices"]:
            self.text.append(choice["text"])
            self.finish = choice["finish_reason"] or self.finish

    def whole(self, reply: Event) -> None:
        self.event(reply)


class _Responses(Reader):
    def event(self, event: Event) -> None:
        kind = event["type"]
        if kind in ("response.output_text.delta", "response.refusal.delta"):
            self.text.append(event["delta"])
        elif kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
            self.reasoning.append(event["delta"])
        elif kind in ("response.reasoning_summary_part.added",):
            self.reasoning.append("\n\n")
        elif kind == "response.output_item.done":
            self._call(event["item"], event["output_index"])
        elif kind in ("response.completed", "response.incomplete", "response.failed"):
            self._end(event["response"])

    def whole(self, reply: Event) -> None:
        for index, item in enumerate(reply["output"]):
            if item["type"] == "message":
                self.text += [part.get("text") or part.get("refusal") or "" for part in item["content"]]
            elif item["type"] == "reasoning":
                self.reasoning += [f"\n\n{part['text']}" for part in item.get("summary") or item.get("content") or ()]
            self._call(item, index)
        self._end(reply)

    def _call(self, item: Event, index: int) -> None:
        if item["type"] == "function_call":
            self.call(index, id=item["call_id"], name=item["name"], arguments=item["arguments"])

    def _end(self, response: Event) -> None:
        reason = (response.get("incomplete_details") or {}).get("reason")
        if reason:
            self.finish = {"max_output_tokens": "length", "content_filter": "content_filter"}[reason]
        elif response["status"] == "completed":
            self.finish = "stop"
        usage = response.get("usage")
        if usage:
            details = usage.get("input_tokens_details") or {}
            self.usage = Usage(
                prompt=usage["input_tokens"],
                completion=usage["output_tokens"],
                cached=details.get("cached_tokens") or 0,
                written=details.get("cache_write_tokens") or 0,
                reasoning=(usage.get("output_tokens_details") or {}).get("reasoning_tokens") or 0,
            )


_READERS: dict[str, type[Reader]] = {
    "chat": _Chat,
    "completion": _Completion,
    "responses": _Responses,
    "anthropic": Anthropic,
    "gemini": Gemini,
    "bedrock": Bedrock,
    "cohere": Cohere,
    "interactions": Interactions,
}
