"""Every route of the URL map, asked by somebody else: foreign and unknown ids look the same, and nothing changes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from api.apps.auth import AUTH_MARK
from api.db.tables import Message
from rag.core.ids import new_id, new_message_id
from tests.unit.api.apps.web import Person, Web, multipart

MARKS = {"public", "page", "login", "api_key", "share"}
_SLOT = re.compile(r"<(?:\w+:)?(\w+)>")

BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("PUT", "/api/v1/datasets/<dataset_id>"): {"name": "taken over"},
    ("DELETE", "/api/v1/datasets"): {"ids": ["{dataset_id}"]},
    ("PUT", "/api/v1/datasets/<dataset_id>/documents/<document_id>"): {"meta_fields": {"a": 1}},
    ("DELETE", "/api/v1/datasets/<dataset_id>/documents"): {"ids": ["{document_id}"]},
    ("POST", "/api/v1/datasets/<dataset_id>/chunks"): {"document_ids": ["{document_id}"]},
    ("DELETE", "/api/v1/datasets/<dataset_id>/chunks"): {"document_ids": ["{document_id}"]},
    ("POST", "/api/v1/datasets/<dataset_id>/progress"): {"document_ids": ["{document_id}"]},
    ("POST", "/api/v1/retrieval"): {"question": "words", "dataset_ids": ["{dataset_id}"]},
    ("POST", "/api/v1/chats"): {"name": "mine", "dataset_ids": ["{dataset_id}"]},
    ("PUT", "/api/v1/chats/<chat_id>"): {"name": "taken over", "dataset_ids": ["{dataset_id}"]},
    ("DELETE", "/api/v1/chats"): {"ids": ["{chat_id}"]},
    ("POST", "/api/v1/chats/<chat_id>/sessions"): {"name": "mine"},
    ("PUT", "/api/v1/chats/<chat_id>/sessions/<session_id>"): {"name": "taken over"},
    ("DELETE", "/api/v1/chats/<chat_id>/sessions"): {"ids": ["{session_id}"]},
    ("POST", "/api/v1/chats/<chat_id>/completions"): {
        "question": "words",
        "session_id": "{session_id}",
        "stream": False,
    },
    ("POST", "/api/v1/chats/<chat_id>/sessions/<session_id>/messages"): {"question": "words"},
    ("POST", "/api/v1/chats/<chat_id>/sessions/<session_id>/messages/<message_id>/edit"): {"question": "words"},
    ("POST", "/api/v1/chats/<chat_id>/sessions/<session_id>/messages/<message_id>/rate"): {"up": True},
    ("POST", "/api/v1/chats_openai/<chat_id>/chat/completions"): {
        "model": "m",
        "messages": [{"role": "user", "content": "words"}],
        "stream": False,
    },
    ("POST", "/api/v1/sessions/ask"): {"question": "words", "dataset_ids": ["{dataset_id}"]},
    ("POST", "/api/v1/sessions/related_questions"): {"question": "words", "industry": "rail"},
    ("POST", "/api/v1/chatbots/<chat_id>/completions"): {
        "question": "words",
        "session_id": "{session_id}",
        "stream": False,
        "kb_ids": ["{dataset_id}"],
    },
    ("POST", "/api/v1/searchbots/ask"): {"question": "words", "kb_ids": ["{dataset_id}"]},
    ("POST", "/api/v1/searchbots/retrieval_test"): {
        "question": "words",
        "kb_id": "{dataset_id}",
        "doc_ids": ["{document_id}"],
    },
    ("POST", "/api/v1/searchbots/related_questions"): {"question": "words"},
    ("POST", "/api/v1/searchbots/mindmap"): {"question": "words", "kb_ids": ["{dataset_id}"]},
    ("POST", "/v1/dialog/set"): {
        "dialog_id": "{chat_id}",
        "prompt_config": {"system": "taken over"},
        "kb_ids": ["{dataset_id}"],
    },
    ("GET", "/v1/dialog/get"): {"dialog_id": "{chat_id}"},
    ("POST", "/v1/dialog/next"): {"owner_ids": ["{tenant_id}"]},
    ("POST", "/v1/dialog/rm"): {"dialog_ids": ["{chat_id}"]},
    ("POST", "/v1/conversation/set"): {"conversation_id": "{session_id}", "is_new": False, "name": "taken over"},
    ("GET", "/v1/conversation/get"): {"conversation_id": "{session_id}"},
    ("GET", "/v1/conversation/list"): {"dialog_id": "{chat_id}"},
    ("POST", "/v1/conversation/rm"): {"conversation_ids": ["{session_id}"]},
    ("POST", "/v1/conversation/completion"): {
        "conversation_id": "{session_id}",
        "messages": [{"role": "user", "content": "words", "id": "mine"}],
        "stream": False,
        "kb_ids": ["{dataset_id}"],
    },
    ("POST", "/v1/conversation/ask"): {"question": "words", "kb_ids": ["{dataset_id}"]},
    ("POST", "/v1/conversation/mindmap"): {"question": "words", "kb_ids": ["{dataset_id}"]},
    ("POST", "/v1/conversation/related_questions"): {"question": "words"},
    ("POST", "/v1/conversation/delete_msg"): {"conversation_id": "{session_id}", "message_id": "{message_id}"},
    ("POST", "/v1/conversation/thumbup"): {
        "conversation_id": "{session_id}",
        "message_id": "{message_id}",
        "thumbup": True,
    },
    ("POST", "/v1/conversation/tts"): {"text": "words"},
    ("POST", "/v1/chat/completions"): {
        "model": "dataset:{dataset_name}",
        "messages": [{"role": "user", "content": "words"}],
    },
    ("POST", "/v1/user/set_tenant_info"): {
        "tenant_id": "{tenant_id}",
        "llm_id": "",
        "embd_id": "",
        "asr_id": "",
        "img2txt_id": "",
    },
}
"""What the routes with bodies are sent, and the query of those that are read by query. A route that takes ids there
stands here."""
NO_IDS = {
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/",
    "/v1/system/ping",
    "/v1/system/healthz",
    "/v1/system/config",
    "/v1/system/version",
    "/v1/system/new_token",
    "/v1/system/token_list",
    "/v1/user/register",
    "/v1/user/login",
    "/v1/user/logout",
    "/v1/user/info",
    "/v1/user/tenant_info",
    "/v1/dialog/list",
    "/v1/conversation/related_questions",
    "/v1/conversation/tts",
    "/api/v1/sessions/related_questions",
    "/api/v1/searchbots/related_questions",
    "/v1/models",
    "/v1/embeddings",
    "/v1/llm/factories",
    "/v1/llm/set_api_key",
    "/v1/llm/add_llm",
    "/v1/llm/delete_llm",
    "/v1/llm/enable_llm",
    "/v1/llm/delete_factory",
    "/v1/llm/my_llms",
    "/v1/llm/list",
    "/v1/api/stats",
    "/v1/api/metrics",
    "/api/v1/metrics",
    "/v1/api/metrics/chats",
    "/api/v1/metrics/chats",
    "/v1/api/metrics/sessions",
    "/api/v1/metrics/sessions",
}
"""Routes that take no id of an object; lists among the others are checked by what they show."""
SAME_FOR_ALL = {"/v1/system/token/<token>"}
"""Answers `true` whatever the token (the contract); the owner's key must live on."""


@dataclass(frozen=True, kw_only=True)
class Objects:
    """One of everything that a person can own, by the names of the URL map's variables."""

    ids: dict[str, str]

    def fill(self, value: Any) -> Any:
        if isinstance(value, str):
            for name, text in self.ids.items():
                value = value.replace("{" + name + "}", text)
            return value
        if isinstance(value, dict):
            return {key: self.fill(item) for key, item in value.items()}
        return [self.fill(item) for item in value] if isinstance(value, list) else value

    def url(self, rule: str) -> str:
        return _SLOT.sub(lambda slot: self.ids[slot[1]], rule)


async def make_objects(site: Web, who: Person, name: str) -> Objects:
    dataset, (document,) = await site.dataset(who, name, "secret.txt")
    chat = (await site.call("POST", "/api/v1/chats", who, json={"name": name}))["data"]["id"]
    session = (await site.call("POST", f"/api/v1/chats/{chat}/sessions", who, json={}))["data"]["id"]
    message = new_message_id()
    rows = [
        {
            "conversation_id": session,
            "turn": 1,
            "role": role,
            "message_id": message,
            "content": "secret words",
            "created_at": 1.0,
        }
        for role in ("user", "assistant")
    ]
    await site.services.db.write(lambda: Message.insert_many(rows).execute())
    return Objects(
        ids={
            "dataset_id": dataset,
            "document_id": document,
            "chat_id": chat,
            "session_id": session,
            "message_id": message,
            "token": who.key,
            "name": f"dataset:{name}",
            "dataset_name": name,
            "tenant_id": who.principal.tenant_id,
        }
    )


def nothing(like: Objects) -> Objects:
    """Ids of the same form that nobody has."""
    made = {
        name: new_message_id() if name == "message_id" else new_id()
        for name in like.ids
        if name not in ("name", "dataset_name")
    }
    return Objects(ids=made | {"name": "dataset:nobodys", "dataset_name": "nobodys"})


def routes(site: Web) -> Iterator[tuple[str, str]]:
    for rule in site.app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield method, rule.rule


async def ask(site: Web, who: Person, objects: Objects, method: str, rule: str) -> tuple[int, str]:
    """Status and body of the request, with the ids that were asked for taken out."""
    arguments: dict[str, Any] = {}
    if rule.endswith("/documents") and method == "POST":
        body, content_type = multipart(("file", "a.txt", b"x"))
        arguments = {"content": body, "headers": {"Content-Type": content_type}}
    elif method == "GET":
        arguments["query_string"] = objects.fill(BODIES.get((method, rule), {}))
    else:
        arguments["json"] = objects.fill(BODIES.get((method, rule), {}))
    response = await site.send(method, objects.url(rule), who, **arguments)
    text = (await response.get_data()).decode()
    for value in sorted(objects.ids.values(), key=len, reverse=True):
        text = text.replace(value, "ID")
    return response.status_code, text


async def snapshot(site: Web, who: Person, objects: Objects) -> list[Any]:
    """All that `who` can see of the objects."""
    ids = objects.ids
    dataset, chat = f"/api/v1/datasets/{ids['dataset_id']}", f"/api/v1/chats/{ids['chat_id']}"
    paths = ["/api/v1/datasets", f"{dataset}/documents", "/api/v1/chats", f"{chat}/sessions", "/v1/user/tenant_info"]
    return [await site.call("GET", path, who) for path in paths]


def test_every_route_says_who_may_call_it(site: Web) -> None:
    for rule in site.app.url_map.iter_rules():
        view = site.app.view_functions[rule.endpoint]
        assert getattr(view, AUTH_MARK, None) in MARKS, f"{rule.rule} has no credential check"


async def test_foreign_ids_look_unknown_on_every_route(site: Web) -> None:
    alice, bob = await site.person("alice"), await site.person("bob")
    owned = await make_objects(site, alice, "alices papers")
    before = await snapshot(site, alice, owned)
    tried = 0
    for method, rule in routes(site):
        if rule in NO_IDS:
            continue
        foreign = await ask(site, bob, owned, method, rule)
        unknown = await ask(site, bob, nothing(owned), method, rule)
        if rule not in SAME_FOR_ALL and not lists_own(method, rule):
            assert foreign == unknown, f"{method} {rule} tells foreign from unknown"
            assert '"code":0' not in foreign[1] or foreign[0] >= 400, f"{method} {rule}: {foreign}"
        assert "secret" not in foreign[1], f"{method} {rule} shows foreign content"
        tried += 1
    assert tried > 25
    assert await snapshot(site, alice, owned) == before, "somebody else changed something"


def lists_own(method: str, rule: str) -> bool:
    """Lists and creations at the top: they answer, with the caller's own."""
    return rule in ("/api/v1/datasets", "/api/v1/chats", "/v1/dialog/next") and method in ("GET", "POST")


async def test_foreign_children_of_own_parents(site: Web) -> None:
    alice, bob = await site.person("alice"), await site.person("bob")
    hers, his = await make_objects(site, alice, "alices papers"), await make_objects(site, bob, "bobs papers")
    before = await snapshot(site, alice, hers)
    children = ("document_id", "session_id", "message_id")
    mixed = Objects(ids=his.ids | {name: hers.ids[name] for name in children})
    unknown = Objects(ids=his.ids | {name: nothing(hers).ids[name] for name in children})
    for method, rule in routes(site):
        if not any(f"<{name}>" in rule for name in children):
            continue
        foreign = await ask(site, bob, mixed, method, rule)
        assert foreign == await ask(site, bob, unknown, method, rule), f"{method} {rule}"
        assert "secret words" not in foreign[1]
    assert await snapshot(site, alice, hers) == before


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_foreign_documents_in_bodies(site: Web, method: str) -> None:
    alice, bob = await site.person("alice"), await site.person("bob")
    hers, his = await make_objects(site, alice, "alices papers"), await make_objects(site, bob, "bobs papers")
    document, dataset = hers.ids["document_id"], his.ids["dataset_id"]
    path = f"/api/v1/datasets/{dataset}/chunks"
    reply = await site.call(method, path, bob, json={"document_ids": [document]})
    assert reply["code"] == 102
    reply = await site.call("DELETE", f"/api/v1/datasets/{dataset}/documents", bob, json={"ids": [document]})
    assert reply == {"code": 102, "message": f"Documents not found: ['{document}']"}
    found = await site.call(
        "POST",
        "/api/v1/retrieval",
        bob,
        json={"question": "secret", "dataset_ids": [dataset], "document_ids": [document]},
    )
    assert found == {"code": 102, "message": f"The datasets don't own the document {document}"}
    listed = await site.call("GET", f"/api/v1/datasets/{hers.ids['dataset_id']}/documents", alice)
    assert [each["run"] for each in listed["data"]["docs"]] == ["UNSTART"]


async def test_foreign_datasets_of_a_chat(site: Web) -> None:
    alice, bob = await site.person("alice"), await site.person("bob")
    hers, his = await make_objects(site, alice, "alices papers"), await make_objects(site, bob, "bobs papers")
    foreign = [hers.ids["dataset_id"]]
    made = await site.call("POST", "/api/v1/chats", bob, json={"name": "x", "dataset_ids": foreign})
    assert made["code"] != 0
    changed = await site.call(
        "PUT", f"/api/v1/chats/{his.ids['chat_id']}", bob, json={"name": "y", "dataset_ids": foreign}
    )
    assert changed["code"] != 0


async def test_a_foreign_key_is_not_revoked(site: Web) -> None:
    alice, bob = await site.person("alice"), await site.person("bob")
    assert (await site.call("DELETE", f"/v1/system/token/{alice.key}", bob))["data"] is True
    assert (await site.call("GET", "/api/v1/datasets", alice))["code"] == 0
    assert (await site.call("DELETE", f"/v1/system/token/{alice.key}", alice))["data"] is True
    assert (await site.call("GET", "/api/v1/datasets", alice))["code"] == 109
