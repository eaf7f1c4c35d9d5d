"""From `parley serve` to the first answers, and the memory of the web process then."""

import tempfile
from pathlib import Path

import psutil

from bench.harness import Row, Server, median, publish

RUNS = 5


def main() -> bool:
    healthz: list[float] = []
    readyz: list[float] = []
    rss_then: list[float] = []
    rss_warm: list[float] = []
    worker_warm: list[float] = []
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as folder:
        for run in range(RUNS + 1):
            server = Server(Path(folder) / "data")
            try:
                seconds = server.wait("/healthz")
                web = psutil.Process(server.process.pid)
                resident = web.memory_info().rss / 2**20
                warm = server.wait("/readyz")
                if run:  # the first run makes the folder and fills the file cache
                    healthz.append(seconds)
                    rss_then.append(resident)
                    readyz.append(warm)
                    rss_warm.append(web.memory_info().rss / 2**20)
                    worker_warm.append(sum(p.memory_info().rss for p in web.children(recursive=True)) / 2**20)
            finally:
                server.stop()
    return publish(
        "startup",
        [
            Row("start to first 200 of /healthz", f"{median(healthz):.2f} s", "< 1.5 s", median(healthz) < 1.5),
            Row("web process resident then", f"{median(rss_then):.0f} MB", "< 120 MB", median(rss_then) < 120),
            Row("start to /readyz", f"{median(readyz):.2f} s", "< 8 s", median(readyz) < 8),
            Row("web process resident after warm-up", f"{median(rss_warm):.0f} MB", "reported"),
            Row("worker and its children after warm-up", f"{median(worker_warm):.0f} MB", "reported"),
        ],
    )


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
