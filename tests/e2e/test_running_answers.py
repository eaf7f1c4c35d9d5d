"""Answers that are on their way when something happens: a reload, a stop, a client that leaves, SIGTERM, SIGKILL.

The model behind the server is a real upstream on a loopback port that speaks slowly on command.
"""

import asyncio
import itertools
import json
import signal
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from rag.testing.upstream import FaultyUpstream, Plan
from tests.e2e.serving import Serving
from tests.e2e.stacks import Stack

WORDS = tuple(f"word{number} " for number in range(60))
SLOW = Plan(tokens=WORDS, wait_s=0.05)
WHOLE = "".join(WORDS)
ENDLESS = Plan(tokens=[f"word{number} " for number in range(2000)], wait_s=0.05)
_numbers = itertools.count(1)


@dataclass
class Event:
    id: int
    name: str
    data: dict[str, Any]


@dataclass
class Stage:
    """A server with a slow model, a chat on it, and a session of that chat."""

    serving: Serving
    upstream: FaultyUpstream
    client: httpx.AsyncClient
    chat: str = ""
    session: str = ""
    opened: list[Serving] = field(default_factory=list)

    async def call(self, method: str, path: str, **arguments: Any) -> Any:
        reply = (await self.client.request(method, path, **arguments)).json()
        assert reply["code"] == 0, reply
        return reply.get("data")

    async def ask(self, text: str = "Tell me.") -> AsyncIterator[dict[str, Any]]:
        """The frames of a streamed answer."""
        body = {"question": text, "session_id": self.session}
        path = f"/api/v1/chats/{self.chat}/completions"
        async with self.client.stream("POST", path, json=body) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            async for line in response.aiter_lines():
                if line:
                    yield json.loads(line.removeprefix("data:"))

    async def begun(self) -> tuple[str, str]:
        """Begin an answer and leave it running; its message id and the text shown so far."""
        async for frame in self.ask():
            return frame["data"]["id"], frame["data"]["answer"]
        raise AssertionError("no frame")

    def message_path(self, message: str, what: str) -> str:
        return f"/api/v1/chats/{self.chat}/sessions/{self.session}/messages/{message}/{what}"

    async def events(self, message: str, *, after: int | None = None) -> AsyncIterator[Event]:
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        async with self.client.stream("GET", self.message_path(message, "events"), headers=headers) as response:
            assert response.status_code == 200, await response.aread()
            lines: dict[str, str] = {}
            async for line in response.aiter_lines():
                if line and not line.startswith(":"):
                    key, _, value = line.partition(": ")
                    lines[key] = value
                elif lines:
                    yield Event(id=int(lines["id"]), name=lines["event"], data=json.loads(lines["data"]))
                    lines = {}

    async def saved(self) -> dict[str, Any]:
        """The last message of the session."""
        (session,) = await self.call("GET", f"/api/v1/chats/{self.chat}/sessions", params={"id": self.session})
        return dict(session["messages"][-1])

    async def ended(self) -> dict[str, Any]:
        """The last message, once its answer is no longer running."""
        deadline = time.monotonic() + 10
        while (message := await self.saved()).get("status") == "generating":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        return message


def environment(upstream: FaultyUpstream) -> dict[str, str]:
    """No worker: nothing is ingested, and starting one takes as long as starting the server."""
    return {
        "OPENAI_API_KEY": "sk-test",
        "OPENAI_BASE_URL": upstream.url,
        "PARLEY_DIALOG__SAVE_S": "0.1",
        "PARLEY_INGEST__WORKER": "external",
    }


@asynccontextmanager
async def connected(serving: Serving) -> AsyncIterator[httpx.AsyncClient]:
    await asyncio.to_thread(lambda: serving.client().close())
    headers = {"Authorization": f"Bearer {serving.key}"}
    async with httpx.AsyncClient(base_url=serving.url, headers=headers, timeout=30, trust_env=False) as client:
        yield client


@contextmanager
def slow_upstream() -> Iterator[FaultyUpstream]:
    """An upstream on a loop of its own, so that it lives as long as its server."""
    upstream = FaultyUpstream()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    serving = upstream.serving()

    def on_loop(work: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(20)

    on_loop(serving.__aenter__())
    try:
        yield upstream
    finally:
        on_loop(serving.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def shared_server(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, FaultyUpstream]]:
    """For the tests that leave the server as it is."""
    with slow_upstream() as upstream:
        folder = tmp_path_factory.mktemp("running") / "data"
        serving = Serving(folder, env=environment(upstream) | stack.environment(folder))
        yield serving, upstream
        serving.stop()


async def prepared(serving: Serving, upstream: FaultyUpstream, client: httpx.AsyncClient) -> Stage:
    upstream.will(SLOW)
    upstream.requests.clear()
    upstream.closed_early = 0
    made = Stage(serving=serving, upstream=upstream, client=client)
    chat = await made.call("POST", "/api/v1/chats", json={"name": f"chat {next(_numbers)}"})
    made.chat = chat["id"]
    made.session = (await made.call("POST", f"/api/v1/chats/{made.chat}/sessions", json={}))["id"]
    return made


@pytest.fixture
async def stage(shared_server: tuple[Serving, FaultyUpstream]) -> AsyncIterator[Stage]:
    async with connected(shared_server[0]) as client:
        yield await prepared(*shared_server, client)


@pytest.fixture
async def doomed(stack: Stack, tmp_path: Path) -> AsyncIterator[Stage]:
    """A stage whose server the test ends."""
    with slow_upstream() as upstream:
        backends = await asyncio.to_thread(stack.environment, tmp_path / "data")
        serving = await asyncio.to_thread(Serving, tmp_path / "data", env=environment(upstream) | backends)
        opened = [serving]
        try:
            async with connected(serving) as client:
                made = await prepared(serving, upstream, client)
                made.opened = opened
                upstream.will(ENDLESS)
                yield made
        finally:
            for each in opened:
                if each.process.poll() is None:
                    await asyncio.to_thread(each.stop)


async def test_an_answer_streams_by_the_contracts_cadence(stage: Stage) -> None:
    began = time.monotonic()
    frames, first_s = [], 0.0
    async for frame in stage.ask():
        first_s = first_s or time.monotonic() - began
        frames.append(frame)
    *partial, end = frames
    assert first_s < 1.0
    assert end == {"code": 0, "data": True}
    texts = [frame["data"]["answer"] for frame in partial]
    assert texts[0] == WORDS[0]
    assert texts[-1] == WHOLE
    assert all(later.startswith(earlier) for earlier, later in zip(texts, texts[1:], strict=False))
    assert 4 <= len(texts) <= 10
    assert all({"prompt", "created_at"} <= set(frame["data"]) for frame in partial)


async def test_a_reload_in_mid_answer_loses_nothing(stage: Stage) -> None:
    message, _ = await stage.begun()
    first: list[Event] = []
    async for event in stage.events(message):
        first.append(event)
        if sum(each.name == "token" for each in first) == 10:
            break
    assert first[0].name == "started"
    rest = [event async for event in stage.events(message, after=first[-1].id)]
    ids = [event.id for event in first + rest]
    assert ids == list(range(1, len(ids) + 1))
    assert "".join(event.data["text"] for event in first + rest if event.name == "token") == WHOLE
    assert rest[-1].name == "done"
    assert [event.id async for event in stage.events(message, after=ids[-1])] == []
    assert (await stage.ended())["content"] == WHOLE


async def test_two_readers_see_the_same(stage: Stage) -> None:
    message, _ = await stage.begun()

    async def read() -> list[Event]:
        return [event async for event in stage.events(message)]

    first, second = await asyncio.gather(read(), read())
    assert first == second


async def test_a_client_that_leaves_changes_nothing(stage: Stage) -> None:
    await stage.begun()
    saved = await stage.ended()
    assert saved["content"] == WHOLE
    assert "status" not in saved
    assert stage.upstream.closed_early == 0


async def test_stop_keeps_what_was_said(stage: Stage) -> None:
    message, _ = await stage.begun()
    await stage.call("POST", stage.message_path(message, "stop"))
    saved = await stage.ended()
    assert saved["status"] == "stopped"
    assert WHOLE.startswith(saved["content"])
    assert 0 < len(saved["content"]) < len(WHOLE)
    *_, last = [event async for event in stage.events(message)]
    assert last.name == "stopped"
    await asyncio.sleep(0.3)
    assert stage.upstream.closed_early == 1
    await stage.call("POST", stage.message_path(message, "stop"))
    assert (await stage.saved())["status"] == "stopped"


@pytest.mark.parametrize("midway", [True, False], ids=["midway", "before the first token"])
@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("face", ["/v1/chat/completions", "/api/v1/chats_openai/{chat}/chat/completions"])
async def test_an_openai_client_that_leaves_ends_the_models_work(
    stage: Stage, face: str, streamed: bool, midway: bool
) -> None:
    stage.upstream.will(ENDLESS if midway else Plan(fault="hang_before"))
    path = face.format(chat=stage.chat)
    body = {"model": stage.chat, "messages": [{"role": "user", "content": "Go"}], "stream": streamed}

    async def post() -> None:
        async with stage.client.stream("POST", path, json=body) as response:
            async for _ in response.aiter_lines():
                pass

    took = []
    for number in range(1, 4):
        asking = asyncio.create_task(post())
        while len(stage.upstream.requests) < number:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.2)
        asking.cancel()
        left = time.monotonic()
        while stage.upstream.closed_early < number:
            await asyncio.sleep(0.005)
            assert time.monotonic() - left < 2.0
        took.append(time.monotonic() - left)
    print(f"upstream closed {[round(1000 * each) for each in took]} ms after the client left")
    assert min(took) < 0.2, "the best of three: the machine may be busy"


async def test_a_model_that_breaks_in_mid_answer(stage: Stage) -> None:
    stage.upstream.will(Plan(tokens=WORDS, fault="cut_midway", after=5))
    frames = [frame async for frame in stage.ask()]
    assert frames[-1] == {"code": 0, "data": True}
    assert frames[-2]["code"] == 0
    answer = frames[-2]["data"]["answer"]
    assert answer.startswith("".join(WORDS[:3]))
    assert "**ERROR**: " in answer
    saved = await stage.ended()
    assert saved["status"] == "failed"
    assert "**ERROR**" not in saved["content"]
    *_, last = [event async for event in stage.events(frames[0]["data"]["id"])]
    assert (last.name, last.data["answer"]) == ("failed", saved["content"])

    body = {"model": stage.chat, "messages": [{"role": "user", "content": "Go"}], "stream": True}
    reply = await stage.client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200
    *chunks, done = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    assert done == "[DONE]"
    assert json.loads(chunks[-1])["error"]["type"] == "server_error"


async def test_a_model_that_refuses(stage: Stage) -> None:
    stage.upstream.will(Plan(fault="status", status=401, error={"message": "bad key", "code": "invalid_api_key"}))
    frames = [frame async for frame in stage.ask()]
    assert frames[0]["code"] == 0
    assert "**ERROR**: " in frames[0]["data"]["answer"]
    body = {"model": stage.chat, "messages": [{"role": "user", "content": "Go"}], "stream": True}
    reply = await stage.client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 502
    assert reply.json()["error"]["code"] == "model_refused"


async def test_sigterm_in_mid_answer_ends_the_stream_cleanly(doomed: Stage) -> None:
    stage = doomed
    frames = []
    openai_lines: list[str] = []

    async def openai_ask() -> None:
        body = {"model": stage.chat, "messages": [{"role": "user", "content": "Go"}], "stream": True}
        async with stage.client.stream("POST", "/v1/chat/completions", json=body) as response:
            openai_lines.extend([line async for line in response.aiter_lines() if line])

    beside = asyncio.create_task(openai_ask())
    async for frame in stage.ask():
        frames.append(frame)
        if len(frames) == 2:
            await asyncio.sleep(0.2)
            stage.serving.process.send_signal(signal.SIGTERM)
    assert frames[-1] == {"code": 0, "data": True}
    assert frames[-2]["data"]["answer"].startswith("".join(WORDS[:10]))
    await beside
    assert openai_lines[-1] == "data: [DONE]"
    output, _ = await asyncio.to_thread(stage.serving.process.communicate, timeout=20)
    assert stage.serving.process.returncode == 0, output
    assert "Traceback" not in output
    await assert_interrupted(stage, frames[0]["data"]["id"], at_least=frames[-2]["data"]["answer"])


async def test_a_kill_in_mid_answer_leaves_the_partial_text(doomed: Stage) -> None:
    stage = doomed
    message, _ = await stage.begun()
    await asyncio.sleep(1.0)
    await asyncio.to_thread(stage.serving.kill)
    await assert_interrupted(stage, message, at_least="".join(WORDS[:5]))


async def assert_interrupted(stage: Stage, message: str, *, at_least: str) -> None:
    """Start a server on the same folder again and look at the message there."""
    again = await asyncio.to_thread(Serving, stage.serving.data_dir, env=stage.serving.env)
    stage.opened.append(again)
    async with connected(again) as client:
        stage.client = client
        saved = await stage.saved()
        assert saved["status"] == "interrupted"
        assert saved["content"].startswith(at_least)
        *_, last = [event async for event in stage.events(message)]
        assert last.name == "stopped"
        assert last.data == {"answer": saved["content"], "reason": "interrupted"}
        stage.upstream.will(Plan(tokens=("Fine.",)))
        frames = [frame async for frame in stage.ask("And now?")]
        assert frames[-2]["data"]["answer"] == "Fine."
