"""What a model call costs on its way through the whole server, next to a bare pass-through.

A chat without datasets answers over `/v1/chat/completions`: authentication, rows, prompt, event log, usage row, no
retrieval. The server has one core, upstream and load client the other. CPU time is that of the server's processes.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.harness import Row, Server, call, median, publish
from bench.model_peers import SERVER_CORE, Target, Upstream, load, passthrough, upstream
from bench.model_turns import memory_rows, tool_rows

RUNS = 3
STREAMS = 200
MOST_US = 110
LEAST_TOKENS_S = 10_000
FIRST_TOKENS = 50
"""Two seconds of a stream, of which all begin within half a one."""
FIRST_TOKEN_MS = {1: 5, 16: 5, 64: 10, 200: 100}


@contextmanager
def server(behind: Upstream) -> Iterator[Target]:
    """A warm server in front of `behind`, with a chat that has no datasets."""
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as folder:
        environ = {"OPENAI_API_KEY": "sk-bench", "OPENAI_BASE_URL": f"{behind.url}/v1", "PYTHONDONTWRITEBYTECODE": ""}
        running = Server(Path(folder) / "data", environ, core=SERVER_CORE)
        try:
            running.wait("/readyz")
            with running.client() as client:
                call(client, "POST", "/api/v1/chats", json={"name": "bench"})
            target = Target(
                url=f"{running.url}/v1/chat/completions",
                key=running.key,
                model="chat:bench",
                pid=running.process.pid,
            )
            load(target, streams=8)  # connections, first imports, caches
            yield target
        finally:
            running.stop()


def several(measure: Callable[[], dict[str, Any]], figure: str) -> tuple[float, list[float]]:
    """The median of `figure` over some runs, and all of them."""
    values = [float(measure()[figure]) for _ in range(RUNS)]
    return median(values), values


def paced(target: Target, behind: Upstream) -> dict[str, Any]:
    behind.pace()
    return load(target, streams=STREAMS)


def saturated(target: Target, behind: Upstream) -> dict[str, Any]:
    behind.pace(first_ms=0, gap_ms=0)
    return load(target, streams=STREAMS, rounds=3)


def cpu_rows(ours: Target, bare: Target, behind: Upstream) -> list[Row]:
    """CPU per token at 25 tokens/s a stream."""
    mine, all_mine = several(lambda: paced(ours, behind), "us_token")
    floor, all_floor = several(lambda: paced(bare, behind), "us_token")
    what = f"CPU per streamed token, {STREAMS} streams of 200 tokens at 25 tokens/s"
    return [
        Row(what, f"{mine:.0f} µs", f"<= {MOST_US} µs", mine <= MOST_US, {"runs": all_mine}),
        Row("the same, bare pass-through", f"{floor:.0f} µs", "64 to 74 µs", None, {"runs": all_floor}),
    ]


def throughput_rows(ours: Target, bare: Target, behind: Upstream) -> list[Row]:
    mine, all_mine = several(lambda: saturated(ours, behind), "tokens_s")
    floor, all_floor = several(lambda: saturated(bare, behind), "tokens_s")
    return [
        Row(
            f"tokens/s, {STREAMS} streams as fast as it can",
            f"{mine:,.0f}",
            f">= {LEAST_TOKENS_S:,}",
            mine >= LEAST_TOKENS_S,
            {"runs": all_mine},
        ),
        Row("the same, bare pass-through", f"{floor:,.0f}", "", None, {"runs": all_floor}),
    ]


def first_token_rows(ours: Target, behind: Upstream) -> list[Row]:
    """How much later the first token comes than from the upstream itself, asked in turn."""
    behind.pace(tokens=FIRST_TOKENS)
    direct = Target(url=f"{behind.url}/v1/chat/completions")
    rows = []
    for streams, most in FIRST_TOKEN_MS.items():
        over = []
        for _ in range(RUNS):
            alone = load(direct, streams=streams, tokens=FIRST_TOKENS)
            through = load(ours, streams=streams, tokens=FIRST_TOKENS)
            over.append(through["ttft_p50"] - alone["ttft_p50"])
        what = f"first token over the upstream's, {streams} streams at 25 tokens/s, p50"
        rows.append(Row(what, f"{median(over):.1f} ms", f"<= {most} ms", median(over) <= most, {"runs": over}))
    return rows


def main() -> bool:
    with upstream() as behind, server(behind) as ours, passthrough(behind) as bare:
        rows = cpu_rows(ours, bare, behind)
        rows += throughput_rows(ours, bare, behind)
        rows += first_token_rows(ours, behind)
        rows += memory_rows(ours, behind)
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as folder:
        rows += tool_rows(Path(folder) / "data")
    return publish("models", rows)


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
