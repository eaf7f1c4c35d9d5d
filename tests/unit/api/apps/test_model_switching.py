"""Another model in the middle of a conversation, and requests that try to say where a model is."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from api.db.tables import Message
from rag.testing.upstream import FaultyUpstream, Plan
from tests.unit.api.apps.web import Person, Web, web

KEYS = {"OpenAI-API-Compatible": "sk-first-0123456789", "VLLM": "sk-second-0123456789"}
FIRST, SECOND = "one@OpenAI-API-Compatible", "two@VLLM"


@dataclass
class Talk:
    """A chat of Ann's with a model at each of two providers."""

    site: Web
    ann: Person
    first: FaultyUpstream
    second: FaultyUpstream
    chat: str = ""
    session: str = ""

    async def use(self, model: str) -> Any:
        body = {"name": "talk", "llm": {"model_name": model}, "prompt": {"prompt": "Be kind.", "variables": []}}
        path = f"/api/v1/chats/{self.chat}"
        return await self.site.call("PUT", path, self.ann, json=body)

    async def ask(self, question: str) -> Any:
        body = {"question": question, "session_id": self.session, "stream": False}
        return await self.site.call("POST", f"/api/v1/chats/{self.chat}/completions", self.ann, json=body)

    async def rows(self) -> list[tuple[str, str, str]]:
        """Status, text and error of the answers so far."""

        def read() -> list[tuple[str, str, str]]:
            found = Message.select().where((Message.conversation_id == self.session) & (Message.role == "assistant"))
            return [(row.status, row.content, row.error) for row in found.order_by(Message.turn) if row.turn]

        return await self.site.services.db.run(read)


@pytest.fixture
async def talk(tmp_path: Path) -> AsyncIterator[Talk]:
    first, second = FaultyUpstream(), FaultyUpstream()
    settings = {"models": {"private_addresses": True}, "dialog": {"attempts": 1}}
    async with web(tmp_path, **settings) as site, first.serving(), second.serving():
        made = Talk(site=site, ann=await site.person("ann"), first=first, second=second)
        for upstream, name in ((first, FIRST), (second, SECOND)):
            model, _, factory = name.partition("@")
            body = {"llm_factory": factory, "model_type": "chat", "llm_name": model, "api_base": upstream.url}
            added = await site.call("POST", "/v1/llm/add_llm", made.ann, json=body | {"api_key": KEYS[factory]})
            assert added["data"] is True, added
            upstream.requests.clear()
        fields = {"name": "talk", "llm": {"model_name": FIRST}, "prompt": {"prompt": "Be kind.", "variables": []}}
        chat = await site.call("POST", "/api/v1/chats", made.ann, json=fields)
        made.chat = chat["data"]["id"]
        session = await site.call("POST", f"/api/v1/chats/{made.chat}/sessions", made.ann, json={"name": "s"})
        made.session = session["data"]["id"]
        yield made


def said(upstream: FaultyUpstream) -> list[tuple[str, str]]:
    """Role and text of what the last request brought, without the system's."""
    messages = upstream.requests[-1].body["messages"]
    return [(each["role"], each["content"]) for each in messages if each["role"] != "system"]


async def test_the_next_message_goes_to_the_new_model_with_the_history(talk: Talk) -> None:
    talk.first.will(Plan(tokens=("Blue", ".")))
    talk.second.will(Plan(tokens=("Green", ".")))
    assert (await talk.ask("Which colour?"))["data"]["answer"] == "Blue."
    assert (await talk.use(SECOND))["code"] == 0
    assert (await talk.ask("And now?"))["data"]["answer"] == "Green."
    assert said(talk.second)[-3:] == [("user", "Which colour?"), ("assistant", "Blue."), ("user", "And now?")]
    assert len(talk.first.requests) == 1
    assert talk.second.requests[-1].body["model"] == "two"
    assert dict(talk.second.requests[-1].headers)["Authorization"] == f"Bearer {KEYS['VLLM']}"
    assert KEYS["OpenAI-API-Compatible"] not in repr(talk.second.requests)
    assert (await talk.use(FIRST))["code"] == 0
    assert (await talk.ask("Back?"))["data"]["answer"] == "Blue."
    assert said(talk.first)[-3:] == [("user", "And now?"), ("assistant", "Green."), ("user", "Back?")]


async def test_an_unavailable_model_fails_its_message_and_nothing_else(talk: Talk) -> None:
    assert (await talk.ask("One?"))["code"] == 0
    assert (await talk.use(SECOND))["code"] == 0
    talk.second.will(Plan(fault="status", status=503, error={"message": f"no room, {KEYS['VLLM']}"}))
    failed = await talk.ask("Two?")
    # The contract's own form for an answer that broke: the reason, marked, in the place of the text.
    assert failed["data"]["answer"].startswith("**ERROR**"), failed
    assert "no room" in failed["data"]["answer"]
    assert [status for status, _, _ in await talk.rows()] == ["done", "failed"]
    assert "no room" in (await talk.rows())[-1][2]
    assert KEYS["VLLM"] not in orjson.dumps([failed, *map(list, await talk.rows())]).decode()
    assert (await talk.use(FIRST))["code"] == 0
    assert (await talk.ask("Three?"))["code"] == 0
    assert ("user", "One?") in said(talk.first)
    assert [status for status, _, _ in await talk.rows()] == ["done", "failed", "done"]


async def test_a_model_whose_login_is_gone_fails_its_message(talk: Talk) -> None:
    assert (await talk.ask("One?"))["code"] == 0
    gone = {"llm_factory": "OpenAI-API-Compatible"}
    assert (await talk.site.call("POST", "/v1/llm/delete_factory", talk.ann, json=gone))["data"] is True
    failed = await talk.ask("Two?")
    assert failed["code"] != 0
    assert "one@OpenAI-API-Compatible" in failed["message"]
    assert [status for status, _, _ in await talk.rows()] == ["done", "failed"]
    assert len(talk.first.requests) == 1
    assert (await talk.use(SECOND))["code"] == 0
    assert (await talk.ask("Three?"))["code"] == 0


async def test_an_unknown_model_is_not_chosen(talk: Talk) -> None:
    refused = await talk.use("nobody@VLLM-of-nobody")
    assert refused["code"] != 0
    assert "nobody@VLLM-of-nobody" in refused["message"]
    assert (await talk.ask("One?"))["code"] == 0


@pytest.mark.parametrize("face", ["completions", "chats_openai", "openai"])
async def test_no_request_says_where_a_model_is(talk: Talk, face: str) -> None:
    """Refused or left alone, but never used."""
    evil = FaultyUpstream()
    async with evil.serving():
        sets: list[dict[str, Any]] = [
            {"api_base": evil.url},
            {"base_url": evil.url},
            {"api_key": "sk-evil-0123456789"},
            {"headers": {"Authorization": "Bearer sk-evil-0123456789", "X-Evil": "1"}},
            {"extra_headers": {"X-Evil": "1"}},
            {"extra_body": {"api_base": evil.url, "x_evil": 1}},
            {"custom_llm_provider": "openai", "organization": "x_evil", "api_version": "x_evil"},
            {"llm": {"api_base": evil.url, "model_name": SECOND}},
            {"llm_id": f"openai/{evil.url}"},
            {"llm_setting": {"api_base": evil.url, "headers": {"X-Evil": "1"}}},
            {"model": f"one@OpenAI-API-Compatible?api_base={evil.url}"},
            {"chat_model": f"one@{evil.url}"},
        ]
        for extra in sets:
            message = [{"role": "user", "content": "Hello?"}]
            faces: dict[str, tuple[str, dict[str, Any]]] = {
                "completions": (
                    f"/api/v1/chats/{talk.chat}/completions",
                    {"question": "Hello?", "session_id": talk.session, "stream": False},
                ),
                "chats_openai": (
                    f"/api/v1/chats_openai/{talk.chat}/chat/completions",
                    {"model": "m", "messages": message, "stream": False},
                ),
                "openai": ("/v1/chat/completions", {"model": "chat:talk", "messages": message}),
            }
            path, body = faces[face]
            await talk.site.send("POST", path, talk.ann, json=body | extra)
        assert evil.requests == []
        assert talk.second.requests == []
        assert talk.first.requests, "none of the requests was answered"
        for seen in talk.first.requests:
            assert dict(seen.headers)["Authorization"] == f"Bearer {KEYS['OpenAI-API-Compatible']}"
            assert "evil" not in repr(seen).lower()
            assert evil.url not in repr(seen.body)
            assert seen.body["model"] == "one"
