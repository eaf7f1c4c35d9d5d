"""A spent budget as each face tells it, on the whole app: the built-in model is given a price for it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from api.db.tables import Message, Usage
from tests.unit.api.apps.web import Person, Web, web

MODEL = "extractive@Builtin"
PRICES = {"usd_per_million": {MODEL: {"input": 1_000_000, "output": 1_000_000}}}
SPENT = "The day's model budget of this API key is spent ($"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Web]:
    """Any one call spends more than a key may spend in a day."""
    async with web(tmp_path, prices=PRICES, budget={"key_usd": 0.5}) as running:
        yield running


async def chat_of(site: Web, who: Person) -> tuple[str, str]:
    """A chat without datasets, and a session of it."""
    chat = await site.call("POST", "/api/v1/chats", who, json={"name": "Talk"})
    chat_id = chat["data"]["id"]
    session = await site.call("POST", f"/api/v1/chats/{chat_id}/sessions", who, json={"name": "One"})
    return chat_id, session["data"]["id"]


async def ask(site: Web, who: Person, chat: tuple[str, str], **more: Any) -> Any:
    body = {"question": "What is the answer?", "session_id": chat[1], "stream": False} | more
    response = await site.send("POST", f"/api/v1/chats/{chat[0]}/completions", who, json=body)
    await site.services.models.settle()
    return response


async def spend(site: Web, who: Person) -> tuple[str, str]:
    """Ask once, which takes all the budget there is."""
    chat = await chat_of(site, who)
    reply = orjson.loads(await (await ask(site, who, chat)).get_data())
    assert reply["code"] == 0, reply
    row = await site.services.db.run(lambda: Usage.get(Usage.purpose == "answer"))
    assert row.cost_usd > 0.5
    assert row.key_id
    return chat


async def test_the_contracts_routes_tell_it_and_the_conversation_can_go_on(site: Web) -> None:
    ann = await site.person("ann")
    chat = await spend(site, ann)
    response = await ask(site, ann, chat)
    assert response.status_code == 200
    reply = orjson.loads(await response.get_data())
    assert reply["code"] != 0
    assert SPENT in reply["message"]
    assert "PARLEY_BUDGET__KEY_USD" in reply["message"]
    rows = await site.services.db.run(lambda: list(Message.select().where(Message.role == "assistant")))
    ended = [(row.status, row.error.partition("$")[0]) for row in sorted(rows, key=lambda row: row.turn) if row.turn]
    assert ended == [("done", ""), ("failed", f"budget_spent: {SPENT[:-1]}")]
    # With a key that has something left the same session goes on.
    other = await site.services.tokens.create(ann.principal)
    fresh = await site.send(
        "POST",
        f"/api/v1/chats/{chat[0]}/completions",
        headers={"Authorization": f"Bearer {other.key}"},
        json={"question": "And now?", "session_id": chat[1], "stream": False},
    )
    assert orjson.loads(await fresh.get_data())["code"] == 0


async def test_a_stream_tells_it_in_a_frame(site: Web) -> None:
    ann = await site.person("ann")
    chat = await spend(site, ann)
    text = (await (await ask(site, ann, chat, stream=True)).get_data()).decode()
    frames = [orjson.loads(line.removeprefix("data:")) for line in text.splitlines() if line]
    assert frames[-1]["data"] is True
    assert any(frame["code"] == 500 and SPENT in frame["message"] for frame in frames)
    assert any(isinstance(frame["data"], dict) and SPENT in frame["data"]["answer"] for frame in frames)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_openai_face_says_insufficient_quota(site: Web, stream: bool) -> None:
    ann = await site.person("ann")
    await spend(site, ann)
    said = [{"role": "user", "content": "What is the answer?"}]
    body = {"model": "chat:Talk", "messages": said, "stream": stream}
    response = await site.send("POST", "/v1/chat/completions", ann, json=body)
    assert response.status_code == 429
    assert response.headers["x-should-retry"] == "false"
    error = orjson.loads(await response.get_data())["error"]
    assert (error["type"], error["code"], error["param"]) == ("insufficient_quota", "insufficient_quota", None)
    assert error["message"].startswith(SPENT)


async def test_no_call_is_made_and_no_row_written_once_it_is_spent(site: Web) -> None:
    ann = await site.person("ann")
    chat = await spend(site, ann)
    before = await site.services.db.run(lambda: Usage.select().count())
    await ask(site, ann, chat)
    assert await site.services.db.run(lambda: Usage.select().count()) == before
