"""The page's routes with models of the tenant's own: for once, for related questions, for speech."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rag.testing.upstream import FaultyUpstream, Plan
from rag.testing.upstream_services import MP3, Answer, ServicesUpstream
from tests.unit.api.apps.web import Person, Web, web

MODEL = "one@OpenAI-API-Compatible"
SPEAKER = "voice@VLLM"
SEARCH = "/api/v1/searchbots"


@dataclass
class Page:
    """A conversation of Ann's with the built-in model, a chat model and a speaker of hers beside it."""

    site: Web
    ann: Person
    chat: FaultyUpstream
    services: ServicesUpstream
    dialog: str
    conversation: str

    async def complete(self, **more: Any) -> Any:
        body = {"conversation_id": self.conversation, "messages": MESSAGES, "stream": False} | more
        return await self.site.call("POST", "/v1/conversation/completion", self.ann, json=body)

    async def default(self, **models: str) -> None:
        tenant = dict.fromkeys(("asr_id", "embd_id", "img2txt_id", "llm_id", "tts_id"), "")
        body = tenant | {"tenant_id": self.ann.principal.tenant_id} | models
        reply = await self.site.call("POST", "/v1/user/set_tenant_info", self.ann, json=body)
        assert reply["data"] is True, reply

    async def said(self, text: Any) -> Any:
        return await self.site.send("POST", "/v1/conversation/tts", self.ann, json={"text": text})


MESSAGES = [
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "One?", "id": "q1"},
    {"role": "assistant", "content": "<think>Hm</think>Yes.", "id": "q1"},
    {"role": "user", "content": "Two?", "id": "q2"},
]


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    chat, services = FaultyUpstream(), ServicesUpstream()
    settings = {"models": {"private_addresses": True}, "dialog": {"attempts": 1}}
    async with web(tmp_path, **settings) as site, chat.serving(), services.serving():
        ann = await site.person("ann")
        for name, kind, url in ((MODEL, "chat", chat.url), (SPEAKER, "tts", services.url)):
            model, _, factory = name.partition("@")
            body = {"llm_factory": factory, "model_type": kind, "llm_name": model, "api_base": url}
            added = await site.call("POST", "/v1/llm/add_llm", ann, json=body | {"api_key": "sk-0123456789"})
            assert added["data"] is True, added
        prompt = {"system": "Be kind.", "prologue": "Hi.", "parameters": []}
        setting = {"temperature": 0.9, "top_p": 0.8, "max_tokens": 77}
        fields = {"name": "page", "prompt_config": prompt, "llm_setting": setting, "llm_id": "extractive@Builtin"}
        dialog = (await site.call("POST", "/v1/dialog/set", ann, json=fields))["data"]["id"]
        opened = {"is_new": True, "dialog_id": dialog}
        conversation = (await site.call("POST", "/v1/conversation/set", ann, json=opened))["data"]["id"]
        chat.requests.clear()
        services.calls.clear()
        yield Page(site, ann, chat, services, dialog, conversation)


async def test_another_model_for_once_with_its_own_sampling(page: Page) -> None:
    page.chat.will(Plan(tokens=("Blue", ".")))
    reply = await page.complete(llm_id=MODEL, temperature=0.25)
    assert reply["data"]["answer"] == "Blue."
    assert (reply["data"]["id"], reply["data"]["session_id"]) == ("q2", page.conversation)
    sent = page.chat.requests[-1].body
    assert sent["temperature"] == 0.25
    assert "top_p" not in sent
    assert sent.get("max_tokens") != 77
    said = [(each["role"], each["content"]) for each in sent["messages"] if each["role"] != "system"]
    assert said == [("user", "One?"), ("assistant", "Yes."), ("user", "Two?")]
    stored = await page.site.call("GET", f"/v1/conversation/get?conversation_id={page.conversation}", page.ann)
    assert [each["content"] for each in stored["data"]["message"]] == ["Hi."]


async def test_another_model_for_once_that_fails(page: Page) -> None:
    page.chat.will(Plan(fault="status", status=503, error={"message": "no room"}))
    reply = await page.complete(llm_id=MODEL)
    assert reply["data"]["answer"].startswith("**ERROR**")
    assert "no room" in reply["data"]["answer"]


async def test_what_a_model_thought_is_not_stored_as_said(page: Page) -> None:
    assert (await page.complete())["code"] == 0
    stored = await page.site.call("GET", f"/v1/conversation/get?conversation_id={page.conversation}", page.ann)
    texts = [each["content"] for each in stored["data"]["message"]]
    assert texts[:4] == ["Hi.", "One?", "Yes.", "Two?"]


async def test_sampling_of_a_call_goes_over_the_chats(page: Page) -> None:
    fields = {"dialog_id": page.dialog, "prompt_config": {"system": "Be kind.", "parameters": []}, "llm_id": MODEL}
    assert (await page.site.call("POST", "/v1/dialog/set", page.ann, json=fields))["code"] == 0
    assert (await page.complete(temperature=0.25))["code"] == 0
    sent = page.chat.requests[0].body  # After it comes the one for the conversation's name.
    assert (sent["temperature"], sent["top_p"]) == (0.25, 0.8)


@pytest.mark.parametrize("value", ["warm", [], {"a": 1}])
async def test_sampling_that_is_no_number(page: Page, value: Any) -> None:
    reply = await page.complete(temperature=value)
    assert reply["code"] == 100
    assert (await page.complete(temperature=None, max_tokens=0))["code"] == 0


async def test_related_questions_are_the_default_models(page: Page) -> None:
    await page.default(llm_id=MODEL)
    page.chat.will(*(Plan(tokens=("1. How", " long?\n", "2. Who?\n10. Lost")) for _ in range(3)))
    body = {"question": "Where is it?", "industry": "rail"}
    own = await page.site.call("POST", "/api/v1/sessions/related_questions", page.ann, json=body)
    assert own == {"code": 0, "data": ["How long?", "Who?"]}
    assert "rail" in page.chat.requests[-1].body["messages"][-1]["content"]
    by_page = await page.site.call("POST", "/v1/conversation/related_questions", page.ann, json=body)
    assert by_page == {"code": 0, "message": "success", "data": ["How long?", "Who?"]}
    by_share = await page.site.call("POST", f"{SEARCH}/related_questions", page.ann, json=body)
    assert by_share == by_page


async def test_related_questions_of_a_model_that_fails(page: Page) -> None:
    await page.default(llm_id=MODEL)
    page.chat.will(Plan(fault="status", status=503, error={"message": "no room"}))
    reply = await page.site.call("POST", "/v1/conversation/related_questions", page.ann, json={"question": "x"})
    assert (reply["code"], reply["data"]) == (500, None)
    assert "no room" in reply["message"]


async def test_a_text_is_said_clause_by_clause(page: Page) -> None:
    await page.default(tts_id=SPEAKER)
    response = await page.said("It was opened in 1932 [ID:0]. It is long.")
    assert response.content_type == "audio/mpeg"
    sound = await response.get_data()
    assert sound.count(MP3) == 2
    said = [call.body["input"] for call in page.services.calls if call.path.endswith("/audio/speech")]
    assert said == ["It was opened in 1932.", "It is long."]


async def test_a_text_without_words_is_silence(page: Page) -> None:
    await page.default(tts_id=SPEAKER)
    response = await page.said("...")
    assert (response.content_type, await response.get_data()) == ("audio/mpeg", b"")


async def test_a_speaker_that_fails_at_once_is_an_error(page: Page) -> None:
    await page.default(tts_id=SPEAKER)
    page.services.answer = Answer(status=400, body={"error": {"message": "no voice"}})
    reply = json.loads(await (await page.said("Hello.")).get_data())
    assert reply["code"] == 500
    assert "no voice" in reply["message"]


@pytest.mark.parametrize("text", [None, 7, ["a"]])
async def test_what_is_no_text_is_not_said(page: Page, text: Any) -> None:
    reply = json.loads(await (await page.said(text)).get_data())
    assert reply["code"] == 100
    assert reply["message"].startswith("TypeError")


async def test_a_text_has_a_limit(page: Page) -> None:
    reply = json.loads(await (await page.said("x" * 100_001)).get_data())
    assert reply == {"code": 101, "message": "`text` has at most 100000 characters."}


async def test_a_speaker_that_is_gone(page: Page) -> None:
    await page.default(tts_id=SPEAKER)
    gone = {"llm_factory": "VLLM", "llm_name": "voice"}
    assert (await page.site.call("POST", "/v1/llm/delete_llm", page.ann, json=gone))["data"] is True
    reply = json.loads(await (await page.said("Hello.")).get_data())
    assert reply["code"] == 100
    assert "not authorized" in reply["message"]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("plan", "part"),
    [
        (Plan(fault="status", status=503, error={"message": "no room"}), ""),
        (Plan(fault="error_in_stream", after=2, error={"message": "no room"}), "Hello, "),
    ],
)
async def test_the_error_of_an_answer_that_failed_is_no_part_of_the_conversation(
    page: Page, plan: Plan, part: str, streamed: bool
) -> None:
    fields = {"dialog_id": page.dialog, "prompt_config": {"system": "Be kind.", "parameters": []}, "llm_id": MODEL}
    assert (await page.site.call("POST", "/v1/dialog/set", page.ann, json=fields))["code"] == 0
    page.chat.will(plan)
    asked = [{"role": "user", "content": "One?", "id": "q1"}]
    body = {"conversation_id": page.conversation, "messages": asked, "stream": streamed}
    reply = await page.site.send("POST", "/v1/conversation/completion", page.ann, json=body)
    frames = (await reply.get_data()).decode().removeprefix("data:").split("\n\ndata:")
    shown = json.loads(frames[-2 if streamed else -1])["data"]["answer"]
    assert shown.startswith(part)
    assert "**ERROR**" in shown
    page.chat.will(Plan(tokens=("Blue", ".")))
    said = [
        *asked,
        {"role": "assistant", "content": shown, "id": "q1"},
        {"role": "user", "content": "Two?", "id": "q2"},
    ]
    for more in ({}, {"llm_id": MODEL}):
        reply = await page.complete(messages=said, **more)
        assert reply["data"]["answer"] == "Blue."
        assert "**ERROR**" not in json.dumps([each.body for each in page.chat.requests])
    path = f"/v1/conversation/get?conversation_id={page.conversation}"
    stored = (await page.site.call("GET", path, page.ann))["data"]["message"]
    assert [(each["content"], each.get("status")) for each in stored] == [
        ("One?", None),
        (part, "failed"),
        ("Two?", None),
        ("Blue.", None),
    ]
