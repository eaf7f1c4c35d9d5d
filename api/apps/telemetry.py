"""What the web process tells Prometheus: requests by route, model calls, lag of the event loop, queue depth, memory."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from api.apps.context import WebState
from api.apps.model_metrics import ModelMetrics
from rag.core.blocking import Lane, run_in
from rag.core.errors import StoreUnavailable

_LAG_TICK_S = 0.05
_LAG_WINDOW_S = 10.0
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Telemetry:
    """The metrics of one app; no module globals, so that many apps can live in one process."""

    def __init__(self, state: WebState) -> None:
        self._state = state
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "parley_http_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._durations = Histogram(
            "parley_http_request_seconds",
            "Seconds until the reply's first byte.",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._lag = Gauge(
            "parley_loop_lag_seconds",
            f"Longest hold of the event loop in the last {_LAG_WINDOW_S:.0f} seconds.",
            registry=self._registry,
        )
        self._queued = Gauge("parley_ingest_queued", "Documents waiting to be ingested.", registry=self._registry)
        self._running = Gauge("parley_ingest_running", "Documents being ingested.", registry=self._registry)
        self._ready = Gauge("parley_ready", "1 when everything is loaded.", registry=self._registry)
        ProcessCollector(registry=self._registry)
        self.model_calls = ModelMetrics(self._registry, self._listed)

    def _listed(self) -> frozenset[tuple[str, str]]:
        return self._state.services.models.own_models() if self._state.services is not None else frozenset()

    def answered(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Count one reply. `route` is the rule, never the path: ids would be labels without end."""
        self._requests.labels(method, route, str(status)).inc()
        self._durations.labels(method, route).observe(seconds)

    async def watch_loop(self) -> None:
        """Measure how late a timer fires, until cancelled."""
        worst = 0.0
        window_end = time.monotonic() + _LAG_WINDOW_S
        while True:
            before = time.monotonic()
            await asyncio.sleep(_LAG_TICK_S)
            now = time.monotonic()
            worst = max(worst, now - before - _LAG_TICK_S)
            self._state.loop_lag_s = max(self._state.loop_lag_s, worst)
            if now >= window_end:
                self._state.loop_lag_s, worst, window_end = worst, 0.0, now + _LAG_WINDOW_S

    async def render(self, depth: Callable[[], Awaitable[tuple[int, int]]]) -> bytes:
        """The text format. `depth` gives (queued, running) tasks; nobody knows them while the rows are away."""
        try:
            depths: tuple[float, float] = await depth()
        except StoreUnavailable:
            depths = (math.nan, math.nan)
        self._queued.set(depths[0])
        self._running.set(depths[1])
        self._lag.set(self._state.loop_lag_s)
        self._ready.set(int(self._state.ready))
        # In a thread: after each of some hundred routes was called once, writing them all takes 50 ms.
        return await run_in(Lane.TEXT, generate_latest, self._registry)
