from dataclasses import replace

from prometheus_client import CollectorRegistry, generate_latest

from api.apps.model_metrics import ModelMetrics
from api.db.services.records import ModelCall

CALL = ModelCall(
    tenant_id="t",
    model="gpt-x@OpenAI",
    provider="OpenAI",
    purpose="answer",
    prompt_tokens=100,
    completion_tokens=20,
    cached_tokens=40,
    cache_write_tokens=5,
    reasoning_tokens=7,
    estimated=False,
    duration_ms=3000.0,
    first_token_ms=300.0,
    attempts=3,
    tool_calls=2,
    cost_usd=0.5,
)
OPENAI = {"provider": "OpenAI", "model": "gpt-x"}
OTHER = {"provider": "other", "model": "other"}


def test_calls_are_counted_by_provider_model_and_outcome() -> None:
    registry = CollectorRegistry()
    metrics = ModelMetrics(registry, lambda: {("OpenAI", "gpt-x")})
    for call in (CALL, CALL, replace(CALL, outcome="model_timeout", cost_usd=None, first_token_ms=None)):
        metrics.ended(call)
        metrics.settled(call)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"parley_model_{name}", OPENAI | labels)

    assert value("calls_total", outcome="ok") == 2
    assert value("calls_total", outcome="model_timeout") == 1
    kinds = ("in", "out", "cached", "cache_write", "reasoning")
    assert [value("tokens_total", kind=kind) for kind in kinds] == [300, 60, 120, 15, 21]
    assert value("cost_usd_total") == 1.0
    assert value("unpriced_total") == 1
    assert value("retries_total") == 6
    assert value("tool_calls_total") == 6
    # Failures say nothing of how long calls take.
    assert (value("call_seconds_count"), value("call_seconds_sum")) == (2, 6.0)
    assert (value("first_token_seconds_count"), value("first_token_seconds_sum")) == (2, 0.6)
    assert value("first_token_seconds_bucket", le="0.25") == 0
    assert value("first_token_seconds_bucket", le="0.5") == 2


def test_names_of_tenants_are_nobodys_labels() -> None:
    registry = CollectorRegistry()
    metrics = ModelMetrics(registry, lambda: {("OpenAI", "gpt-x")})
    for number in range(250):
        metrics.ended(replace(CALL, model=f"secret-{number}@Mine", provider="Mine"))
    metrics.ended(replace(CALL, model="secret@OpenAI"))
    metrics.ended(CALL)
    assert registry.get_sample_value("parley_model_calls_total", OTHER | {"outcome": "ok"}) == 251
    assert registry.get_sample_value("parley_model_calls_total", OPENAI | {"outcome": "ok"}) == 1
    text = generate_latest(registry).decode()
    assert "secret" not in text
    assert "Mine" not in text
