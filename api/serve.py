"""The server process: one per data folder. Binds, serves, watches its worker, and stops in order.

Order of a stop: no new sign of readiness, running answers end and are saved, open replies are cancelled, the port
closes, the worker ends, backends close. A watchdog ends the process if any of it hangs.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import uvloop
from hypercorn.asyncio.run import worker_serve
from hypercorn.config import Config, Sockets
from hypercorn.utils import wrap_app

from api.app import create_app, opened_services
from api.apps.context import WebState
from api.db.data_folder import DataFolder, ServerInfo
from api.db.services.container import Services
from api.db.services.token_service import secret_hash
from api.utils.child_process import WatchedChild
from rag.core import blocking, logs
from rag.core.blocking import Lane, run_in
from rag.core.clock import SystemClock
from rag.core.errors import Conflict, InvalidInput, RagError
from rag.core.ids import new_secret
from rag.core.settings import Settings
from rag.queue.embedded import ServerQueue

_BACKLOG = 1024
_REPLIES_END_S = 1.0
_WORKER_END_S = 8.0
_WATCHDOG_EXTRA_S = 15.0
"""More than `_REPLIES_END_S` twice and `_WORKER_END_S`: an orderly stop ends before the watchdog does."""
_EXIT_ERROR = 1
_EXIT_HUNG = 70
log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """Where the server is. `link` signs a browser in; `key_path` holds the first API key, if it is still there."""

    url: str
    link: str
    key_path: Path


class OpenReplies:
    """The ASGI app with a list of the requests in it, so that a stop can end them before the database closes."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.current_task()
        if scope["type"] == "websocket":
            await _refuse_websocket(send)
            return
        if scope["type"] != "http" or task is None:
            await self._app(scope, receive, send)
            return
        self._tasks.add(task)
        try:
            await self._app(scope, receive, send)
        finally:
            self._tasks.discard(task)

    async def end(self, grace_s: float) -> None:
        """Wait for open replies, then cancel what is left; their generators clean up before this returns."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        left = list(self._tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=grace_s)


async def _refuse_websocket(send: Any) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    content = b'{"code":404,"message":"No WebSocket is served here."}\n'
    await send({"type": "websocket.http.response.start", "status": 404, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": content})


def run_serve(settings: Settings) -> int:
    """`parley serve`: run until a signal. Returns the exit code; errors are one line on stderr."""
    logs.configure(settings.log)

    def announce(started: Started) -> None:
        print(f"Parley listens on  {started.url}")
        print(f"Sign in here:      {started.link}")
        if started.key_path.exists():
            print(f"First API key in:  {started.key_path}")
        sys.stdout.flush()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings, on_started=announce))
    except RagError as error:
        print(f"parley: {error}", file=sys.stderr)
        return _EXIT_ERROR
    return 0


async def serve(settings: Settings, *, on_started: Callable[[Started], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        InvalidInput: the address is not allowed or unknown, or the data folder cannot be used.
        Conflict: the port is in use, or another server uses the folder.
        StoreUnavailable: the disk is full or the rows cannot be opened.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with _serving(settings, stop, noted=True) as started:
            on_started(started)
            await stop.wait()
            _start_watchdog(settings.server.shutdown_s + _WATCHDOG_EXTRA_S)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        blocking.shutdown()


@asynccontextmanager
async def running_server(settings: Settings) -> AsyncIterator[str]:
    """A server for one command, on a free loopback port of this process; yields its base URL.

    Raises:
        RagError: as `serve`.
    """
    private = settings.server.model_copy(update={"host": "127.0.0.1", "port": 0, "public_url": ""})
    async with _serving(settings.model_copy(update={"server": private}), asyncio.Event(), noted=False) as started:
        yield started.url


@asynccontextmanager
async def _serving(settings: Settings, stop: asyncio.Event, *, noted: bool) -> AsyncIterator[Started]:
    """A server that answers; ends in order when the block ends or the server fails.

    Args:
        noted: Whether it stays: `DATA/server.json` tells the commands of it, and it waits for servers that are down.
    """
    loopback = _check_address(settings)
    folder = DataFolder(settings.data_dir)
    async with AsyncExitStack() as stack:
        await run_in(Lane.FILES, folder.prepare)
        lock = await run_in(Lane.FILES, folder.lock_serve)
        stack.callback(lock.release)
        listener = _bind(settings)
        stack.callback(listener.close)
        queue = ServerQueue()
        services = await stack.enter_async_context(opened_services(settings, SystemClock(), queue, patient=noted))
        token = new_secret()
        state = WebState(port=listener.getsockname()[1], loopback=loopback, link_hash=secret_hash(token))
        url = _url(settings, state.port)
        worker = _embedded_worker(settings, queue)
        # Entered before what answers, so that it ends after it: a busy worker must not hold up running answers.
        stack.push_async_callback(worker.stop, _WORKER_END_S)
        await stack.enter_async_context(_answering(settings, services, state, listener, stop))
        if settings.ingest.worker == "embedded":
            worker.start()
        if noted:
            folder.write_server(ServerInfo(pid=os.getpid(), url=f"http://{_connect_host(settings)}:{state.port}"))
            stack.callback(folder.remove_server)
        yield Started(url=url, link=f"{url}/?token={token}", key_path=folder.key_path)


@asynccontextmanager
async def _answering(
    settings: Settings, services: Services, state: WebState, listener: socket.socket, stop: asyncio.Event
) -> AsyncIterator[None]:
    """Hypercorn on `listener`, up when the block begins; running answers end before it goes."""
    app = create_app(settings, services, state)
    replies = OpenReplies(app)
    up = asyncio.Event()
    ending = asyncio.Event()

    @app.before_serving
    async def started() -> None:
        up.set()

    async def until_ended() -> None:
        await ending.wait()
        await services.conversations.close(settings.server.shutdown_s)
        await replies.end(_REPLIES_END_S)

    server = asyncio.ensure_future(
        worker_serve(
            wrap_app(replies, 0, "asgi"), _hypercorn(), sockets=_sockets(listener), shutdown_trigger=until_ended
        )
    )

    def ended(_: object) -> None:
        up.set()
        stop.set()

    server.add_done_callback(ended)
    await up.wait()
    try:
        if server.done():
            await server
        yield
    finally:
        state.missing.add("stopping")
        state.stopping.set()
        ending.set()
        await server


def _embedded_worker(settings: Settings, queue: ServerQueue) -> WatchedChild:
    command = [sys.executable, "-m", "api.cli", "worker", "--embedded", "--data-dir", str(settings.data_dir.absolute())]
    return WatchedChild(command, name="worker", attach=queue.attach)


def _hypercorn() -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    config.include_server_header = False
    config.graceful_timeout = _REPLIES_END_S
    config.keep_alive_timeout = 75.0
    return config


def _sockets(listener: socket.socket) -> Sockets:
    return Sockets(secure_sockets=[], insecure_sockets=[listener], quic_sockets=[])


def _bind(settings: Settings) -> socket.socket:
    """A listening socket. Listening at once, not only bound: two programs can bind one port, only one listens."""
    host, port = settings.server.host, settings.server.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise InvalidInput(f"The address {host!r} is unknown: {error.strerror}. Choose another with --host.") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise Conflict(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another port with --port, or stop the program "
            "that uses it."
        ) from error
    return listener


def _check_address(settings: Settings) -> bool:
    """Whether only this machine can connect.

    Raises:
        InvalidInput: others could, and nobody said that keys and passwords are gate enough.
    """
    loopback = _is_loopback(settings.server.host)
    if not loopback and not settings.auth.allow_non_loopback:
        raise InvalidInput(
            f"The address {settings.server.host!r} can be reached from other machines. Set "
            "PARLEY_AUTH__ALLOW_NON_LOOPBACK=true to serve there with keys and passwords as the only gate, or use "
            "--host 127.0.0.1."
        )
    return loopback


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _connect_host(settings: Settings) -> str:
    """The host by which this machine reaches the server."""
    host = settings.server.host
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _url(settings: Settings, port: int) -> str:
    return settings.server.public_url.rstrip("/") or f"http://{_connect_host(settings)}:{port}"


def _start_watchdog(after_s: float) -> None:
    """End the process if a stop takes longer than it may. The worker follows by the end of its input."""

    def give_up() -> None:
        with contextlib.suppress(OSError):
            os.write(2, b"parley: the stop took too long; ended without waiting for the rest.\n")
        os._exit(_EXIT_HUNG)

    timer = threading.Timer(after_s, give_up)
    timer.daemon = True
    timer.start()
