"""The fault-injecting upstream as a process of its own, so that it takes no time of the loop that is tested."""

import argparse
import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from rag.testing.upstream_plan import Plan, Seen


class UpstreamProcess:
    """`with UpstreamProcess() as upstream:` starts it on a free port and ends it. All methods block for milliseconds.

    `url` ends with `/v1`; `root` does not.
    """

    def __init__(self, *, port: int = 0) -> None:
        self._port = port
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    @property
    def root(self) -> str:
        return self.url.removesuffix("/v1")

    def __enter__(self) -> "UpstreamProcess":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            RuntimeError: it ended instead; its errors are on this process's error stream.
        """
        command = [sys.executable, "-m", "rag.testing.upstream", "--port", str(self._port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            self.stop()
            raise RuntimeError("The upstream did not start.")

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        process.communicate(timeout=10)

    def will(self, *plans: Plan) -> None:
        """Set what the next requests get, the last plan for ever."""
        self._call("POST", "/control", {"plans": [plan.as_json() for plan in plans]})

    def will_for(self, model: str, *plans: Plan) -> None:
        """Set what the next requests for `model` get."""
        self._call("POST", "/control", {"by_model": {model: [plan.as_json() for plan in plans]}})

    def serves(self, models: Sequence[str]) -> None:
        """Set what `/v1/models` lists."""
        self._call("POST", "/control", {"models": list(models)})

    def clear(self) -> None:
        """Forget the requests so far."""
        self._call("POST", "/control", {"clear": True})

    def seen(self, start: int = 0) -> list[Seen]:
        """The requests so far, in order of arrival, without the first `start`."""
        return [Seen(**each) for each in self._call("GET", f"/seen?start={start}")["requests"]]

    @property
    def closed_early(self) -> int:
        """How many replies the client left."""
        return int(self._call("GET", f"/seen?start={1 << 30}")["closed_early"])

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=10)
        try:
            connection.request(method, path, body=None if body is None else json.dumps(body))
            response = connection.getresponse()
            reply: dict[str, Any] = json.loads(response.read())
            if response.status != 200:
                raise ValueError(reply.get("error", "refused"))
            return reply
        finally:
            connection.close()


def serve_forever() -> None:
    """The command's work: serve until SIGTERM or SIGINT, after printing the address."""
    parser = argparse.ArgumentParser(prog="python -m rag.testing.upstream", description="A provider that fails.")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    asyncio.run(_serve(parser.parse_args().port))


async def _serve(port: int) -> None:
    # Imported here: who steers the process needs no server.
    from rag.testing.upstream import FaultyUpstream

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with FaultyUpstream().serving(port) as upstream:
        sys.stdout.write(f"{upstream.url}\n")
        sys.stdout.flush()
        await ended.wait()
