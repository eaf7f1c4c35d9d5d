"""Starts `mcp_server` in a process of its own, without loading what it needs."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def running_server() -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """A server of one's own on a free port: its address and its process."""
    command = [sys.executable, "-m", "tests.servers.mcp_server"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp", process
    finally:
        process.kill()
        process.communicate()
