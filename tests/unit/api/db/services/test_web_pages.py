"""The key of a chat's web search: sealed in the row, masked in replies, opened for its search alone."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from api.apps.dialog_wire import dialog_row
from api.apps.sdk.chat_wire import prompt_wire
from api.db.services.secret_box import SecretBox
from api.db.services.web_pages import MASK, WEB_KEY, WebPages, opened, with_sealed_key, without_key
from api.db.tables import Dialog
from rag.core.errors import StoreError
from rag.core.types import Hit
from tests.unit.api.db.services.talk import BOX, Talk, chatter
from tests.unit.api.db.services.world import ANN, BOB, World

KEY = "tvly-s3cret"


class Searches:
    """In the place of the web search; keeps what it was given."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def search(self, question: str, key: SecretStr) -> tuple[Hit, ...]:
        self.asked.append((question, key.get_secret_value()))
        return ()


def stored(talk: Talk, chat_id: str) -> dict[str, Any]:
    config: dict[str, Any] = Dialog.get(Dialog.id == chat_id).prompt_config
    return config


async def test_a_row_never_holds_the_key_and_its_search_gets_it(world: World) -> None:
    talk, searches = Talk(world, chatter()), Searches()
    chat = await talk.assistants.create(
        ANN, {"name": "C", "llm_id": talk.chat.info.name, "prompt_config": {WEB_KEY: KEY}}
    )
    config = await world.db.run(lambda: stored(talk, chat.id))
    assert KEY not in str(config)
    assert KEY not in str(chat)
    assert prompt_wire(chat)[WEB_KEY] == dialog_row(chat)["prompt_config"][WEB_KEY] == MASK
    pages = WebPages(searches, BOX)  # type: ignore[arg-type]  # a fake
    await pages.find(ANN, config[WEB_KEY], "rain?")
    assert searches.asked == [("rain?", KEY)]
    with pytest.raises(StoreError):
        await pages.find(BOB, config[WEB_KEY], "rain?")


@pytest.mark.parametrize("sent", [MASK, "as stored"])
async def test_what_replies_showed_leaves_the_key_as_it_is(world: World, sent: str) -> None:
    talk = Talk(world, chatter())
    chat = await talk.assistants.create(
        ANN, {"name": "C", "llm_id": talk.chat.info.name, "prompt_config": {WEB_KEY: KEY}}
    )
    before = chat.prompt_config
    changed = dict(before) if sent == "as stored" else {**before, WEB_KEY: MASK}
    after = await talk.assistants.update(ANN, chat.id, {"prompt_config": changed | {"quote": False}})
    assert after.prompt_config == before | {"quote": False}


async def test_a_new_key_takes_its_place_and_an_empty_one_ends_it(world: World) -> None:
    talk = Talk(world, chatter())
    chat = await talk.assistants.create(
        ANN, {"name": "C", "llm_id": talk.chat.info.name, "prompt_config": {WEB_KEY: KEY}}
    )
    other = await talk.assistants.update(ANN, chat.id, {"prompt_config": chat.prompt_config | {WEB_KEY: "tvly-new"}})
    assert opened(BOX, other.prompt_config[WEB_KEY], ANN.tenant_id).get_secret_value() == "tvly-new"
    none = await talk.assistants.update(ANN, chat.id, {"prompt_config": chat.prompt_config | {WEB_KEY: ""}})
    assert none.prompt_config[WEB_KEY] == ""
    assert without_key(none.prompt_config)[WEB_KEY] == ""


def test_a_mask_without_a_key_before_is_no_key() -> None:
    assert with_sealed_key({WEB_KEY: MASK}, BOX, "t") == {WEB_KEY: ""}
    assert with_sealed_key({"a": 1}, BOX, "t") == {"a": 1}


def test_a_sealed_text_of_somebody_else_is_a_key_like_any() -> None:
    foreign = SecretBox("another secret, 32 characters ..").seal(KEY, owner="x")
    kept = with_sealed_key({WEB_KEY: foreign}, BOX, "t")
    assert opened(BOX, kept[WEB_KEY], "t").get_secret_value() == foreign


def test_a_key_of_former_times_is_still_used() -> None:
    assert opened(BOX, KEY, "t").get_secret_value() == KEY
    kept = with_sealed_key({WEB_KEY: KEY}, BOX, "t", stored={WEB_KEY: KEY})
    assert opened(BOX, kept[WEB_KEY], "t").get_secret_value() == KEY
    assert kept[WEB_KEY] != KEY


def test_a_record_does_not_show_what_is_not_there(world: World) -> None:
    chat = Talk(world, chatter()).dialog()
    assert WEB_KEY not in prompt_wire(replace(chat, prompt_config={"quote": True}))
