from typing import Any

import pytest

from rag.core.types import TokenUsage
from rag.llm.token_usages import MOST_TOKENS, token_usage, tokens_of


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({}, TokenUsage()),
        (
            {"prompt_tokens": "7", "completion_tokens": None, "prompt_tokens_details": 3},
            TokenUsage(),
        ),
        ({"prompt_tokens": 10**9 + 1, "completion_tokens": 2**63}, TokenUsage()),
        ({"prompt_tokens": 2**63, "input_tokens": 10**9}, TokenUsage(prompt_tokens=10**9)),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 5,
                "total_tokens": 14,
                "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            TokenUsage(prompt_tokens=9, completion_tokens=5, cached_tokens=4, reasoning_tokens=3),
        ),
        (
            {"input_tokens": 9, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 4}}
            | {"output_tokens_details": {"reasoning_tokens": 3}},
            TokenUsage(prompt_tokens=9, completion_tokens=5, cached_tokens=4, reasoning_tokens=3),
        ),
        (  # DeepSeek
            {"prompt_tokens": 339, "completion_tokens": 83, "prompt_cache_hit_tokens": 320},
            TokenUsage(prompt_tokens=339, completion_tokens=83, cached_tokens=320),
        ),
        (  # Moonshot
            {"prompt_tokens": 9, "completion_tokens": 5, "cached_tokens": 8},
            TokenUsage(prompt_tokens=9, completion_tokens=5, cached_tokens=8),
        ),
        (  # Anthropic by way of LiteLLM
            {
                "prompt_tokens": 30,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 0},
                "cache_read_input_tokens": 10,
                "cache_creation_input_tokens": 15,
            },
            TokenUsage(prompt_tokens=30, completion_tokens=5, cached_tokens=10, cache_write_tokens=15),
        ),
        (  # OpenRouter
            {
                "prompt_tokens": 30,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 2},
            },
            TokenUsage(prompt_tokens=30, completion_tokens=5, cached_tokens=1, cache_write_tokens=2),
        ),
        (  # xAI counts thinking beside the completion
            {
                "prompt_tokens": 12,
                "completion_tokens": 2,
                "total_tokens": 234,
                "completion_tokens_details": {"reasoning_tokens": 220},
            },
            TokenUsage(prompt_tokens=12, completion_tokens=222, reasoning_tokens=220),
        ),
    ],
)
def test_what_providers_say(said: dict[str, Any], meant: TokenUsage) -> None:
    assert token_usage(said) == meant


@pytest.mark.parametrize(
    ("figures", "meant"),
    [
        ((), 0),
        ((7,), 7),
        ((7.0, 5), 12),
        ((None, "7", True, [], -3, 4), 4),
        ((MOST_TOKENS,), MOST_TOKENS),
        ((MOST_TOKENS + 1, 2**63, 1e300, float("inf"), float("nan")), 0),
        ((MOST_TOKENS, MOST_TOKENS), MOST_TOKENS),
    ],
)
def test_figures_that_are_none_count_nothing_and_sums_stay_within_bounds(
    figures: tuple[object, ...], meant: int
) -> None:
    assert tokens_of(*figures) == meant


def test_thinking_beside_the_completion_stays_within_bounds() -> None:
    said = {"completion_tokens": MOST_TOKENS, "reasoning_tokens": MOST_TOKENS, "total_tokens": 2 * MOST_TOKENS}
    assert token_usage(said) == TokenUsage(completion_tokens=MOST_TOKENS, reasoning_tokens=MOST_TOKENS)
