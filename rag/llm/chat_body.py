"""A request in the form of OpenAI's chat completions, and pieces of a reply in that form as deltas."""

from collections.abc import Mapping
from typing import Any, Final

from rag.core.errors import InvalidInput
from rag.core.types import TokenUsage
from rag.llm.base import ChatRequest, Delta
from rag.llm.endpoint import Endpoint
from rag.llm.reasoning import ThinkSplitter

ALLOWED_EXTRA: Final = frozenset(
    {"reasoning_effort", "response_format", "seed", "logit_bias", "user", "verbosity", "service_tier"}
)
"""What a request may set besides its sampling. Addresses, headers and keys come from settings alone: a request
that could name another host would be sent the provider's key (CVE-2024-6587)."""

_FINISH: Final[dict[str, Any]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


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


def messages(request: ChatRequest) -> list[dict[str, str]]:
    """The turns; lone surrogates, which JSON cannot carry, are replaced."""
    return [{"role": turn.role, "content": _valid(turn.content)} for turn in request.turns]


def _valid(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


class DeltaReader:
    """Turns the parsed JSON pieces of one reply into deltas. Whole replies take the same path."""

    def __init__(self) -> None:
        self._think = ThinkSplitter()
        self.usage: TokenUsage | None = None
        self.finish: str | None = None

    def read(self, piece: Mapping[str, Any]) -> tuple[str, str]:
        """(reasoning, text) that `piece` adds; usage and finish reason are kept."""
        usage = piece.get("usage")
        if isinstance(usage, Mapping):
            self.usage = token_usage(usage)
        choices = piece.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
            return "", ""
        choice = choices[0]
        self.finish = choice.get("finish_reason") or self.finish
        delta = choice.get("delta") or choice.get("message")
        if not isinstance(delta, Mapping):
            return "", ""
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        content = delta.get("content")
        reasoning = thought if isinstance(thought, str) else ""
        if not isinstance(content, str) or not content:
            return reasoning, ""
        inline, text = self._think.feed(content)
        return reasoning + inline, text

    def last(self) -> list[Delta]:
        """The deltas that end the reply; without a finish reason it was cut off."""
        reasoning, text = self._think.finish()
        finish: Any = _FINISH.get(self.finish, "stop") if self.finish else "cut_off"
        found = [Delta(reasoning=reasoning, text=text)] if reasoning or text else []
        return [*found, Delta(usage=self.usage, finish=finish)]


def token_usage(usage: Mapping[str, Any]) -> TokenUsage:
    """The provider's figures; what is missing or no number counts as 0."""
    values = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    prompt, completion = (value if isinstance(value, int) else 0 for value in values)
    return TokenUsage(prompt_tokens=prompt, completion_tokens=completion)
