"""A real `parley serve` process for tests, and the `parley` command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from rag.core.provider_keys import VARIABLES

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"


def environment() -> dict[str, str]:
    providers = {name for variable in VARIABLES for name in (variable.name, *variable.also)}
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PARLEY_") and k not in providers}
    return kept | {"COLUMNS": "200", "NO_COLOR": "1"}


def parley(
    *arguments: str | Path, timeout: float = 90, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "api.cli", *map(str, arguments)],
        cwd=ROOT,
        env=environment() | (env or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class Serving:
    """A `parley serve` process, ready."""

    def __init__(self, data_dir: Path, *options: str, env: dict[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self.env = env
        self.process = subprocess.Popen(
            [sys.executable, "-m", "api.cli", "serve", "--port", "0", "--data-dir", str(data_dir), *options],
            cwd=ROOT,
            env=environment() | (env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        deadline = time.monotonic() + 60
        while not self._announced():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def _announced(self) -> bool:
        """Whether the folder names this process; a killed one leaves its note behind."""
        note = self.data_dir / "server.json"
        return note.exists() and json.loads(note.read_text()).get("pid") == self.process.pid

    def stop(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=40)
        return self.process.returncode, output

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.communicate(timeout=60)

    @property
    def url(self) -> str:
        return str(json.loads((self.data_dir / "server.json").read_text())["url"])

    @property
    def key(self) -> str:
        return (self.data_dir / "key").read_text().strip()

    def sign_in_link(self) -> str:
        """The link that was printed at the start. Once: it is read from the process."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("Sign in here:"):
                return line.split()[-1]
        raise AssertionError("the server printed no sign-in link")

    def client(self) -> httpx.Client:
        """A client of this server, which is warm when this returns."""
        deadline = time.monotonic() + 60
        while (reply := httpx.get(f"{self.url}/readyz", trust_env=False)).status_code != 200:
            assert time.monotonic() < deadline, reply.text
            time.sleep(0.05)
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)


def call(client: httpx.Client, method: str, path: str, **arguments: Any) -> Any:
    """One contract call that must succeed; the `data` of its reply."""
    reply = client.request(method, path, **arguments).json()
    assert reply["code"] == 0, reply
    return reply.get("data")


def wait_ended(client: httpx.Client, dataset: str, *, timeout_s: float = 120) -> list[dict[str, Any]]:
    """All documents of the dataset, once none is running."""
    deadline = time.monotonic() + timeout_s
    path = f"/api/v1/datasets/{dataset}/documents"
    while call(client, "GET", path, params={"run": "RUNNING", "page_size": 1})["total"]:
        assert time.monotonic() < deadline, call(client, "GET", path, params={"run": "RUNNING", "page_size": 5})
        time.sleep(0.2)
    return list(call(client, "GET", path, params={"page_size": 1000})["docs"])
