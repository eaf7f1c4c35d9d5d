"""The models of a loop, called from threads: plain and streaming, cancelled, late, failing, and from wrong places."""

import asyncio
import contextvars
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import aiohttp
import numpy as np
import pytest

from api.utils.api_utils import SyncLLMWrapper
from rag.core.errors import ModelRefused, ModelTimeout, WrongThread
from rag.core.owner_loop import OwnerLoop, background_loop, stop_background_loop
from rag.core.types import Picture, TokenUsage, Turn
from rag.llm.base import ChatRequest, Delta, Described, Embedded, Reranked, SyncBundle, Transcribed

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="none")


def asking(text: str) -> ChatRequest:
    return ChatRequest(turns=(Turn(role="user", content=text),))


class Echo:
    """AsyncBundle: says what it was asked, word by word."""

    name = "echo@Testing"

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.fail: BaseException | None = None
        self.wait_s = 0.0
        self.sent = 0
        self.closed = threading.Event()
        self.cancelled = threading.Event()

    async def chat(self, request: ChatRequest) -> tuple[str, TokenUsage]:
        self.threads.add(threading.get_ident())
        try:
            await asyncio.sleep(self.wait_s)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.fail is not None:
            raise self.fail
        return f"{VARIABLE.get()}: {request.turns[0].content}", TokenUsage(completion_tokens=1)

    async def chat_streamly(self, request: ChatRequest) -> AsyncIterator[Delta]:
        try:
            for word in request.turns[0].content.split():
                self.threads.add(threading.get_ident())
                yield Delta(text=word)
                self.sent += 1
                await asyncio.sleep(self.wait_s)
            if self.fail is not None:
                raise self.fail
        finally:
            await asyncio.sleep(0)
            self.closed.set()

    async def encode(self, texts: Sequence[str]) -> Embedded:
        return Embedded(vectors=np.ones((len(texts), 2), dtype=np.float32), tokens=len(texts))

    async def encode_queries(self, texts: Sequence[str]) -> Embedded:
        return Embedded(vectors=np.zeros((len(texts), 2), dtype=np.float32), tokens=len(texts))

    async def similarity(self, question: str, passages: Sequence[str]) -> Reranked:
        return Reranked(scores=np.ones(len(passages), dtype=np.float32), tokens=len(question))

    async def describe(self, picture: Picture, prompt: str = "") -> Described:
        return Described(text=f"{picture.media_type} {prompt}", usage=TokenUsage())

    async def transcribe(self, audio: bytes, *, file_name: str) -> Transcribed:
        return Transcribed(text=f"{len(audio)} {file_name}")

    async def tts(self, text: str) -> AsyncIterator[bytes]:
        for letter in text:
            yield letter.encode()


@pytest.fixture
def background() -> Iterator[None]:
    """The background loop, stopped after the test."""
    stop_background_loop()
    yield
    stop_background_loop()


async def test_all_methods_from_a_thread_run_on_the_loop_that_was_captured() -> None:
    echo = Echo()
    wrapper: SyncBundle = SyncLLMWrapper(echo)

    def work() -> list[Any]:
        VARIABLE.set("from the thread")
        return [
            wrapper.name,
            wrapper.chat(asking("hello"))[0],
            [delta.text for delta in wrapper.chat_streamly(asking("a b c"))],
            wrapper.encode(["x", "y"]).vectors.shape,
            wrapper.encode_queries(["x"]).vectors.sum(),
            wrapper.similarity("q", ["p"] * 3).scores.shape,
            wrapper.describe(Picture(media_type="image/png", data=b"x"), "what").text,
            wrapper.transcribe(b"123", file_name="a.mp3").text,
            b"".join(wrapper.tts("say")),
        ]

    assert await asyncio.to_thread(work) == [
        "echo@Testing",
        "from the thread: hello",
        ["a", "b", "c"],
        (2, 2),
        0.0,
        (3,),
        "image/png what",
        "3 a.mp3",
        b"say",
    ]
    assert echo.threads == {threading.get_ident()}


async def test_fifty_threads_at_once() -> None:
    echo = Echo()
    wrapper = SyncLLMWrapper(echo)
    together = threading.Barrier(50)

    def work(thread: int) -> bool:
        together.wait(10)
        words = [f"{thread}.{number}" for number in range(40)]
        for _ in range(3):
            assert wrapper.chat(asking(f"I am {thread}"))[0] == f"none: I am {thread}"
            assert [delta.text for delta in wrapper.chat_streamly(asking(" ".join(words)))] == words
        return True

    with ThreadPoolExecutor(50) as pool:
        loop = asyncio.get_running_loop()
        assert all(await asyncio.gather(*(loop.run_in_executor(pool, work, n) for n in range(50))))
    assert echo.threads == {threading.get_ident()}


async def test_on_the_loops_own_thread_it_says_at_once_what_to_do() -> None:
    wrapper = SyncLLMWrapper(Echo())
    calls: list[Callable[[], object]] = [
        lambda: wrapper.chat(asking("x")),
        lambda: wrapper.chat_streamly(asking("x")),  # Not only when it is iterated.
        lambda: wrapper.encode(["x"]),
        lambda: wrapper.tts("x"),
    ]
    for call in calls:
        with pytest.raises(WrongThread, match=r"Await the asynchronous method here.*run_in") as caught:
            call()
        assert isinstance(caught.value, RuntimeError)


async def test_a_thread_with_another_loop_is_refused_too() -> None:
    wrapper = SyncLLMWrapper(Echo())

    async def inner() -> None:
        wrapper.encode(["x"])

    with pytest.raises(WrongThread):
        await asyncio.to_thread(asyncio.run, inner())


@pytest.mark.parametrize("error", [ModelRefused("no"), TimeoutError("mine"), KeyError("k")], ids=repr)
async def test_exceptions_cross_unchanged(error: BaseException) -> None:
    echo = Echo()
    echo.fail = error
    wrapper = SyncLLMWrapper(echo, timeout_s=5)

    def work() -> list[str]:
        with pytest.raises(type(error)) as plain:
            wrapper.chat(asking("x"))
        assert plain.value is error
        said: list[str] = []
        with pytest.raises(type(error)) as streamed:
            said.extend(delta.text for delta in wrapper.chat_streamly(asking("before it broke")))
        assert streamed.value is error
        return said

    assert await asyncio.to_thread(work) == ["before", "it", "broke"]


async def test_a_deadline_cancels_the_call_and_says_so() -> None:
    echo = Echo()
    echo.wait_s = 10
    wrapper = SyncLLMWrapper(echo).within(0.1)

    def work() -> float:
        began = time.monotonic()
        with pytest.raises(ModelTimeout, match=r"'echo@Testing' was not done within 0\.1 s"):
            wrapper.chat(asking("x"))
        assert echo.cancelled.wait(1)
        stream = wrapper.chat_streamly(asking("one two"))
        assert next(stream).text == "one"
        with pytest.raises(ModelTimeout):
            next(stream)
        assert echo.closed.is_set()
        return time.monotonic() - began

    assert await asyncio.to_thread(work) < 5


async def test_cancelling_on_the_loop_reaches_the_thread() -> None:
    echo = Echo()
    echo.fail = asyncio.CancelledError()
    wrapper = SyncLLMWrapper(echo)

    def work() -> None:
        with pytest.raises(asyncio.CancelledError):
            wrapper.chat(asking("x"))
        with pytest.raises(asyncio.CancelledError):
            list(wrapper.chat_streamly(asking("x")))

    await asyncio.to_thread(work)


async def test_leaving_a_stream_closes_it_on_the_loop() -> None:
    echo = Echo()
    echo.wait_s = 10
    wrapper = SyncLLMWrapper(echo)

    def work() -> bool:
        stream = wrapper.chat_streamly(asking("one two three"))
        assert next(stream).text == "one"
        stream.close()
        return echo.closed.is_set()  # Closed when `close` returns, not some time later.

    assert await asyncio.to_thread(work)
    assert await asyncio.to_thread(lambda: SyncLLMWrapper(echo).chat_streamly(asking("never begun")).close()) is None


async def test_a_slow_thread_holds_the_stream_back() -> None:
    echo = Echo()
    wrapper = SyncLLMWrapper(echo)
    words = [str(number) for number in range(1000)]

    def work() -> list[str]:
        stream = wrapper.chat_streamly(asking(" ".join(words)))
        first = next(stream).text
        time.sleep(0.2)
        assert echo.sent <= 70
        return [first, *(delta.text for delta in stream)]

    assert await asyncio.to_thread(work) == words


def connections_of(calls: Callable[[SyncLLMWrapper, OwnerLoop, str], None]) -> int:
    """How many connections a real server saw."""
    seen: set[tuple[str, int]] = set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            seen.add(self.client_address)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    class Pooled(Echo):
        """As adapters do, keeps a session that lives on one loop."""

        session: aiohttp.ClientSession | None = None

        async def encode(self, texts: Sequence[str]) -> Embedded:
            if self.session is None:
                self.session = aiohttp.ClientSession()
            async with self.session.get(texts[0]) as reply:
                assert await reply.read() == b"ok"
            return await super().encode(texts)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    bundle, owner = Pooled(), OwnerLoop()
    try:
        calls(SyncLLMWrapper(bundle, owner=owner), owner, f"http://127.0.0.1:{server.server_port}/")
        assert bundle.session is not None
        owner.call(bundle.session.close)
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
    return len(seen)


def test_pooled_connections_survive_many_calls_without_a_running_loop(background: None) -> None:
    def calls(wrapper: SyncLLMWrapper, owner: OwnerLoop, url: str) -> None:
        for _ in range(50):
            wrapper.encode([url])

    assert connections_of(calls) == 1


def test_threads_without_a_loop_share_one_background_loop(background: None) -> None:
    before = threading.active_count()
    echo = Echo()

    def work(thread: int) -> str:
        return SyncLLMWrapper(echo).chat(asking(str(thread)))[0]

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(work, range(200))) == [f"none: {n}" for n in range(200)]
        assert len(echo.threads) == 1
        assert sum(thread.name == "owner-loop" for thread in threading.enumerate()) == 1
    loop = background_loop()
    stop_background_loop()
    assert loop.is_closed()
    assert threading.active_count() == before
    assert SyncLLMWrapper(echo).chat(asking("again"))[0] == "none: again"


def test_stopping_the_background_loop_cancels_and_frees_who_waits(background: None) -> None:
    echo = Echo()
    echo.wait_s = 10
    wrapper = SyncLLMWrapper(echo)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wrapper.chat, asking("x"))
        assert not echo.cancelled.wait(0.1)
        stop_background_loop()
        error = waiting.exception(5)
    assert isinstance(error, asyncio.CancelledError | WrongThread)
    assert echo.cancelled.is_set()


def test_after_the_owners_loop_has_ended_it_is_refused() -> None:
    wrappers: list[SyncLLMWrapper] = []

    async def make() -> None:
        wrappers.append(SyncLLMWrapper(Echo()))

    asyncio.run(make())
    with pytest.raises(WrongThread, match="does not run"):
        wrappers[0].encode(["x"])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork_the_child_has_a_loop_of_its_own_and_old_wrappers_say_why_not(background: None) -> None:
    echo = Echo()
    old = SyncLLMWrapper(echo)
    assert old.chat(asking("parent"))[0] == "none: parent"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            try:
                old.chat(asking("x"))
            except WrongThread as error:
                if "forked" in error.message and SyncLLMWrapper(echo).chat(asking("x"))[0] == "none: x":
                    code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert old.chat(asking("parent"))[0] == "none: parent"


def test_a_process_ends_while_calls_are_under_way() -> None:
    code = (
        "import asyncio, threading\n"
        "from rag.core.owner_loop import OwnerLoop\n"
        "async def say():\n"
        "    try:\n"
        "        await asyncio.sleep(60)\n"
        "    finally:\n"
        "        print('cancelled', flush=True)\n"
        "begun = threading.Event()\n"
        "async def begin():\n"
        "    begun.set()\n"
        "    await say()\n"
        "threading.Thread(target=lambda: OwnerLoop().call(begin), daemon=True).start()\n"
        "begun.wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=30, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout == "cancelled\n"
