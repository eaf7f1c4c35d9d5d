"""Odd conversations: long, empty, strange, asked twice at once."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from rag.core.errors import NotFound
from rag.core.ids import new_id
from tests.unit.api.apps.web import Person, Web

PROMPT = {"system": "Be kind.", "prologue": "Hi.", "parameters": []}


@dataclass
class Page:
    """A conversation of Ann's with a chat without datasets."""

    site: Web
    ann: Person
    dialog: str
    id: str

    async def complete(self, messages: Any, **more: Any) -> Any:
        body = {"conversation_id": self.id, "messages": messages, "stream": False} | more
        return await self.site.call("POST", "/v1/conversation/completion", self.ann, json=body)

    async def stored(self) -> Any:
        reply = await self.site.call("GET", f"/v1/conversation/get?conversation_id={self.id}", self.ann)
        return reply["data"]


@pytest.fixture
async def page(site: Web) -> Page:
    ann = await site.person("ann")
    dialog = (await site.call("POST", "/v1/dialog/set", ann, json={"prompt_config": PROMPT}))["data"]["id"]
    opened = {"conversation_id": new_id(), "is_new": True, "dialog_id": dialog}
    made = (await site.call("POST", "/v1/conversation/set", ann, json=opened))["data"]
    return Page(site, ann, dialog, made["id"])


def user(content: Any, message_id: str = "q1") -> dict[str, Any]:
    return {"role": "user", "content": content, "id": message_id}


@pytest.mark.parametrize(
    "question", ["", "   ", "🙂🙃🙂", "مرحبا كيف حالك", "\u202e\u0000\u0007", "{knowledge} {x.__init__}"]
)
async def test_strange_questions_are_kept_and_answered(page: Page, question: str) -> None:
    reply = await page.complete([user(question)])
    assert reply["code"] == 0, reply
    assert [each["content"] for each in (await page.stored())["message"]][0] == question


async def test_a_question_of_half_a_megabyte(page: Page) -> None:
    question = "word " * 100_000
    assert (await page.complete([user(question)]))["code"] == 0
    assert (await page.stored())["message"][0]["content"] == question


async def test_ten_thousand_messages(page: Page) -> None:
    said = [{"role": role, "content": f"m{n}", "id": f"i{n}"} for n in range(5000) for role in ("user", "assistant")]
    assert (await page.complete([*said, user("last?")]))["code"] == 0
    stored = await page.stored()
    assert len(stored["message"]) == 10_002
    assert len(stored["reference"]) == 5001
    assert [each["content"] for each in stored["message"][-3:-1]] == ["m4999", "last?"]


async def test_messages_without_ids_are_given_some(page: Page) -> None:
    reply = await page.complete([{"role": "user", "content": "One?"}])
    assert len(reply["data"]["id"]) == 36
    assert (await page.stored())["message"][-1]["id"] == reply["data"]["id"]


async def test_an_id_that_comes_twice_is_refused(page: Page) -> None:
    said = [user("One?"), {"role": "assistant", "content": "Yes.", "id": "q1"}, user("Two?")]
    reply = await page.complete(said)
    assert reply["code"] == 102
    assert "Choose another id" in reply["message"]


async def test_two_questions_at_once_end_with_the_later_one(page: Page) -> None:
    replies = await asyncio.gather(*(page.complete([user(f"{n}?", f"q{n}")]) for n in range(4)))
    assert {reply["code"] for reply in replies} <= {0, 102}
    stored = (await page.stored())["message"]
    asked = [each["content"] for each in stored if each["role"] == "user"]
    assert asked
    assert len(stored) == 2 * len(asked)


async def test_a_conversation_without_a_name_is_named_by_its_first_answer(page: Page) -> None:
    assert (await page.stored())["name"] == "New conversation"
    await page.complete([user("Where is the Aldermoor bridge?")])
    async with asyncio.timeout(10):
        while (name := (await page.stored())["name"]) == "New conversation":
            await asyncio.sleep(0.02)
    assert name == "Where is the Aldermoor bridge"


async def test_a_conversation_that_was_named_stays_so(page: Page) -> None:
    named = {"conversation_id": page.id, "is_new": False, "name": "Mine"}
    await page.site.call("POST", "/v1/conversation/set", page.ann, json=named)
    await page.complete([user("Where is the Aldermoor bridge?")])
    assert (await page.stored())["name"] == "Mine"


async def test_a_refused_call_leaves_the_conversation(page: Page) -> None:
    assert (await page.complete([user("One?")]))["code"] == 0
    before = (await page.stored())["message"]
    twice = [user("Other?", "q0"), {"role": "assistant", "content": "Yes.", "id": "q2"}, user("Two?", "q2")]
    assert (await page.complete(twice))["code"] == 102
    assert (await page.complete([user("Two?", "q2")], top_p="much"))["code"] == 100
    assert (await page.stored())["message"] == before


@pytest.mark.parametrize("most", [1e30, 1e300, 2**70, -5])
async def test_any_number_of_tokens_is_taken(page: Page, most: float) -> None:
    assert (await page.complete([user("One?")]))["code"] == 0
    said = (await page.stored())["message"]
    reply = await page.complete([*said, user("Two?", "q2")], max_tokens=most)
    assert reply["code"] == 0, reply
    stored = (await page.stored())["message"]
    assert stored[: len(said)] == said
    assert [each["content"] for each in stored if each["role"] == "user"] == ["One?", "Two?"]


async def test_a_question_without_an_answer_is_deleted(page: Page) -> None:
    assert (await page.complete([user("One?", "q1"), user("Two?", "q2")]))["code"] == 0
    path = "/v1/conversation/delete_msg"
    left = await page.site.call("POST", path, page.ann, json={"conversation_id": page.id, "message_id": "q1"})
    assert [each["content"] for each in left["data"]["message"] if each["role"] == "user"] == ["Two?"]


@pytest.mark.parametrize("route", ["delete_msg", "thumbup"])
@pytest.mark.parametrize(("kind", "code"), [("message", 0), ("session", 102), ("chat", 102)])
async def test_only_a_message_that_is_not_there_changes_nothing(
    page: Page, monkeypatch: pytest.MonkeyPatch, route: str, kind: str, code: int
) -> None:
    async def gone(*_: Any, **__: Any) -> Any:
        raise NotFound(kind, "x")

    for name in ("delete_pair", "rate"):
        monkeypatch.setattr(page.site.services.conversations, name, gone)
    body = {"conversation_id": page.id, "message_id": "q1", "thumbup": True}
    reply = await page.site.call("POST", f"/v1/conversation/{route}", page.ann, json=body)
    assert reply["code"] == code, reply
