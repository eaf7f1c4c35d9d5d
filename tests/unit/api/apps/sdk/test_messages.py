"""Our own routes on messages, on the whole web app with the model that quotes."""

import asyncio
from typing import Any

import orjson
import pytest

from tests.unit.api.apps.web import Person, Web


class Room:
    """A session of Alice's."""

    def __init__(self, site: Web, who: Person, session: str) -> None:
        self.site = site
        self.who = who
        self.session = session

    async def call(self, method: str, path: str = "", **more: Any) -> tuple[int, Any]:
        response = await self.site.send(method, f"{self.session}/messages{path}", self.who, **more)
        return response.status_code, orjson.loads(await response.get_data())

    async def done(self, method: str, path: str = "", **more: Any) -> Any:
        status, body = await self.call(method, path, **more)
        assert (status, body["code"]) == (200, 0), body
        return body.get("data")

    async def said(self, question: str, **more: Any) -> str:
        sent = await self.done("POST", json={"question": question} | more)
        assert sent["status"] == "generating"
        assert (await self.ended(sent["message_id"]))["status"] == "complete"
        return str(sent["message_id"])

    async def ended(self, message: str) -> Any:
        while (turn := await self.done("GET", f"/{message}"))["status"] == "generating":
            await asyncio.sleep(0.02)
        return turn

    async def listed(self) -> list[tuple[str, str]]:
        path, _, session = self.session.rpartition("/")
        (found,) = (await self.site.call("GET", f"{path}?id={session}", self.who))["data"]
        return [(each["role"], each["content"]) for each in found["messages"][1:]]


@pytest.fixture
async def room(site: Web) -> Room:
    alice = await site.person("alice")
    chat = (await site.call("POST", "/api/v1/chats", alice, json={"name": "c"}))["data"]["id"]
    path = f"/api/v1/chats/{chat}/sessions"
    session = (await site.call("POST", path, alice, json={}))["data"]["id"]
    return Room(site, alice, f"{path}/{session}")


async def test_a_message_is_sent_and_read(room: Room) -> None:
    message = await room.said("How much cash is there?", message_id="mine-1")
    assert message == "mine-1"
    turn = await room.done("GET", f"/{message}")
    assert (turn["question"], turn["model"], turn["error"]) == (
        "How much cash is there?",
        "extractive@Builtin",
        None,
    )
    assert turn["answer"]
    assert turn["reference"] == {}
    assert "prompt" in turn["timings_ms"]
    assert "prompt" not in turn
    assert "### Question" in (await room.done("GET", f"/{message}?debug=true"))["prompt"]
    await room.site.services.models.settle()
    usage = (await room.done("GET", f"/{message}"))["usage"]
    assert usage["calls"] == usage["by_purpose"]["answer"]["calls"] == 1
    assert (usage["cost_usd"], usage["unpriced"]) == (0.0, 0)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0


async def test_messages_are_asked_again_edited_and_deleted(room: Room) -> None:
    first, second = await room.said("one"), await room.said("two")
    again = (await room.done("POST", f"/{first}/regenerate"))["message_id"]
    await room.ended(again)
    assert [content for role, content in await room.listed() if role == "user"] == ["one"]
    assert (await room.call("GET", f"/{second}"))[0] == 404
    edited = (await room.done("POST", f"/{again}/edit", json={"question": "three"}))["message_id"]
    await room.ended(edited)
    assert [content for role, content in await room.listed() if role == "user"] == ["three"]
    await room.done("DELETE", f"/{edited}")
    assert await room.listed() == []


async def test_a_message_is_rated(room: Room) -> None:
    message = await room.said("one")
    await room.done("POST", f"/{message}/rate", json={"up": False, "feedback": "no figure"})
    turn = await room.done("GET", f"/{message}")
    assert (turn["thumbup"], turn["feedback"]) == (False, "no figure")


async def test_a_model_of_the_session_and_of_the_message(room: Room) -> None:
    site, who = room.site, room.who
    assert (await site.call("PUT", room.session, who, json={"llm_id": "x@Nowhere"}))["code"] == 0
    path, _, session = room.session.rpartition("/")
    (listed,) = (await site.call("GET", f"{path}?id={session}", who))["data"]
    assert listed["llm_id"] == "x@Nowhere"
    message = await room.said("one", llm_id="extractive@Builtin")
    failed = (await room.done("POST", json={"question": "two"}))["message_id"]
    turn = await room.ended(failed)
    assert turn["status"] == "failed"
    assert turn["error"] == {"code": "not_found", "message": "Model(x@Nowhere) not authorized"}
    assert (await room.done("GET", f"/{message}"))["status"] == "complete"
    assert (await site.call("PUT", room.session, who, json={"llm_id": ""}))["code"] == 0
    again = (await room.done("POST", f"/{failed}/regenerate", json={}))["message_id"]
    assert (await room.ended(again))["status"] == "complete"
    reply = await site.call("PUT", room.session, who, json={"llm_id": 7})
    assert reply == {"code": 102, "message": "`llm_id` must be a text."}


async def test_two_sends_at_once_are_ordered(room: Room) -> None:
    sent = await asyncio.gather(*(room.done("POST", json={"question": f"q{n}"}) for n in range(5)))
    for each in sent:
        assert (await room.ended(each["message_id"]))["status"] == "complete"
    roles = [role for role, _ in await room.listed()]
    assert roles == ["user", "assistant"] * 5


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("", {}, 400, 101),
        ("", {"question": ""}, 400, 101),
        ("", {"question": 7}, 400, 101),
        ("", {"question": "x", "colour": "red"}, 400, 101),
        ("", {"question": "x", "temperature": 9}, 400, 101),
        ("", {"question": "x", "message_id": "a b"}, 400, 101),
        ("", {"question": "x", "message_id": "m" * 37}, 400, 101),
        ("", {"question": "x", "dataset_ids": ["nobodys"]}, 404, 404),
        ("", [1], 400, 101),
        ("/unknown/regenerate", {}, 404, 404),
        ("/unknown/edit", {"question": "x"}, 404, 404),
        ("/unknown/rate", {"up": True}, 404, 404),
        ("/unknown/rate", {"up": "perhaps"}, 400, 101),
    ],
)
async def test_what_cannot_be_is_refused(room: Room, path: str, body: Any, status: int, code: int) -> None:
    got, reply = await room.call("POST", path, json=body)
    assert (got, reply["code"]) == (status, code)
    assert reply["message"]
    assert await room.listed() == []


async def test_an_id_is_used_once(room: Room) -> None:
    message = await room.said("one")
    status, reply = await room.call("POST", json={"question": "two", "message_id": message})
    assert (status, reply["code"]) == (409, 409)
    assert "Choose another id" in reply["message"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"question": "x"', "unexpected end"),
        (b"   ", "not JSON"),
        (b'{"temperature": NaN}', "NaN"),
        (b'{"question": "\\ud800"}', "surrogate"),
        (b'{"question": "\xff"}', "not JSON"),
        (b"[" * 200 + b"]" * 200, "nested too deep"),
        (b"[]", "valid dictionary"),
        (b"null", "valid dictionary"),
    ],
)
async def test_a_body_that_is_not_json_changes_nothing(room: Room, body: bytes, said: str) -> None:
    first, _ = await room.said("one"), await room.said("two")
    before = await room.listed()
    typed = {"Content-Type": "application/json"}
    for path in ("", f"/{first}/regenerate", f"/{first}/edit", f"/{first}/rate"):
        status, reply = await room.call("POST", path, data=body, headers=typed)
        assert (status, reply["code"]) == (400, 101), reply
        assert said in reply["message"], reply
    assert await room.listed() == before


async def test_a_body_of_another_type_is_refused(room: Room) -> None:
    first = await room.said("one")
    status, reply = await room.call(
        "POST", f"/{first}/regenerate", data=b"quote=1", headers={"Content-Type": "text/plain"}
    )
    assert (status, reply["code"]) == (400, 101)
    assert "application/json" in reply["message"]
    assert [content for role, content in await room.listed() if role == "user"] == ["one"]
