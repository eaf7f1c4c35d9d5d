"""Many answers at once, and readers and models that misbehave: nothing said is lost, and memory stays flat."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from rag.core.settings import DialogSettings
from rag.testing.upstream import FaultyUpstream, Plan
from tests.e2e.serving import Serving
from tests.e2e.stacks import Stack
from tests.e2e.test_running_answers import Stage, connected, environment, prepared, slow_upstream
from tests.servers.mariadb import fresh_database

STREAMS = 100
SUBSCRIBERS = 1000
RECONNECTS = 50
SLOW_READERS = 100
MB = 1 << 20


@asynccontextmanager
async def staged(folder: Path, env: dict[str, str]) -> AsyncIterator[Stage]:
    """A server of its own, which the test may end."""
    with slow_upstream() as upstream:
        serving = await asyncio.to_thread(Serving, folder, env=environment(upstream) | env)
        opened = [serving]
        try:
            async with connected(serving) as client:
                made = await prepared(serving, upstream, client)
                made.opened = opened
                yield made
        finally:
            for each in opened:
                if each.process.poll() is None:
                    await asyncio.to_thread(each.stop)


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, FaultyUpstream]]:
    """For the tests that leave the server as it is."""
    with slow_upstream() as upstream:
        serving = Serving(tmp_path_factory.mktemp("faults") / "data", env=environment(upstream))
        yield serving, upstream
        serving.stop()


@pytest.fixture
async def stage(one_server: tuple[Serving, FaultyUpstream]) -> AsyncIterator[Stage]:
    async with connected(one_server[0]) as client:
        yield await prepared(*one_server, client)


@pytest.fixture
async def stage_on(stack: Stack, tmp_path: Path) -> AsyncIterator[Stage]:
    folder = tmp_path / "data"
    backends = await asyncio.to_thread(stack.environment, folder)
    # As often as by default: the fixtures of other tests save more often.
    async with staged(folder, backends | {"PARLEY_DIALOG__SAVE_S": str(DialogSettings().save_s)}) as made:
        yield made


def words(count: int, text: str = "word") -> tuple[str, ...]:
    return tuple(f"{text}{number} " for number in range(count))


def rss_mb(serving: Serving) -> float:
    """Memory of the server's process."""
    for line in Path(f"/proc/{serving.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


async def send(stage: Stage, question: str, *, session: str = "") -> str:
    path = f"/api/v1/chats/{stage.chat}/sessions/{session or stage.session}/messages"
    return str((await stage.call("POST", path, json={"question": question}))["message_id"])


async def turn(stage: Stage, message: str, *, session: str = "") -> dict[str, Any]:
    path = f"/api/v1/chats/{stage.chat}/sessions/{session or stage.session}/messages/{message}"
    return dict(await stage.call("GET", path))


async def ended(stage: Stage, message: str, *, session: str = "", within_s: float = 20) -> dict[str, Any]:
    deadline = time.monotonic() + within_s
    while (found := await turn(stage, message, session=session))["status"] == "generating":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    return found


class Reader:
    """One connection to the events of a message, on a plain socket: a client library would read ahead."""

    def __init__(self, stage: Stage, message: str, *, after: int = 0, buffer_bytes: int = 0) -> None:
        self._stage = stage
        self._buffer_bytes = buffer_bytes
        self._path = f"{stage.message_path(message, 'events')}?after={after}"
        self.ids: list[int] = []
        self.text = ""
        self.seen: list[tuple[float, int]] = []
        """When how many characters had been shown."""
        self.last = ""

    async def __aenter__(self) -> "Reader":
        address = urlsplit(self._stage.serving.url)
        plain = socket.socket()
        if self._buffer_bytes:
            # What the system keeps for a reader that does not read is not the server's memory, and hides it.
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer_bytes)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, (address.hostname, address.port))
        limit = self._buffer_bytes or 8 * MB
        self.reader, self.writer = await asyncio.open_connection(sock=plain, limit=limit)
        head = f"GET {self._path} HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {self._stage.serving.key}"
        self.writer.write(f"{head}\r\n\r\n".encode())
        assert b" 200 " in await self.reader.readline()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    async def read(self, most: int = 1 << 30) -> None:
        """Read up to the end, or so many events more."""
        name, until = "", len(self.ids) + most
        self.reader._limit = 8 * MB  # type: ignore[attr-defined]  # now it is read whole
        while line := await self.reader.readline():
            if line.startswith(b"id: "):
                self.ids.append(int(line[4:]))
            elif line.startswith(b"event: "):
                name = line[7:].decode().strip()
            elif line.startswith(b"data: "):
                if name == "token":
                    self.text += json.loads(line[6:])["text"]
                    self.seen.append((time.monotonic(), len(self.text)))
                self.last = name
                if name in ("done", "failed", "stopped") or len(self.ids) >= until:
                    return


@dataclass
class Watched:
    session: str
    message: str
    question: str
    reader: Reader
    reading: "asyncio.Task[None] | None" = field(default=None)


async def watched(stage: Stage, number: int) -> Watched:
    session = (await stage.call("POST", f"/api/v1/chats/{stage.chat}/sessions", json={}))["id"]
    question = f"question {number}"
    message = await send(stage, question, session=session)
    own = Stage(stage.serving, stage.upstream, stage.client, chat=stage.chat, session=session)
    made = Watched(session=session, message=message, question=question, reader=Reader(own, message))

    async def read() -> None:
        with suppress(ConnectionError, AssertionError):
            async with made.reader:
                await made.reader.read()

    made.reading = asyncio.create_task(read())
    return made


async def test_a_hundred_streams_survive_a_kill(stage_on: Stage) -> None:
    stage = stage_on
    stage.upstream.will(Plan(tokens=words(500), wait_s=0.2))
    all_of = await asyncio.gather(*(watched(stage, number) for number in range(STREAMS)))
    await asyncio.sleep(4)
    killed_at = time.monotonic()
    await asyncio.to_thread(stage.serving.kill)
    await asyncio.gather(*(each.reading for each in all_of if each.reading is not None))
    again = await asyncio.to_thread(Serving, stage.serving.data_dir, env=stage.serving.env)
    stage.opened.append(again)
    async with connected(again) as client:
        stage.client, stage.serving = client, again
        lags = []
        for each in all_of:
            found = await turn(stage, each.message, session=each.session)
            assert (found["status"], found["question"]) == ("interrupted", each.question)
            shown = [length for at, length in each.reader.seen if at <= killed_at - 1.0]
            assert shown, "an answer of a second before"
            assert found["answer"].startswith(each.reader.text[: shown[-1]])
            lost = [at for at, length in each.reader.seen if length > len(found["answer"])]
            lags.append(killed_at - lost[0] if lost else 0.0)
        print(f"lost: at most the last {max(lags):.2f} s before the kill")
        stage.upstream.will(Plan(tokens=("Fine.",)))
        for each in all_of[:10]:
            path = f"/api/v1/chats/{stage.chat}/sessions/{each.session}/messages/{each.message}/regenerate"
            message = (await stage.call("POST", path))["message_id"]
            found = await ended(stage, message, session=each.session)
            assert (found["status"], found["question"], found["answer"]) == ("complete", each.question, "Fine.")


async def test_readers_that_stop_reading_hold_nothing_up(stage: Stage) -> None:
    pieces = ["x" * 4096] * 250
    stage.upstream.will(Plan(tokens=pieces, wait_s=0.004))
    await ended(stage, await send(stage, "warm"))
    message = await send(stage, "go")
    before = rss_mb(stage.serving)
    readers = [Reader(stage, message, buffer_bytes=4096) for _ in range(SLOW_READERS)]
    await asyncio.gather(*(reader.__aenter__() for reader in readers))
    assert (await ended(stage, message))["status"] == "complete"
    grown = rss_mb(stage.serving) - before
    print(f"{SLOW_READERS} readers of 1 MB that do not read: {grown:.0f} MB more")
    assert grown < 50, "a copy for each would be 100 MB, and the end with the whole answer as much again"
    await readers[0].read()
    await asyncio.gather(*(reader.__aexit__() for reader in readers))
    assert readers[0].text == "".join(pieces)
    assert readers[0].ids == list(range(1, len(readers[0].ids) + 1))


async def test_a_reader_that_comes_back_fifty_times(stage: Stage) -> None:
    stage.upstream.will(Plan(tokens=words(300), wait_s=0.02))
    message = await send(stage, "go")
    ids: list[int] = []
    text = ""
    for visit in range(RECONNECTS + 1):
        async with Reader(stage, message, after=ids[-1] if ids else 0) as reader:
            await reader.read(3 if visit < RECONNECTS else 1 << 30)
            ids += reader.ids
            text += reader.text
    assert ids == list(range(1, len(ids) + 1)), "no gap, no double"
    assert text == "".join(words(300))
    assert reader.last == "done"


async def test_a_thousand_readers_of_one_stream(stage: Stage) -> None:
    stage.upstream.will(Plan(tokens=words(40), first_wait_s=4.0, wait_s=0.1))
    message = await send(stage, "go")
    before = rss_mb(stage.serving)
    readers = [Reader(stage, message) for _ in range(SUBSCRIBERS)]
    for start in range(0, SUBSCRIBERS, 100):
        await asyncio.gather(*(reader.__aenter__() for reader in readers[start : start + 100]))
    await asyncio.gather(*(reader.read() for reader in readers))
    grown = rss_mb(stage.serving) - before
    await asyncio.gather(*(reader.__aexit__() for reader in readers))
    print(f"{SUBSCRIBERS} readers: {grown:.0f} MB more")
    assert {reader.text for reader in readers} == {"".join(words(40))}
    assert {tuple(reader.ids) for reader in readers} == {tuple(range(1, len(readers[0].ids) + 1))}
    assert {reader.last for reader in readers} == {"done"}
    assert grown < 80, "a connection takes some 30 KB, whatever the stream has said"


# ---- the upstream dies in the middle


CUT = "".join(words(4))


async def broken(stage: Stage, path: str, body: dict[str, Any], key: str = "") -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    reply = await stage.client.post(path, json=body, headers=headers)
    return reply.status_code, reply.text


def frames(text: str) -> list[Any]:
    return [json.loads(line.removeprefix("data:")) for line in text.splitlines() if line and "[DONE]" not in line]


def said(chunks: list[Any]) -> str:
    return "".join(each["choices"][0]["delta"].get("content") or "" for each in chunks if each.get("choices"))


@pytest.mark.parametrize("fault", ["cut_midway", "reset_midway", "error_in_stream"])
async def test_the_form_of_a_broken_answer(stage: Stage, fault: Any) -> None:
    """One server for all routes: each asks once."""
    stage.upstream.will(Plan(tokens=words(40), fault=fault, after=8, wait_s=0.03))
    chat = f"/api/v1/chats/{stage.chat}"
    asked = {"question": "go", "session_id": stage.session}
    messages = {"model": stage.chat, "messages": [{"role": "user", "content": "go"}]}

    status, text = await broken(stage, f"{chat}/completions", asked)
    *_, last, end = frames(text)
    assert (status, last["code"], end) == (200, 0, {"code": 0, "data": True})
    assert last["data"]["answer"].startswith(CUT)
    assert "**ERROR**: " in last["data"]["answer"]

    status, text = await broken(stage, f"{chat}/completions", asked | {"stream": False})
    reply = json.loads(text)
    assert (status, reply["code"]) == (200, 0)
    assert reply["data"]["answer"].startswith(CUT)
    assert "**ERROR**: " in reply["data"]["answer"]

    status, text = await broken(stage, "/v1/chat/completions", messages | {"stream": True})
    assert (status, frames(text)[-1]["error"]["type"]) == (200, "server_error")
    assert said(frames(text)[:-1]).startswith(CUT)
    status, text = await broken(stage, "/v1/chat/completions", messages | {"stream": False})
    assert status >= 500
    assert json.loads(text)["error"]["message"]

    chats_openai = f"/api/v1/chats_openai/{stage.chat}/chat/completions"
    status, text = await broken(stage, chats_openai, messages | {"stream": True})
    assert (status, text.rstrip().endswith("[DONE]")) == (200, True)
    assert said(frames(text)).startswith(CUT)
    assert "**ERROR**: " in said(frames(text))

    message = await send(stage, "go")
    *_, event = [each async for each in stage.events(message)]
    found = await ended(stage, message)
    assert (event.name, event.data["answer"]) == ("failed", found["answer"])
    assert found["answer"].startswith(CUT)
    assert "**ERROR**" not in found["answer"]
    assert (found["status"], found["error"]["code"]) == ("failed", event.data["code"])
    assert found["error"]["message"] == event.data["message"]


async def test_a_second_server_on_the_same_rows_leaves_running_answers(tmp_path: Path, mysql_url: str) -> None:
    rows = {"PARLEY_ROWS__URL": await asyncio.to_thread(fresh_database, mysql_url)}
    async with staged(tmp_path / "one", rows) as stage:
        stage.upstream.will(Plan(tokens=words(600), wait_s=0.05))
        message = await send(stage, "go")
        key = stage.serving.key
        second = await asyncio.to_thread(Serving, tmp_path / "two", env=stage.serving.env)
        stage.opened.append(second)
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=second.url, headers=headers, timeout=30, trust_env=False) as client:
            while (await client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.1)
            assert (await turn(stage, message))["status"] == "generating"
            path = stage.message_path(message, "events")
            following = asyncio.create_task(client.get(path))
            await asyncio.sleep(1)
            assert not following.done(), "it has not ended yet"
            await stage.call("POST", stage.message_path(message, "stop"))
            events = (await following).text
            assert "event: stopped" in events
            assert '"reason":"stopped"' in events
        assert (await turn(stage, message))["status"] == "stopped"
