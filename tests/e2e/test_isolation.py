"""Many conversations at once, over all three faces, of several tenants with keys of their own: nothing of one ever
reaches the provider in a request of another, nor comes back in another's answer.

The provider is a process of its own that keeps every request to the byte and says the secrets of the question back.
Each tenant has a login of its own there, each chat a secret in its system prompt, each turn a secret in its question.
"""

import asyncio
import itertools
import json
import random
import re
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rag.testing.echo_upstream import SECRET, EchoUpstream, Sent, answer_to, echo_upstream
from tests.e2e.serving import Serving

SESSIONS = 200
TURNS = 10
TENANTS = 4
CHATS_OF_TENANT = 3
LEFT = 0.15
"""Share of the turns whose client leaves in the middle."""
FACES = ("sessions", "chats_openai", "v1")
SERVER_KEY = "sk-of-the-server"


@dataclass
class Tenant:
    """Whom two API keys stand for; `provider_key` is its own login at the provider."""

    id: str
    keys: tuple[str, ...]
    provider_key: str
    chats: "list[Chat]" = field(default_factory=list)


@dataclass
class Chat:
    id: str
    name: str
    secret: str
    tenant: Tenant


@dataclass
class Talk:
    """One conversation. `said` holds what the client was answered, turn by turn."""

    face: str
    chat: Chat
    key: str
    seed: int
    questions: list[str]
    session: str = ""
    said: list[str] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    """Whether the client read the turn's answer to its end."""
    received: list[bytes] = field(default_factory=list)

    @property
    def secrets(self) -> list[str]:
        return [SECRET.findall(question)[0] for question in self.questions]


@pytest.fixture(scope="module")
def upstream() -> Iterator[EchoUpstream]:
    with echo_upstream(wait_s=0.005) as running:
        yield running


@pytest.fixture(scope="module")
def server(upstream: EchoUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder: Path = tmp_path_factory.mktemp("isolation") / "data"
    env = {
        "PARLEY_INGEST__WORKER": "external",
        "OPENAI_API_KEY": SERVER_KEY,
        "OPENAI_BASE_URL": upstream.url,
        "PARLEY_AUTH__REGISTER_ENABLED": "true",
    }
    running = Serving(folder, env=env)
    running.client().close()
    yield running
    running.stop()


def new_secret() -> str:
    return f"secret-{secrets.token_hex(12)}"


class World:
    """The client's side."""

    def __init__(self, server: Serving, upstream: EchoUpstream, http: aiohttp.ClientSession) -> None:
        self.server = server
        self.upstream = upstream
        self.http = http

    async def call(self, method: str, path: str, authorization: str, body: Any = None) -> tuple[Any, Any]:
        """`data` of a contract call that must succeed, and the reply's headers."""
        headers = {"Authorization": authorization}
        async with self.http.request(method, self.server.url + path, json=body, headers=headers) as response:
            reply = json.loads(await response.read())
            assert reply["code"] == 0, (path, reply)
            return reply.get("data"), response.headers

    async def tenant(self, number: int) -> Tenant:
        """A new user with two API keys, a login at the provider, and some chats."""
        person = {"nickname": f"user{number}", "email": f"user{number}@example.org", "password": f"password {number}"}
        data, headers = await self.call("POST", "/v1/user/register", "", person)
        token = headers["Authorization"]
        own = f"sk-{secrets.token_hex(12)}"
        login = {"llm_factory": "OpenAI", "api_key": own, "model_type": "chat"}
        await self.call("POST", "/v1/llm/set_api_key", token, login)
        keys = [(await self.call("POST", "/v1/system/new_token", token, {}))[0]["token"] for _ in range(2)]
        tenant = Tenant(id=data["id"], keys=tuple(keys), provider_key=own)
        for place in range(CHATS_OF_TENANT):
            secret = new_secret()
            # Tenants use the same names: a look-up by name must stay within its tenant.
            chat = {"name": f"chat {place}", "prompt": {"prompt": f"You are {secret}.", "variables": []}}
            made, _ = await self.call("POST", "/api/v1/chats", f"Bearer {keys[0]}", chat)
            tenant.chats.append(Chat(id=made["id"], name=made["name"], secret=secret, tenant=tenant))
        return tenant

    async def begin(self, talk: Talk) -> None:
        if talk.face == "sessions":
            path = f"/api/v1/chats/{talk.chat.id}/sessions"
            talk.session = (await self.call("POST", path, f"Bearer {talk.key}", {"name": "s"}))[0]["id"]

    def request(self, talk: Talk, turn: int) -> tuple[str, dict[str, Any]]:
        """Path and body of a turn. Without a stored session the client sends what it was told so far."""
        if talk.face == "sessions":
            body = {"question": talk.questions[turn], "session_id": talk.session}
            return f"/api/v1/chats/{talk.chat.id}/completions", body
        history = [
            {"role": role, "content": text}
            for question, answer in zip(talk.questions[:turn], talk.said, strict=True)
            if answer
            for role, text in (("user", question), ("assistant", answer))
        ]
        messages = [*history, {"role": "user", "content": talk.questions[turn]}]
        if talk.face == "v1":
            return "/v1/chat/completions", {"model": f"chat:{talk.chat.name}", "messages": messages, "stream": True}
        path = f"/api/v1/chats_openai/{talk.chat.id}/chat/completions"
        return path, {"model": "any", "messages": messages, "stream": True}

    async def turn(self, talk: Talk, turn: int, dice: random.Random) -> None:
        """Ask, and read to the end or leave somewhere in the middle."""
        path, body = self.request(talk, turn)
        leave_after = dice.randrange(1, 4) if dice.random() < LEFT else 0
        headers = {"Authorization": f"Bearer {talk.key}"}
        parts: list[bytes] = []
        response = await self.http.post(self.server.url + path, json=body, headers=headers)
        try:
            assert response.status == 200, await response.text()
            async for part in response.content.iter_any():
                parts.append(part)
                if len(parts) == leave_after:
                    break
            else:
                leave_after = 0
        finally:
            response.close()
        received = b"".join(parts)
        talk.received.append(received)
        talk.whole.append(not leave_after)
        talk.said.append(text_of(talk.face, received))

    async def run(self, talk: Talk) -> None:
        dice = random.Random(talk.seed)
        await self.begin(talk)
        for turn in range(TURNS):
            await asyncio.sleep(dice.random() * 0.05)
            await self.turn(talk, turn, dice)

    async def stored(self, talk: Talk) -> list[dict[str, Any]]:
        """The session's messages once none is being made."""
        path = f"/api/v1/chats/{talk.chat.id}/sessions?id={talk.session}"
        deadline = time.monotonic() + 20
        while True:
            ((session,), _) = await self.call("GET", path, f"Bearer {talk.key}")
            messages: list[dict[str, Any]] = session["messages"]
            if not any(message.get("status") == "generating" for message in messages):
                return messages
            assert time.monotonic() < deadline, messages[-1]
            await asyncio.sleep(0.1)


def text_of(face: str, received: bytes) -> str:
    """The answer's text as far as it came; a frame that was cut is left out."""
    *events, _ = received.decode("utf-8", "ignore").split("\n\n")
    payloads = [event.removeprefix("data:").strip() for event in events]
    frames = [json.loads(payload) for payload in payloads if payload and payload != "[DONE]"]
    if face == "sessions":
        answers = [frame["data"]["answer"] for frame in frames if isinstance(frame["data"], dict)]
        return answers[-1] if answers else ""
    assert not [frame for frame in frames if "error" in frame], received
    return "".join(frame["choices"][0]["delta"].get("content") or "" for frame in frames if frame["choices"])


def check_answers(talk: Talk) -> None:
    """What came back to the client is of the turn it asked for, in every byte."""
    for question, own, received, said, whole in zip(
        talk.questions, talk.secrets, talk.received, talk.said, talk.whole, strict=True
    ):
        for found in SECRET.findall(received.decode("utf-8", "ignore")):
            assert own.startswith(found), f"{found} in the answer to {own}"
        expected = "".join(answer_to(question))
        assert expected.startswith(said)
        assert said == expected or not whole


def check_request(sent: Sent, talks: dict[str, tuple[Talk, int]], foreign: dict[str, list[str]]) -> str | None:
    """One request of the provider holds what belongs to one conversation alone. The secret of its question, or None
    where it asks for a summary of what was said before."""
    body = json.loads(sent.body)
    mentioned = [talks[found] for found in SECRET.findall(sent.body) if found in talks]
    assert mentioned, sent.body
    talk, turn = max(mentioned, key=lambda found: found[1])
    own = [talk.chat.secret, *talk.secrets[: turn + 1]]
    raw = f"{sent.path}\n{sent.headers}\n{sent.body}"
    strangers = [found for found in SECRET.findall(raw) if not any(secret.startswith(found) for secret in own)]
    assert not strangers, f"{strangers} in a request of {own}"
    assert re.findall(r"(?im)^authorization: (.*)$", sent.headers) == [f"Bearer {talk.chat.tenant.provider_key}"]
    for what, values in foreign.items():
        assert not [value for value in values if value in raw and value != talk.chat.tenant.provider_key], what
    system, *turns = body["messages"]
    if system["role"] != "system":
        return None
    assert system["content"].startswith(f"You are {talk.chat.secret}.")
    asked = [message["content"] for message in turns if message["role"] == "user"]
    assert asked == [question for question in talk.questions[: turn + 1] if question in asked], "in their order"
    assert asked[-1] == talk.questions[turn]
    return talk.secrets[turn]


async def ended(upstream: EchoUpstream) -> list[Sent]:
    """All requests, once no more come: turns of stored sessions go on when their client has left."""
    seen: list[Sent] = []
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < 0.5:
        new = await asyncio.to_thread(upstream.seen)
        if new:
            quiet_since = time.monotonic()
            seen += new
        await asyncio.sleep(0.1)
    return seen


async def leaving_ends(world: World, talk: Talk) -> bool:
    """Whether the model's work ends for who leaves at the beginning of an answer of many seconds: while all ask at
    once, it depends on the machine whether anybody leaves before the end of a short one."""
    long = replace(talk, face="v1", questions=[" ".join(new_secret() for _ in range(100))], said=[])
    path, body = world.request(long, 0)
    headers = {"Authorization": f"Bearer {long.key}"}
    async with world.http.post(world.server.url + path, json=body, headers=headers) as response:
        assert response.status == 200
        await response.content.readany()
        response.close()
    await asyncio.sleep(3)
    (sent,) = await asyncio.to_thread(world.upstream.seen)
    return bool(sent.left)


@pytest.mark.timeout(180)
async def test_conversations_do_not_mix(server: Serving, upstream: EchoUpstream) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as http:
        world = World(server, upstream, http)
        tenants = [await world.tenant(number) for number in range(TENANTS)]
        await asyncio.to_thread(upstream.seen)  # The check calls of the logins.
        places = itertools.cycle((face, chat) for face in FACES for tenant in tenants for chat in tenant.chats)
        talks = [
            Talk(
                face=face,
                chat=chat,
                key=dice.choice(chat.tenant.keys),
                seed=dice.randrange(1 << 32),
                questions=[f"Turn {turn}: {new_secret()}" for turn in range(TURNS)],
            )
            for face, chat in itertools.islice(places, SESSIONS)
        ]
        dice.shuffle(talks)
        began = time.monotonic()
        await asyncio.gather(*(world.run(talk) for talk in talks))
        took = time.monotonic() - began
        seen = await ended(upstream)
        assert await leaving_ends(world, talks[0]), "clients that leave end the model's work, unless it is kept"
        stored = {talk.session: await world.stored(talk) for talk in talks if talk.session}

    by_secret = {secret: (talk, turn) for talk in talks for turn, secret in enumerate(talk.secrets)}
    foreign = {
        "API keys": [key for tenant in tenants for key in tenant.keys],
        "keys of the provider": [SERVER_KEY, *(tenant.provider_key for tenant in tenants)],
        "ids": [talk.session for talk in talks if talk.session]
        + [chat.id for tenant in tenants for chat in tenant.chats]
        + [tenant.id for tenant in tenants],
    }
    asked = Counter(check_request(sent, by_secret, foreign) for sent in seen)
    summaries = asked.pop(None, 0)
    left = sum(not whole for talk in talks for whole in talk.whole)
    early = sum(sent.left for sent in seen)
    print(f"{len(seen)} requests, {summaries} of them summaries, in {took:.1f} s; {left} left, {early} ended early")
    for talk in talks:
        check_answers(talk)
        for secret, whole in zip(talk.secrets, talk.whole, strict=True):
            assert asked[secret] == 1 or (asked[secret] == 0 and not whole), "asked once"
        if talk.session:
            check_stored(talk, stored[talk.session])
    assert left > SESSIONS * TURNS * LEFT / 3
    assert summaries
    names = defaultdict(set)
    for sent in seen:
        for line in sent.headers.splitlines():
            name, _, value = line.partition(": ")
            names[name.lower()].add(value)
    varying = {name for name, values in names.items() if len(values) > 1}
    assert varying <= {"authorization", "content-length"}, "no header tells of a conversation"


def check_stored(talk: Talk, messages: list[dict[str, Any]]) -> None:
    """The session holds its own turns, in order, each with its own whole answer whether or not the client stayed."""
    _, *turns = messages
    assert [message["content"] for message in turns if message["role"] == "user"] == talk.questions
    answers = [message["content"] for message in turns if message["role"] == "assistant"]
    assert [answer.strip() for answer in answers] == ["".join(answer_to(each)).strip() for each in talk.questions]
