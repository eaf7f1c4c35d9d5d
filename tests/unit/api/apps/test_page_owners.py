"""Who may see what of the page's chats and of chat bots, beyond the matrix of all routes."""

import re
from typing import Any

import pytest

from api.db.tables import Dataset
from rag.core.ids import new_id
from tests.unit.api.apps.web import Person, Web

PROMPT = {"system": "Be kind.", "prologue": "Hi.", "parameters": []}


async def dialog_of(site: Web, who: Person, **more: Any) -> str:
    made = await site.call("POST", "/v1/dialog/set", who, json={"prompt_config": PROMPT} | more)
    return str(made["data"]["id"])


async def open_with(site: Web, who: Person, dialog: str, wanted: str) -> Any:
    body = {"conversation_id": wanted, "is_new": True, "dialog_id": dialog}
    return await site.call("POST", "/v1/conversation/set", who, json=body)


async def shared_session(site: Web, who: Person, dialog: str) -> str:
    reply = await site.call("POST", f"/api/v1/chatbots/{dialog}/completions", who, json={"stream": False})
    found = re.search(r'"session_id":"(\w+)"', reply["data"])
    assert found is not None, reply
    return found[1]


async def test_an_id_that_somebody_has_is_not_taken_over(site: Web) -> None:
    alice, bob = await site.person("alice"), await site.person("bob")
    hers, his, wanted = await dialog_of(site, alice), await dialog_of(site, bob), new_id()
    assert (await open_with(site, alice, hers, wanted))["code"] == 0
    refused = await open_with(site, bob, his, wanted)
    assert (refused["code"], refused["message"]) == (100, "1062")
    kept = await site.call("GET", f"/v1/conversation/get?conversation_id={wanted}", alice)
    assert (kept["data"]["dialog_id"], kept["data"]["message"][0]["content"]) == (hers, "Hi.")


@pytest.mark.parametrize("wanted", ["a/b", "a b", "ä", "a\n", ".", 7, ["a"]])
async def test_ids_of_clients_are_plain(site: Web, wanted: Any) -> None:
    """A stream of events is named by the ids of its session and its message."""
    ann = await site.person("ann")
    dialog = await dialog_of(site, ann)
    assert (await open_with(site, ann, dialog, wanted))["code"] == 101
    opened = (await open_with(site, ann, dialog, ""))["data"]["id"]
    body = {"conversation_id": opened, "messages": [{"role": "user", "content": "x", "id": wanted}]}
    assert (await site.call("POST", "/v1/conversation/completion", ann, json=body))["code"] == 101


async def test_a_message_id_that_is_too_long(site: Web) -> None:
    ann = await site.person("ann")
    opened = (await open_with(site, ann, await dialog_of(site, ann), ""))["data"]["id"]
    body = {"conversation_id": opened, "messages": [{"role": "user", "content": "x", "id": "x" * 37}]}
    reply = await site.call("POST", "/v1/conversation/completion", ann, json=body)
    assert reply["message"] == "The `id` of a message has at most 36 characters."


async def test_a_share_token_opens_its_own_tenants_chats_only(site: Web) -> None:
    alice, bob = await site.person("alice"), await site.person("bob")
    dialog = await dialog_of(site, alice, name="secret")
    session = await shared_session(site, alice, dialog)
    for path in (f"/api/v1/chatbots/{dialog}/info", f"/v1/conversation/getsse/{dialog}"):
        assert (await site.call("GET", path, bob))["code"] == 102
        assert "secret" in str(await site.call("GET", path, alice))
    body = {"question": "x", "session_id": session, "stream": False}
    path = f"/api/v1/chatbots/{dialog}/completions"
    assert (await site.call("POST", path, bob, json=body))["message"] == "AssertionError('Dialog not found')"
    assert (await site.call("POST", path, alice, json=body))["data"]["session_id"] == session


async def test_sessions_of_share_tokens_and_of_the_owner_are_apart(site: Web) -> None:
    ann = await site.person("ann")
    dialog = await dialog_of(site, ann)
    shared = await shared_session(site, ann, dialog)
    own = (await open_with(site, ann, dialog, ""))["data"]["id"]
    reply = await site.call(
        "POST",
        f"/api/v1/chatbots/{dialog}/completions",
        ann,
        json={"question": "x", "session_id": own, "stream": False},
    )
    assert reply["message"] == "AssertionError('Session not found!')"
    reply = await site.call("GET", f"/v1/conversation/get?conversation_id={shared}", ann)
    assert reply == {"code": 102, "message": "Conversation not found!"}
    listed = await site.call("GET", f"/v1/conversation/list?dialog_id={dialog}", ann)
    assert [each["id"] for each in listed["data"]] == [own]


@pytest.mark.parametrize("path", ["/api/v1/chats", "/v1/dialog/list", "/v1/conversation/list?dialog_id=x"])
async def test_a_share_token_opens_nothing_else(site: Web, path: str) -> None:
    ann = await site.person("ann")
    reply = await site.call("GET", path, headers=ann.headers("share"))
    assert reply["code"] in (109, 401)


@pytest.mark.parametrize("credential", ["key", "login", "cookie"])
async def test_the_share_routes_take_share_tokens_only(site: Web, credential: str) -> None:
    ann = await site.person("ann")
    dialog = await dialog_of(site, ann)
    reply = await site.call("GET", f"/api/v1/chatbots/{dialog}/info", headers=ann.headers(credential))
    assert reply["code"] in (100, 102)
    assert "data" not in reply or reply["data"] is None


async def test_the_cookie_opens_the_page_for_our_own_pages_only(site: Web) -> None:
    ann = await site.person("ann")
    cookie = ann.headers("cookie")
    made = await site.call("POST", "/v1/dialog/set", headers=cookie, json={"prompt_config": PROMPT})
    assert made["code"] == 0
    elsewhere = cookie | {"Origin": "http://elsewhere.example"}
    refused = await site.call("POST", "/v1/dialog/set", headers=elsewhere, json={"prompt_config": PROMPT})
    assert refused["code"] == 401


async def test_datasets_of_different_embedding_models(site: Web) -> None:
    ann = await site.person("ann")
    one, two = [(await site.dataset(ann, name))[0] for name in ("one", "two")]
    await site.services.db.write(lambda: Dataset.update(embedding_model="b@X").where(Dataset.id == two).execute())
    body = {"prompt_config": PROMPT, "kb_ids": [one, two]}
    reply = await site.call("POST", "/v1/dialog/set", ann, json=body)
    text = "Datasets use different embedding models: ['minilm@Builtin', 'b@X']\""
    assert reply == {"code": 102, "message": text}
    search = {"question": "x", "kb_id": [one, two]}
    reply = await site.call("POST", "/api/v1/searchbots/retrieval_test", ann, json=search)
    assert reply == {"code": 102, "message": 'Datasets use different embedding models."'}


async def test_a_conversation_whose_chat_is_gone(site: Web) -> None:
    ann = await site.person("ann")
    dialog = await dialog_of(site, ann)
    opened = (await open_with(site, ann, dialog, ""))["data"]["id"]
    assert (await site.call("POST", "/v1/dialog/rm", ann, json={"dialog_ids": [dialog]}))["data"] is True
    reply = await site.call("GET", f"/v1/conversation/get?conversation_id={opened}", ann)
    assert reply == {"code": 102, "message": "Conversation not found!"}
    reply = await site.call("GET", f"/v1/conversation/list?dialog_id={dialog}", ann)
    assert reply["code"] == 103


async def test_columns_that_follow_from_others_are_not_set(site: Web) -> None:
    ann = await site.person("ann")
    dialog = await dialog_of(site, ann)
    row = (await open_with(site, ann, dialog, ""))["data"]
    body = {"conversation_id": row["id"], "is_new": False, "name": "mine"}
    kept = await site.call("POST", "/v1/conversation/set", ann, json=row | body)
    assert kept["data"]["name"] == "mine"
    for change in ({"message": []}, {"dialog_id": "other"}):
        reply = await site.call("POST", "/v1/conversation/set", ann, json=row | body | change)
        assert (reply["code"], reply["message"].endswith("can not be change")) == (101, True)


async def test_foreign_ids_beside_own_ones(site: Web) -> None:
    """The conversation is Bob's, what is named beside it is Alice's."""
    alice, bob = await site.person("alice"), await site.person("bob")
    dataset, (document,) = await site.dataset(alice, "papers", "secret.txt")
    hers = (await open_with(site, alice, await dialog_of(site, alice), ""))["data"]["id"]
    asked = [{"role": "user", "content": "secret words", "id": "q1"}]
    await site.call(
        "POST",
        "/v1/conversation/completion",
        alice,
        json={"conversation_id": hers, "messages": asked, "stream": False},
    )
    dialog = await dialog_of(site, bob)
    his = (await open_with(site, bob, dialog, ""))["data"]["id"]
    before = await site.call("GET", f"/v1/conversation/get?conversation_id={his}", bob)
    for route in ("delete_msg", "thumbup"):
        body = {"conversation_id": his, "message_id": "q1", "thumbup": True}
        reply = await site.call("POST", f"/v1/conversation/{route}", bob, json=body)
        assert reply["data"]["message"] == before["data"]["message"]
    mine = [{"role": "user", "content": "words", "id": "q1"}]
    body = {"conversation_id": his, "messages": mine, "stream": False}
    reply = await site.call("POST", "/v1/conversation/completion", bob, json=body | {"kb_ids": [dataset]})
    assert reply == {"code": 102, "message": f"You don't own the dataset {dataset}"}
    reply = await site.call("POST", "/v1/conversation/completion", bob, json=body | {"doc_ids": document})
    assert "secret" not in str(reply)
    reply = await site.call(
        "POST", "/v1/dialog/set", bob, json={"dialog_id": dialog, "prompt_config": PROMPT, "kb_ids": [dataset]}
    )
    assert reply["code"] == 103
    kept = await site.call("GET", f"/v1/conversation/get?conversation_id={hers}", alice)
    assert [each["content"] for each in kept["data"]["message"]][:1] == ["secret words"]
    assert "thumbup" not in kept["data"]["message"][-1]
