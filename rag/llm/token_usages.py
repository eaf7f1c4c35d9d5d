"""What providers say a call took, in the many ways they say it."""

from collections.abc import Mapping
from typing import Any, Final

from rag.core.types import TokenUsage

# Each list is read in order; the first figure above 0 counts. The names are those of chat completions, of Responses,
# and of DeepSeek, Moonshot, OpenRouter, Anthropic and LiteLLM.
_PROMPT: Final = ("prompt_tokens", "input_tokens")
_COMPLETION: Final = ("completion_tokens", "output_tokens")
_CACHED: Final = ("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens")
_WRITTEN: Final = ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens")
_REASONING: Final = ("reasoning_tokens",)
MOST_TOKENS: Final = 1_000_000_000
"""Of one call; who says more made it up, and such a figure must not reach sums and rows that cannot hold it. Whoever
reads a figure of a provider's reads it through `tokens_of`."""


def tokens_of(*figures: object) -> int:
    """The sum of what a provider says of one call, 0 to `MOST_TOKENS`. What is no number or above that counts as 0."""
    # Of a float that is not a number every comparison is false.
    fair = (
        int(figure)
        for figure in figures
        if isinstance(figure, int | float) and not isinstance(figure, bool) and 0 < figure <= MOST_TOKENS
    )
    return min(sum(fair), MOST_TOKENS)


def token_usage(usage: Mapping[str, Any]) -> TokenUsage:
    """The provider's figures; what is missing, no number or above `MOST_TOKENS` counts as 0."""
    prompt_details = _details(usage, "prompt_tokens_details", "input_tokens_details")
    completion_details = _details(usage, "completion_tokens_details", "output_tokens_details")
    prompt, completion = _count(_PROMPT, usage), _count(_COMPLETION, usage)
    reasoning = _count(_REASONING, completion_details, usage)
    # xAI counts thinking beside the completion, all others within it; the total tells.
    if reasoning and usage.get("total_tokens") == prompt + completion + reasoning:
        completion = tokens_of(completion, reasoning)
    return TokenUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=_count(_CACHED, prompt_details, usage),
        cache_write_tokens=_count(_WRITTEN, prompt_details, usage),
        reasoning_tokens=reasoning,
    )


def _details(usage: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    return next((found for name in names if isinstance(found := usage.get(name), Mapping)), {})


def _count(names: tuple[str, ...], *places: Mapping[str, Any]) -> int:
    for place in places:
        for name in names:
            if value := tokens_of(place.get(name)):
                return value
    return 0
