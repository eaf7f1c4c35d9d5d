import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from rag.core.errors import InvalidInput
from rag.core.settings import PriceSettings
from rag.core.types import TokenUsage
from rag.llm.models_file import read_models_file
from rag.llm.prices import Prices, Rate, read_prices_file

MAP = {
    "gpt-x": {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 2e-6,
        "output_cost_per_token": 8e-6,
        "cache_read_input_token_cost": 5e-7,
    },
    "claude-x": {
        "litellm_provider": "anthropic",
        "mode": "chat",
        "input_cost_per_token": 3e-6,
        "output_cost_per_token": 15e-6,
        "cache_read_input_token_cost": 3e-7,
        "cache_creation_input_token_cost": 3.75e-6,
    },
    "gemini/deep": {
        "litellm_provider": "gemini",
        "mode": "chat",
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 10e-6,
        "output_cost_per_reasoning_token": 12e-6,
        "input_cost_per_token_above_200k_tokens": 2e-6,
        "output_cost_per_token_above_200k_tokens": 15e-6,
    },
    "deepseek/x": {
        "litellm_provider": "deepseek",
        "mode": "chat",
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 2e-6,
        "cache_creation_input_token_cost": 0.0,
    },
    "embed-x": {
        "litellm_provider": "openai",
        "mode": "embedding",
        "input_cost_per_token": 2e-8,
        "output_cost_per_token": 0.0,
    },
    "rerank-x": {
        "litellm_provider": "cohere",
        "mode": "rerank",
        "input_cost_per_token": 0.0,
        "input_cost_per_query": 0.002,
    },
    "paint-x": {"litellm_provider": "openai", "mode": "image_generation", "input_cost_per_token": 1.0},
    "unpriced": {"litellm_provider": "openai", "mode": "chat"},
    "gpt-x-elsewhere": {"litellm_provider": "other", "mode": "chat", "input_cost_per_token": 1.0},
}


@pytest.fixture
def prices(tmp_path: Path) -> Prices:
    return Prices(map_path=_map(tmp_path))


def _map(folder: Path) -> Path:
    path = folder / "map.json"
    path.write_bytes(orjson.dumps(MAP))
    return path


@pytest.mark.parametrize(
    ("model", "usage", "cost"),
    [
        # 700 x 2 + 300 x 0.5 + 100 x 8 = 2350 millionths
        ("gpt-x@OpenAI", TokenUsage(prompt_tokens=1000, cached_tokens=300, completion_tokens=100), 0.00235),
        # thinking is billed as output where it has no price of its own: 10 x 2 + 100 x 8
        ("gpt-x@OpenAI", TokenUsage(prompt_tokens=10, completion_tokens=100, reasoning_tokens=90), 0.00082),
        # 100 x 3 + 800 x 0.3 + 100 x 3.75 + 10 x 15 = 300 + 240 + 375 + 150
        (
            "claude-x@Anthropic",
            TokenUsage(prompt_tokens=1000, cached_tokens=800, cache_write_tokens=100, completion_tokens=10),
            0.001065,
        ),
        # 1000 x 1 + 40 x 10 + 60 x 12 = 1000 + 400 + 720
        ("deep@Gemini", TokenUsage(prompt_tokens=1000, completion_tokens=100, reasoning_tokens=60), 0.00212),
        # the whole of a long prompt at its own rate: 200001 x 2 + 100 x 15
        ("deep@Gemini", TokenUsage(prompt_tokens=200_001, completion_tokens=100), 0.401502),
        ("deep@Gemini", TokenUsage(prompt_tokens=200_000, completion_tokens=100), 0.201),
        # a price of 0 for writing to the cache means that it is not billed apart: 1000 x 1
        ("x@DeepSeek", TokenUsage(prompt_tokens=1000, cache_write_tokens=1000), 0.001),
        ("embed-x@OpenAI", TokenUsage(prompt_tokens=1_000_000), 0.02),
        ("rerank-x@Cohere", TokenUsage(prompt_tokens=5000), 0.002),
        # a part that is larger than its whole counts as the whole
        ("gpt-x@OpenAI", TokenUsage(prompt_tokens=100, cached_tokens=900), 0.00005),
    ],
)
def test_costs_as_counted_by_hand(prices: Prices, model: str, usage: TokenUsage, cost: float) -> None:
    assert prices.cost(model, usage) == pytest.approx(cost, rel=1e-12)


@pytest.mark.parametrize(
    "model",
    [
        "gpt-y@OpenAI",
        "gpt-x@Somebody",
        "gpt-x-elsewhere@OpenAI",
        "gpt-x@Gemini",
        "paint-x@OpenAI",
        "unpriced@OpenAI",
        "gpt-x",
        "",
    ],
)
def test_what_has_no_known_price_has_no_cost(prices: Prices, model: str) -> None:
    assert prices.cost(model, TokenUsage(prompt_tokens=1000)) is None
    assert not prices.is_free(model)


@pytest.mark.parametrize("model", ["extractive@Builtin", "llama3@Ollama", "qwen@vLLM", "phi@LM-Studio", "phi@lmstudio"])
def test_local_models_cost_nothing(prices: Prices, model: str) -> None:
    assert prices.cost(model, TokenUsage(prompt_tokens=1000, completion_tokens=1000)) == 0.0
    assert prices.is_free(model)


def test_settings_win_over_the_map_and_a_name_over_a_provider(tmp_path: Path) -> None:
    given = PriceSettings(
        usd_per_million={
            "gpt-x@OpenAI": {"input": 10, "output": 20, "cached": 1},
            "*@Somebody": {"input": 4},
            "tiny@Somebody": {"input": 1},
            "*@vLLM": {"input": 6, "output": 6},
        }
    )
    prices = Prices(given, map_path=_map(tmp_path))
    taken = TokenUsage(prompt_tokens=1_000_000, cached_tokens=500_000, completion_tokens=100_000)
    assert prices.cost("gpt-x@OpenAI", taken) == pytest.approx(5 + 0.5 + 2)
    assert prices.cost("large@Somebody", taken) == pytest.approx(4)
    assert prices.cost("tiny@Somebody", taken) == pytest.approx(1)
    assert prices.cost("qwen@vLLM", taken) == pytest.approx(6.6)
    assert prices.cost("claude-x@Anthropic", TokenUsage(prompt_tokens=1_000_000)) == pytest.approx(3)


@pytest.mark.parametrize("given", [{"gpt-x": {"input": 1}}, {"@OpenAI": {"input": 1}}, {"a@b": {"inputs": 1}}])
def test_a_price_that_says_nothing_is_refused(given: dict[str, dict[str, float]]) -> None:
    with pytest.raises(InvalidInput, match="PARLEY_PRICES: .* Write"):
        Prices(PriceSettings(usd_per_million=given))


def test_the_installed_map_prices_what_our_providers_sell() -> None:
    prices = Prices()
    assert prices.cost("gpt-4o-mini@OpenAI", TokenUsage(prompt_tokens=10**6)) == pytest.approx(0.15)
    assert prices.cost("gpt-4o-mini@OpenAI", TokenUsage(completion_tokens=10**6)) == pytest.approx(0.6)
    for model in ("gpt-4o-mini@Azure OpenAI", "gemini-2.5-flash@Gemini", "mistral-small-latest@Mistral"):
        rate = prices.rate(model)
        assert rate is not None, model
        assert rate.input > rate.cached > 0, model


def test_the_file_that_comes_along_can_be_read() -> None:
    assert "Builtin" in read_prices_file().free
    assert Prices(map_path=Path("/nowhere")).cost("gpt-x@OpenAI", TokenUsage()) is None


def test_reading_prices_runs_none_of_the_package() -> None:
    code = (
        "import sys; from rag.llm.prices import Prices; p = Prices(); p.load(); "
        "assert p.rate('gpt-4o-mini@OpenAI'); sys.exit('litellm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_costs_nothing() -> None:
    assert Rate(input=1, output=1).cost(TokenUsage()) == 0.0


SPOKEN = ("whisper", "transcribe", "tts", "voxtral", "orpheus")
NOT_IN_THE_MAP = {"OpenRouter", "AIMLAPI"}


def test_what_our_providers_list_has_a_price() -> None:
    """All providers are named in conf/prices.yaml, and nearly all that they list is priced there or by the map."""
    prices = Prices()
    lacking: list[str] = []
    listed = 0
    for name, provider in read_models_file().providers.items():
        if name in NOT_IN_THE_MAP or name == "OpenAI-API-Compatible":
            continue
        assert prices.is_known(name), name
        models = [model for model in provider.models if not any(word in model for word in SPOKEN)]
        listed += len(models)
        lacking += [f"{model}@{name}" for model in models if prices.rate(f"{model}@{name}") is None]
    assert listed > 100
    assert len(lacking) <= listed * 0.06, lacking


def test_providers_that_the_map_lacks_have_no_guessed_price() -> None:
    for model in ("openai/gpt-4o-mini@OpenRouter", "gpt-4o-mini@AIMLAPI", "gpt-4o-mini@OpenAI-API-Compatible"):
        assert Prices().rate(model) is None, model
