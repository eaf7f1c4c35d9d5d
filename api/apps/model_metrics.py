"""Prometheus figures of model calls, by provider and model."""

from collections.abc import Callable, Collection

from prometheus_client import CollectorRegistry, Counter, Histogram

from api.db.services.records import ModelCall
from api.db.services.usage_days import WENT_WELL

OTHER = "other"
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)
_LABELS = ("provider", "model")


class ModelMetrics:
    """Looks at ended calls, as a `usage_ledger.CallObserver`.

    Anybody may read the figures, and tenants name models as they like: only models that the server itself lists have
    labels of their own, all others are `other`.
    """

    def __init__(self, registry: CollectorRegistry, listed: Callable[[], Collection[tuple[str, str]]]) -> None:
        """`listed` gives the server's own models, as (provider, model)."""
        self._listed = listed
        self._own: set[tuple[str, str]] = set()
        self._calls = Counter("parley_model_calls", "Model calls.", (*_LABELS, "outcome"), registry=registry)
        self._tokens = Counter(
            "parley_model_tokens",
            "Tokens. Cached and cache_write ones are also in, reasoning ones also out.",
            (*_LABELS, "kind"),
            registry=registry,
        )
        self._cost = Counter("parley_model_cost_usd", "Cost of priced calls in US dollars.", _LABELS, registry=registry)
        self._unpriced = Counter("parley_model_unpriced", "Calls without a known price.", _LABELS, registry=registry)
        self._retries = Counter("parley_model_retries", "Attempts beyond the first.", _LABELS, registry=registry)
        self._tools = Counter("parley_model_tool_calls", "Tools that models called.", _LABELS, registry=registry)
        self._first = Histogram(
            "parley_model_first_token_seconds",
            "Seconds to the first piece of streamed replies that went well.",
            _LABELS,
            buckets=_BUCKETS,
            registry=registry,
        )
        self._durations = Histogram(
            "parley_model_call_seconds",
            "Seconds of calls that went well.",
            _LABELS,
            buckets=_BUCKETS,
            registry=registry,
        )

    def ended(self, call: ModelCall) -> None:
        """Count `call`."""
        labels = self._labels(call)
        self._calls.labels(*labels, call.outcome).inc()
        for kind, count in (
            ("in", call.prompt_tokens),
            ("out", call.completion_tokens),
            ("cached", call.cached_tokens),
            ("cache_write", call.cache_write_tokens),
            ("reasoning", call.reasoning_tokens),
        ):
            self._tokens.labels(*labels, kind).inc(max(count, 0))
        if call.cost_usd is None:
            self._unpriced.labels(*labels).inc()
        else:
            self._cost.labels(*labels).inc(max(call.cost_usd, 0.0))
        self._retries.labels(*labels).inc(max(call.attempts - 1, 0))
        self._tools.labels(*labels).inc(max(call.tool_calls, 0))
        if call.outcome in WENT_WELL:
            self._durations.labels(*labels).observe(call.duration_ms / 1000)
            if call.first_token_ms is not None:
                self._first.labels(*labels).observe(call.first_token_ms / 1000)

    def settled(self, call: ModelCall) -> None:
        """Rows are nothing to count."""

    def _labels(self, call: ModelCall) -> tuple[str, str]:
        pair = (call.provider, call.model.rpartition("@")[0] or call.model)
        # Kept once it was listed: its labels are never dropped, and to list all models takes longer than all else here.
        if pair not in self._own and pair in self._listed():
            self._own.add(pair)
        return pair if pair in self._own else (OTHER, OTHER)
