"""The servers of a run whose tests are shared out over worker processes: each is started once, for all workers.

The process that hands out the tests owns them, so that they live as long as the run: a worker may run out of tests
long before the others do. They start at the first wish of any worker.
"""

import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

from tests.servers.elastic import Elasticsearch
from tests.servers.fetch import Missing
from tests.servers.mariadb import Mariadb

Make = Callable[[], Elasticsearch | Mariadb]
MAKERS: Mapping[str, Make] = {"elasticsearch": Elasticsearch, "mariadb": Mariadb}


class _Kept:
    """One server, or why there is none."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._server: Elasticsearch | Mariadb | None = None
        self._closed = False
        self._missing = ""

    def told(self) -> tuple[str, str]:
        """Its address and, where it cannot be had, the reason instead. Starts it at the first call."""
        with self._lock:
            if self._server is None and not self._missing:
                self._start()
            return ("" if self._server is None else self._server.url, self._missing)

    def _start(self) -> None:
        if self._closed:
            self._missing = "the run has ended"
            return
        try:
            server = self._make()
        except Missing as missing:
            self._missing = str(missing)
            return
        try:
            server.start()
        except Missing as missing:
            self._missing = str(missing)
            server.close()
            return
        self._server = server

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._server is not None:
                self._server.close()
                self._server = None


class Desk:
    """Tells workers where the servers are: on a socket that only the user of the tests can open.

    Args:
        makers: The servers by name.
    """

    def __init__(self, makers: Mapping[str, Make] = MAKERS) -> None:
        self._kept = {name: _Kept(make) for name, make in makers.items()}
        self._folder = Path(tempfile.mkdtemp(prefix="parley-desk-"))
        self.address = str(self._folder / "socket")
        self._listener = Listener(self.address, "AF_UNIX", backlog=16)
        self._closing = False
        self._thread = threading.Thread(target=self._answer_all, name="desk", daemon=True)
        self._thread.start()

    def _answer_all(self) -> None:
        while True:
            asker = self._listener.accept()
            if self._closing:
                asker.close()
                return
            threading.Thread(target=self._answer, args=(asker,), name="desk-answer", daemon=True).start()

    def _answer(self, asker: Connection) -> None:
        """Tell one worker one address; the worker may be gone when a server has started."""
        with asker, suppress(EOFError, OSError):
            name = asker.recv()
            kept = self._kept.get(name)
            asker.send(kept.told() if kept else ("", f"no server is called {name!r}"))

    def close(self) -> None:
        """End the servers."""
        self._closing = True
        Client(self.address, "AF_UNIX").close()
        self._thread.join()
        self._listener.close()
        for kept in self._kept.values():
            kept.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def asked(address: str, name: str) -> str:
    """The address of the server `name`, from the desk at `address`.

    Raises:
        Missing: it cannot be had.
    """
    with Client(address, "AF_UNIX") as desk:
        desk.send(name)
        url, missing = desk.recv()
    if missing:
        raise Missing(missing)
    return str(url)
