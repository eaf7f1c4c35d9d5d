"""The processes around a server whose model calls are measured: an upstream, a load client, a bare pass-through."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from bench.harness import ROOT, free_port, pinned

PEERS = ROOT.parent / "shared" / "peers"
SERVER_CORE = 1
PEER_CORE = 0


def compiled() -> dict[str, str]:
    """The environment with compiled bytecode, as servers run; without it imports are measured, not work."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


@contextmanager
def _process(command: list[str], url: str, *, core: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process on `core`, once something answers at `url`."""
    process = subprocess.Popen([*pinned(core), *command], cwd=ROOT, env=compiled())
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                httpx.get(url, trust_env=False)
                break
            except httpx.TransportError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[1]} does not answer at {url}") from error
                time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(10)


class Upstream:
    """The mock provider; `pace` sets how it speaks from now on."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def pace(self, *, first_ms: float = 50, gap_ms: float = 40, tokens: int = 200) -> None:
        body = {"ttft_ms": first_ms, "gap_ms": gap_ms, "tokens": tokens}
        httpx.post(f"{self.url}/control", json=body, trust_env=False).raise_for_status()


@contextmanager
def upstream() -> Iterator[Upstream]:
    """The peers' upstream in a process of its own."""
    made = Upstream(free_port())
    port = made.url.rpartition(":")[2]
    command = [sys.executable, str(PEERS / "mock_upstream.py"), "--port", port]
    with _process(command, f"{made.url}/health", core=PEER_CORE):
        yield made


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Who is loaded: the chat endpoint, its key, the model to name, and the process that is measured, if any."""

    url: str
    key: str = ""
    model: str = "mock"
    pid: int | None = None


@contextmanager
def passthrough(behind: Upstream) -> Iterator[Target]:
    """Quart on uvloop that hands bytes on as they come: what any server here pays at least."""
    port = free_port()
    command = [sys.executable, "-m", "bench.passthrough", str(port), f"{behind.url}/v1"]
    with _process(command, f"http://127.0.0.1:{port}/health", core=SERVER_CORE) as process:
        yield Target(url=f"http://127.0.0.1:{port}/v1/chat/completions", pid=process.pid)


def load(target: Target, *, streams: int, tokens: int = 200, ramp_s: float = 0.5, rounds: int = 1) -> dict[str, Any]:
    """What the peers' client saw: `rounds` calls on each of `streams` connections, opened within `ramp_s`.

    The client counts marks in the text, which our last chunk repeats as a whole; `us_token` and `tokens_s` go by the
    tokens that the upstream sent.

    Raises:
        RuntimeError: a stream failed or was short.
    """
    command = [sys.executable, str(PEERS / "load.py"), "--url", target.url, "--model", target.model]
    command += ["--key", target.key, "-c", str(streams), "-r", str(rounds), "--ramp", str(ramp_s)]
    command += ["--expect", str(tokens)] + (["--pid", str(target.pid)] if target.pid else [])
    done = subprocess.run(
        [*pinned(PEER_CORE), *command], env=compiled(), capture_output=True, text=True, check=True, timeout=600
    )
    seen: dict[str, Any] = json.loads(done.stdout)
    if seen["errors"]:
        raise RuntimeError(f"{seen['errors']} of {streams * rounds} streams failed: {seen['error']}")
    sent = streams * rounds * tokens
    return seen | {"us_token": seen["cpu_s"] / sent * 1e6, "tokens_s": sent / seen["wall"]}
