"""Chats that speak, from the request to what a provider hears and back."""

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rag.testing.upstream_services import MP3, Answer, ServicesUpstream
from tests.unit.api.apps.web import Person, Web, web


@dataclass
class Aloud:
    """A chat of Ann's with `tts`, a session in it, and the provider that speaks."""

    site: Web
    ann: Person
    upstream: ServicesUpstream
    chat: str
    session: str

    async def ask(self, **more: Any) -> Any:
        body = {"question": "Hello?", "session_id": self.session} | more
        response = await self.site.send("POST", f"/api/v1/chats/{self.chat}/completions", self.ann, json=body)
        data = (await response.get_data()).decode()
        if more.get("stream") is False:
            return json.loads(data)["data"]
        return [json.loads(each.removeprefix("data:"))["data"] for each in data.split("\n\n") if each]

    async def events(self, message_id: str) -> list[tuple[str, Any]]:
        path = f"/api/v1/chats/{self.chat}/sessions/{self.session}/messages/{message_id}/events"
        text = (await (await self.site.send("GET", path, self.ann)).get_data()).decode()
        frames = [frame.split("\n") for frame in text.split("\n\n") if "event: " in frame]
        return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for _, name, data in frames]

    def heard(self) -> list[str]:
        return [called.body["input"] for called in self.upstream.calls if called.path.endswith("/audio/speech")]


@pytest.fixture
async def aloud(tmp_path: Path) -> AsyncIterator[Aloud]:
    upstream = ServicesUpstream()
    async with upstream.serving():
        settings = {"models": {"private_addresses": True, "chat": "extractive@Builtin"}, "dialog": {"attempts": 1}}
        async with web(tmp_path, **settings) as site:
            ann = await site.person("ann")
            login = {"llm_factory": "OpenAI", "api_key": "sk-0123456789", "base_url": upstream.url}
            assert (await site.call("POST", "/v1/llm/set_api_key", ann, json=login))["data"] is True
            upstream.calls.clear()
            tenant = {"tenant_id": ann.principal.tenant_id, "name": "a", "asr_id": "", "embd_id": "minilm@Builtin"}
            tenant |= {"img2txt_id": "", "llm_id": "extractive@Builtin", "tts_id": "tts-1@OpenAI"}
            assert (await site.call("POST", "/v1/user/set_tenant_info", ann, json=tenant))["code"] == 0
            prompt = {"prompt": "You speak.", "variables": [], "tts": True}
            made = await site.call("POST", "/api/v1/chats", ann, json={"name": "aloud", "prompt": prompt})
            chat = made["data"]["id"]
            opened = await site.call("POST", f"/api/v1/chats/{chat}/sessions", ann, json={"name": "s"})
            yield Aloud(site, ann, upstream, chat, opened["data"]["id"])


def spoken(frames: list[Any]) -> bytes:
    parts = [frame["audio_binary"] for frame in frames if isinstance(frame, dict) and frame.get("audio_binary")]
    return b"".join(bytes.fromhex(part) for part in parts)


async def test_frames_carry_the_speech_of_their_text(aloud: Aloud) -> None:
    *frames, end = await aloud.ask()
    assert end is True
    assert spoken(frames).startswith(MP3)
    assert " ".join(aloud.heard()) in " ".join(frames[-1]["answer"].split())
    assert aloud.heard()
    stored = await aloud.site.call("GET", f"/api/v1/chats/{aloud.chat}/sessions", aloud.ann)
    assert "audio" not in json.dumps(stored)


async def test_an_answer_that_is_not_streamed_has_its_speech(aloud: Aloud) -> None:
    answer = await aloud.ask(stream=False)
    assert bytes.fromhex(answer["audio_binary"]).startswith(MP3)


async def test_events_of_an_ended_answer_have_no_audio_left(aloud: Aloud) -> None:
    frames = await aloud.ask()
    told = [data for name, data in await aloud.events(frames[0]["id"]) if name == "spoken"]
    assert told
    assert {base64.b64decode(each["audio"]) for each in told} == {b""}
    assert {each["media_type"] for each in told} == {"audio/mpeg"}


async def test_a_provider_that_fails_leaves_the_text(aloud: Aloud) -> None:
    aloud.upstream.answer = Answer(status=400, body={"error": {"message": "no voice"}})
    *frames, end = await aloud.ask()
    assert end is True
    assert frames[-1]["answer"]
    assert spoken(frames) == b""


async def test_the_openai_faces_do_not_speak(aloud: Aloud) -> None:
    messages = [{"role": "user", "content": "Hello?"}]
    for path in ("/v1/chat/completions", f"/api/v1/chats_openai/{aloud.chat}/chat/completions"):
        body = {"model": "chat:aloud", "messages": messages, "stream": False}
        reply = await aloud.site.call("POST", path, aloud.ann, json=body)
        assert reply["choices"][0]["message"]["content"]
    assert aloud.heard() == []
