"""Pictures in messages of `/v1/chat/completions`, from the request to what the provider gets."""

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from api.apps.openai_parts import MOST_PICTURE_BYTES, MOST_PICTURES, picture_of
from rag.core.types import Picture
from rag.testing.upstream import FaultyUpstream
from tests.unit.api.apps.web import Person, Web, web

SEES, BLIND = "gpt-4o-mini@OpenAI", "gpt-3.5-turbo@OpenAI"
BYTES = {
    "image/png": b"\x89PNG\r\n\x1a\nrest",
    "image/jpeg": b"\xff\xd8\xff\xe0rest",
    "image/webp": b"RIFF\x00\x00\x00\x00WEBPrest",
    "image/gif": b"GIF89arest",
}


def url(media_type: str = "image/png", data: bytes | None = None) -> str:
    held = BYTES[media_type] if data is None else data
    return f"data:{media_type};base64,{base64.b64encode(held).decode()}"


def picture(address: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": address, "detail": "auto"}}


def asking(*parts: dict[str, Any], text: str = "What is this?") -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text}, *parts]}


@dataclass
class Seer:
    """A chat of Ann's with a model that sees."""

    site: Web
    ann: Person
    upstream: FaultyUpstream

    async def ask(self, *messages: dict[str, Any], model: str = SEES, **more: Any) -> tuple[int, Any]:
        body = {"model": "chat:eyes", "chat_model": model, "messages": messages} | more
        response = await self.site.send("POST", "/v1/chat/completions", self.ann, content=orjson.dumps(body))
        data = await response.get_data()
        return response.status_code, data.decode() if more.get("stream") else orjson.loads(data)

    def told(self) -> list[Any]:
        """Contents of what users said in the last request."""
        return [each["content"] for each in self.upstream.requests[-1].body["messages"] if each["role"] == "user"]


@pytest.fixture
async def seer(tmp_path: Path) -> AsyncIterator[Seer]:
    upstream = FaultyUpstream()
    settings = {"models": {"private_addresses": True}, "dialog": {"attempts": 1}}
    async with web(tmp_path, **settings) as site, upstream.serving():
        ann = await site.person("ann")
        login = {"llm_factory": "OpenAI", "api_key": "sk-0123456789", "base_url": upstream.url}
        assert (await site.call("POST", "/v1/llm/set_api_key", ann, json=login))["data"] is True
        chat = {"name": "eyes", "llm": {"model_name": SEES}, "prompt": {"prompt": "Be kind.", "variables": []}}
        assert (await site.call("POST", "/api/v1/chats", ann, json=chat))["code"] == 0
        upstream.requests.clear()
        yield Seer(site=site, ann=ann, upstream=upstream)


@pytest.mark.parametrize("stream", [False, True])
async def test_pictures_reach_the_provider_as_data(seer: Seer, stream: bool) -> None:
    status, reply = await seer.ask(asking(picture(url()), picture(url("image/gif"))), stream=stream)
    assert status == 200, reply
    assert seer.told() == [
        [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": url()}},
            {"type": "image_url", "image_url": {"url": url("image/gif")}},
        ]
    ]


async def test_a_picture_alone_and_one_of_the_history_reach_it_too(seer: Seer) -> None:
    before = {"role": "user", "content": [picture(url("image/jpeg"))]}
    between = {"role": "assistant", "content": "A cat."}
    status, reply = await seer.ask(before, between, {"role": "user", "content": [picture(url("image/webp"))]})
    assert status == 200, reply
    assert [[part["image_url"]["url"] for part in content] for content in seer.told()] == [
        [url("image/jpeg")],
        [url("image/webp")],
    ]


@pytest.mark.parametrize("model", [BLIND, "extractive@Builtin"])
async def test_a_model_that_cannot_see_says_so(seer: Seer, model: str) -> None:
    status, reply = await seer.ask(asking(picture(url())), model=model)
    assert (status, reply["error"]["code"]) == (400, "invalid_input")
    assert f"{model!r} cannot look at pictures" in reply["error"]["message"]
    assert seer.upstream.requests == []


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (picture("https://example.org/a.png"), "not fetched from addresses"),
        (picture("http://169.254.169.254/"), "not fetched from addresses"),
        (picture("file:///etc/passwd"), "not fetched from addresses"),
        (picture(7), "not fetched from addresses"),
        ({"type": "image_url", "image_url": "https://example.org/a.png"}, "type text and image_url"),
        ({"type": "input_audio", "input_audio": {"data": ""}}, "type text and image_url"),
        (picture(url().replace("image/png", "image/svg+xml")), "PNG, JPEG, WebP or GIF"),
        (picture("data:image/png,abc"), "PNG, JPEG, WebP or GIF"),
        (picture(url() + "!"), "not valid base64"),
        (picture(url("image/png", BYTES["image/gif"])), "no image/png"),
        (picture(url("image/png", b"")), "no image/png"),
    ],
)
async def test_what_is_no_picture_is_refused_in_words(seer: Seer, part: dict[str, Any], says: str) -> None:
    status, reply = await seer.ask(asking(part))
    assert (status, reply["error"]["param"]) == (400, "messages.0.content")
    assert says in reply["error"]["message"]
    assert seer.upstream.requests == []


async def test_so_many_pictures_and_no_more(seer: Seer) -> None:
    half = [picture(url())] * (MOST_PICTURES // 2)
    assert (await seer.ask(asking(*half), asking(*half)))[0] == 200
    seer.upstream.requests.clear()
    for messages in ([asking(*half, *half, picture(url()))], [asking(*half, picture(url())), asking(*half)]):
        status, reply = await seer.ask(*messages)
        assert status == 400
        assert f"up to {MOST_PICTURES} pictures" in reply["error"]["message"]
        assert reply["error"]["param"].startswith("messages")
    assert seer.upstream.requests == []


async def test_only_users_show_pictures(seer: Seer) -> None:
    status, reply = await seer.ask({"role": "assistant", "content": [picture(url())]}, asking())
    assert (status, reply["error"]["param"]) == (400, "messages.0")
    assert "only messages of the user" in reply["error"]["message"]


async def test_a_large_picture_passes_and_a_body_that_is_too_long_names_the_limit(seer: Seer) -> None:
    large = url("image/jpeg", BYTES["image/jpeg"] + bytes(1 << 20))
    assert (await seer.ask(asking(picture(large))))[0] == 200
    assert seer.told()[0][1]["image_url"]["url"] == large
    status, reply = await seer.ask(asking(picture(url("image/jpeg", BYTES["image/jpeg"] + bytes(2 << 20)))))
    assert status == 413
    assert "2,097,152 bytes" in reply["error"]["message"]
    assert "server.max_body_bytes" in reply["error"]["message"]


@pytest.mark.parametrize("media_type", BYTES)
def test_every_type_is_read(media_type: str) -> None:
    assert picture_of(url(media_type)) == Picture(media_type=media_type, data=BYTES[media_type])  # type: ignore[arg-type]
    assert picture_of(url(media_type).replace("data:image", "DATA:Image")).data == BYTES[media_type]


def test_jpg_is_jpeg() -> None:
    assert picture_of(url("image/jpeg").replace("jpeg", "jpg", 1)).media_type == "image/jpeg"


def test_a_picture_has_a_limit_of_its_own() -> None:
    fits = BYTES["image/png"].ljust(MOST_PICTURE_BYTES, b"x")
    assert picture_of(url("image/png", fits)).data == fits
    with pytest.raises(ValueError, match="up to 5 MiB"):
        picture_of(url("image/png", fits + b"more!"))
