"""What the benchmarks share: a real server process, process-tree figures, quantiles, a table and a JSON file."""

import http.client
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
RESULTS = ROOT / "bench" / "results"


def quantile(values: Sequence[float], share: float) -> float:
    """The `share` quantile (0 to 1) by linear interpolation."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * share
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


@dataclass
class Row:
    """One figure. `reached` is None where there is nothing to reach."""

    what: str
    figure: str
    reach: str = ""
    reached: bool | None = None
    values: dict[str, Any] = field(default_factory=dict)


def publish(name: str, rows: Sequence[Row]) -> bool:
    """Print the table and write bench/results/<name>.json; False if a figure was not reached."""
    table = Table("what", "measured", "reach", "", title=name)
    for row in rows:
        mark = {True: "yes", False: "NO", None: ""}[row.reached]
        table.add_row(row.what, row.figure, row.reach, mark)
    Console(width=140).print(table)
    RESULTS.mkdir(parents=True, exist_ok=True)
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "load_before": os.getloadavg()[0]}
    body = {"machine": machine, "rows": [vars(row) for row in rows]}
    (RESULTS / f"{name}.json").write_text(json.dumps(body, indent=1))
    return all(row.reached is not False for row in rows)


class TreeMeter:
    """Samples a process and all below it every 0.1 s: peak memory (sum of resident sets, and of proportional sets)."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.peak_rss = 0
        self.peak_pss = 0

    def __enter__(self) -> "TreeMeter":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            rss = pss = 0
            for process in tree(self._process):
                try:
                    info = process.memory_full_info()
                except psutil.Error:
                    continue
                rss += info.rss
                pss += info.pss
            self.peak_rss = max(self.peak_rss, rss)
            self.peak_pss = max(self.peak_pss, pss)


def tree(process: psutil.Process) -> list[psutil.Process]:
    """The process and all below it that still live."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of the living tree and its ended, waited-for children."""
    total = 0.0
    for process in tree(psutil.Process(pid)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def free_port() -> int:
    """A loopback port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pinned(core: int | None) -> list[str]:
    """What to put before a command so that it runs on that processor alone."""
    return [] if core is None else ["taskset", "-c", str(core)]


class Server:
    """A `parley serve` process of its own on a free port; `core` pins it and all it starts to that processor."""

    def __init__(self, data_dir: Path, environ: dict[str, str] | None = None, *, core: int | None = None) -> None:
        self.data_dir = data_dir
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        log = (data_dir.parent / f"{data_dir.name}.log").open("ab")
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [*pinned(core), sys.executable, "-m", "api.cli", "serve", "--port", str(port), "--data-dir", str(data_dir)],
            cwd=ROOT,
            env=os.environ | (environ or {}),
            stdout=subprocess.DEVNULL,
            stderr=log,
        )

    @property
    def key(self) -> str:
        return (self.data_dir / "key").read_text().strip()

    def wait(self, path: str, timeout_s: float = 60.0) -> float:
        """Seconds from the process's start to the first 200 of `path`, asked every 10 ms over a bare connection."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        while time.monotonic() - self.started < timeout_s:
            if self.process.poll() is not None:
                raise RuntimeError(f"serve ended with {self.process.returncode}; see {self.data_dir}.log")
            connection = http.client.HTTPConnection(host, int(port), timeout=timeout_s)
            try:
                connection.request("GET", path)
                if connection.getresponse().status == 200:
                    return time.monotonic() - self.started
            except OSError:
                pass
            finally:
                connection.close()
            time.sleep(0.01)
        raise RuntimeError(f"{path} did not answer 200 within {timeout_s} s")

    def client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=600, trust_env=False
        )

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def server(data_dir: Path | None = None) -> Iterator[Server]:
    """A warm server on `data_dir`, or on a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as folder:
        running = Server(data_dir or Path(folder) / "data")
        try:
            running.wait("/readyz")
            yield running
        finally:
            running.stop()


def call(client: httpx.Client, method: str, path: str, **arguments: Any) -> Any:
    """One contract call; the `data` of its reply."""
    reply = client.request(method, path, **arguments).json()
    if reply["code"] != 0:
        raise RuntimeError(f"{method} {path}: {reply['message']}")
    return reply.get("data")


def ingest(
    client: httpx.Client, dataset_id: str, files: Sequence[tuple[str, bytes]], *, per_request: int = 50
) -> float:
    """Upload, parse, wait until all can be searched; seconds from the first upload on."""
    began = time.monotonic()
    ids: list[str] = []
    for start in range(0, len(files), per_request):
        parts = [("file", file) for file in files[start : start + per_request]]
        uploaded = call(client, "POST", f"/api/v1/datasets/{dataset_id}/documents", files=parts)
        batch = [item["id"] for item in uploaded]
        call(client, "POST", f"/api/v1/datasets/{dataset_id}/chunks", json={"document_ids": batch})
        ids += batch
    wait_done(client, dataset_id, ids)
    return time.monotonic() - began


def wait_done(client: httpx.Client, dataset_id: str, ids: Sequence[str]) -> None:
    """Return once each document is DONE."""
    path = f"/api/v1/datasets/{dataset_id}/documents"
    while True:
        listed = call(client, "GET", path, params={"page_size": 1, "run": "RUNNING"})
        if listed["total"] == 0:
            break
        time.sleep(0.1 if listed["total"] < 100 else 1.0)
    done = call(client, "GET", path, params={"page_size": 1, "run": "DONE"})["total"]
    if done != len(ids):
        failed = call(client, "GET", path, params={"page_size": 3, "run": "FAIL"})
        raise RuntimeError(f"{done} of {len(ids)} done; {[d['progress_msg'] for d in failed['docs']]}")
