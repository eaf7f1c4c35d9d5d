import asyncio
from typing import Any

import pytest

from api.db.services.assistant_defaults import LLM, PROMPT, SYSTEM
from api.db.services.records import BatchResult, Page
from api.db.tables import Tenant
from rag.core.errors import Conflict, InvalidInput, LimitExceeded, NotFound, RagError
from rag.core.ids import is_row_id
from tests.unit.api.db.services.talk import Talk, chatter
from tests.unit.api.db.services.world import ANN, BOB, World


@pytest.fixture
def talk(world: World) -> Talk:
    return Talk(world, chatter(name="extractive@Builtin"))


async def test_a_new_chat_has_the_defaults(talk: Talk) -> None:
    chat = await talk.assistants.create(ANN, {"name": " My Chat "})
    assert is_row_id(chat.id)
    assert (chat.tenant_id, chat.name, chat.status) == ("ann", "My Chat", "1")
    assert chat.prompt_config == dict(PROMPT)
    assert chat.llm_setting == dict(LLM)
    assert chat.llm_id == "extractive@Builtin"
    assert (chat.top_n, chat.top_k, chat.similarity_threshold, chat.vector_similarity_weight) == (6, 1024, 0.2, 0.3)
    assert (chat.dataset_ids, chat.meta_data_filter, chat.description) == ((), {}, "A helpful Assistant")
    assert await talk.assistants.get(ANN, chat.id) == chat
    assert SYSTEM.count("\n      ") == 3
    assert not SYSTEM.endswith("\n")


async def test_what_is_sent_is_kept(talk: Talk, world: World) -> None:
    dataset = await world.dataset()
    await world.parsed(dataset, "a.txt", ["one"])
    sent = {
        "name": "a",
        "dataset_ids": [dataset.id],
        "llm_setting": {"temperature": 0},
        "prompt_config": {"system": "", "prologue": "Hello", "extra": {"x": 1}},
        "top_n": 3,
    }
    chat = await talk.assistants.create(ANN, sent)
    assert chat.dataset_ids == (dataset.id,)
    assert chat.llm_setting == {"temperature": 0}
    assert chat.prompt_config == dict(PROMPT) | {"prologue": "Hello", "extra": {"x": 1}}
    assert chat.top_n == 3


async def test_the_tenants_own_model_comes_before_the_servers(talk: Talk, world: World) -> None:
    talk.models._registry._chats.append(chatter(name="own@Testing"))  # type: ignore[attr-defined]
    await world.db.write(lambda: Tenant.update(llm_id="own@Testing").where(Tenant.id == "ann").execute())
    await world.db.write(lambda: Tenant.update(llm_id="gone@Testing").where(Tenant.id == "bob").execute())
    assert (await talk.assistants.create(ANN, {"name": "a"})).llm_id == "own@Testing"
    assert (await talk.assistants.create(BOB, {"name": "a"})).llm_id == "extractive@Builtin"


@pytest.mark.parametrize(
    ("sent", "error", "field"),
    [
        ({}, InvalidInput, "name"),
        ({"name": ""}, InvalidInput, "name"),
        ({"name": 7}, InvalidInput, "name"),
        ({"name": "\u202e\u0000"}, InvalidInput, "name"),
        ({"name": "x" * 256}, LimitExceeded, "name"),
        ({"name": "x", "llm_id": "nothing@Nowhere"}, InvalidInput, "llm_id"),
        ({"name": "x", "llm_id": 3}, InvalidInput, "llm_id"),
        ({"name": "x", "tenant_id": "bob"}, InvalidInput, "tenant_id"),
        ({"name": "x", "status": "0"}, InvalidInput, "status"),
        ({"name": "x", "prompt_config": {"system": "no slot"}}, InvalidInput, "parameters"),
        ({"name": "x", "prompt_config": {"parameters": [{"key": "a"}]}}, InvalidInput, "parameters"),
        ({"name": "x", "prompt_config": {"parameters": [{"key": "a", "optional": False}]}}, InvalidInput, "parameters"),
    ],
)
async def test_what_cannot_be_used_is_named(
    talk: Talk, sent: dict[str, Any], error: type[RagError], field: str
) -> None:
    with pytest.raises(error) as caught:
        await talk.assistants.create(ANN, sent)
    assert caught.value.facts["field"] == field
    assert await talk.assistants.list(ANN, Page()) == []


async def test_datasets_must_be_own_parsed_and_alike(talk: Talk, world: World) -> None:
    empty, foreign = await world.dataset(name="empty"), await world.dataset(BOB, name="foreign")
    one = await world.dataset(name="one")
    other = await world.dataset(name="other", embedding_model="other@Testing")
    for dataset in (one, other):
        await world.parsed(dataset, "a.txt", ["one"])
    for dataset_ids, kind, field in [
        ([foreign.id], NotFound, None),
        ([one.id, "nothing"], NotFound, None),
        ([empty.id], Conflict, "dataset_ids"),
        ([one.id, other.id], Conflict, "embedding_model"),
    ]:
        with pytest.raises(kind) as caught:
            await talk.assistants.create(ANN, {"name": "a", "dataset_ids": dataset_ids})
        assert caught.value.facts.get("field") == field


async def test_a_name_is_used_once_whatever_its_case(talk: Talk) -> None:
    chat = await talk.assistants.create(ANN, {"name": "Straße"})
    with pytest.raises(Conflict) as caught:
        await talk.assistants.create(ANN, {"name": "STRASSE"})
    assert caught.value.facts["field"] == "name"
    await talk.assistants.create(BOB, {"name": "Straße"})
    await talk.assistants.delete(ANN, [chat.id])
    await talk.assistants.create(ANN, {"name": "strasse"})


async def test_of_many_creations_at_once_one_gets_the_name(talk: Talk) -> None:
    made = [talk.assistants.create(ANN, {"name": "same"}) for _ in range(10)]
    results = await asyncio.gather(*made, return_exceptions=True)
    assert sum(isinstance(result, Conflict) for result in results) == 9


async def test_an_update_changes_what_it_names(talk: Talk) -> None:
    chat = await talk.assistants.create(ANN, {"name": "a"})
    await talk.assistants.create(ANN, {"name": "taken"})
    changed = await talk.assistants.update(ANN, chat.id, {"name": "A", "top_n": 2, "description": ""})
    assert (changed.name, changed.top_n, changed.description) == ("A", 2, "")
    assert changed.update_time > chat.update_time
    assert changed.prompt_config == chat.prompt_config
    assert (await talk.assistants.update(ANN, chat.id, {})).name == "A"
    with pytest.raises(Conflict):
        await talk.assistants.update(ANN, chat.id, {"name": "TAKEN"})
    with pytest.raises(InvalidInput):
        await talk.assistants.update(ANN, chat.id, {"prompt_config": {**chat.prompt_config, "system": "none"}})
    with pytest.raises(InvalidInput):
        await talk.assistants.update(ANN, chat.id, {"llm_id": "no@no"})
    with pytest.raises(NotFound):
        await talk.assistants.update(ANN, chat.id, {"dataset_ids": ["x"]})
    assert await talk.assistants.get(ANN, chat.id) == await talk.assistants.by_name(ANN, "ａ")


async def test_foreign_and_deleted_chats_are_not_found(talk: Talk) -> None:
    foreign = await talk.assistants.create(BOB, {"name": "b"})
    deleted = await talk.assistants.create(ANN, {"name": "d"})
    await talk.assistants.delete(ANN, [deleted.id])
    for each in (foreign.id, deleted.id, "' OR 1=1 --", ""):
        with pytest.raises(NotFound) as caught:
            await talk.assistants.get(ANN, each)
        assert caught.value.kind == "chat"
        with pytest.raises(NotFound):
            await talk.assistants.update(ANN, each, {"name": "mine"})
        assert (await talk.assistants.delete(ANN, [each])).unknown == (each,)
    with pytest.raises(NotFound):
        await talk.assistants.by_name(ANN, "b")
    assert await talk.assistants.list(ANN, Page()) == []
    assert await talk.assistants.get(BOB, foreign.id) == foreign


async def test_lists_are_paged_ordered_and_narrowed(talk: Talk) -> None:
    chats = [await talk.assistants.create(ANN, {"name": f"chat {n}"}) for n in range(5)]
    listed = await talk.assistants.list(ANN, Page(size=2))
    assert [each.name for each in listed] == ["chat 4", "chat 3"]
    listed = await talk.assistants.list(ANN, Page(number=3, size=2, descending=False, order_by="name"))
    assert [each.name for each in listed] == ["chat 4"]
    assert await talk.assistants.list(ANN, Page(), id=chats[1].id, name="CHAT 1") == [chats[1]]
    assert await talk.assistants.list(ANN, Page(), id=chats[1].id, name="chat 2") == []
    with pytest.raises(InvalidInput) as caught:
        await talk.assistants.list(ANN, Page(order_by="live_name; DROP TABLE dialog"))
    assert caught.value.facts["field"] == "orderby"


async def test_deleting_reports_what_it_did(talk: Talk) -> None:
    one, two, three = [(await talk.assistants.create(ANN, {"name": str(n)})).id for n in range(3)]
    assert await talk.assistants.delete(ANN, [two, "x", two]) == BatchResult(
        done=(two,), unknown=("x",), duplicates=(two,)
    )
    assert await talk.assistants.delete(ANN, []) == BatchResult()
    assert await talk.assistants.delete(ANN, None) == BatchResult(done=(one, three))
    assert await talk.assistants.delete(ANN, None) == BatchResult()


@pytest.mark.parametrize(
    ("field", "value"), [("language", "x" * 33), ("prompt_type", "x" * 17), ("rerank_id", "x" * 256)]
)
async def test_what_fits_no_row_is_refused_on_every_engine(talk: Talk, field: str, value: str) -> None:
    with pytest.raises(LimitExceeded) as caught:
        await talk.assistants.create(ANN, {"name": "A", field: value})
    assert caught.value.facts["field"] == field
    chat = await talk.assistants.create(ANN, {"name": "A", field: value[1:]})
    with pytest.raises(LimitExceeded):
        await talk.assistants.update(ANN, chat.id, {field: value})
    with pytest.raises(InvalidInput):
        await talk.assistants.update(ANN, chat.id, {"top_k": -(2**31) - 1})


async def test_the_page_makes_chats_of_what_is_there(talk: Talk, world: World) -> None:
    dataset = await world.dataset()
    sent = {
        "name": "a",
        "dataset_ids": [dataset.id],
        "llm_id": "later@Nowhere",
        "prompt_config": {"system": "no slot", "parameters": [{"key": "knowledge", "optional": False}]},
    }
    first = await talk.assistants.create(ANN, sent, as_page=True)
    again = await talk.assistants.create(ANN, sent, as_page=True)
    third = await talk.assistants.create(ANN, sent | {"name": "A"}, as_page=True)
    assert [first.name, again.name, third.name] == ["a", "a(1)", "A(2)"]
    assert (first.dataset_ids, first.llm_id) == ((dataset.id,), "later@Nowhere")
    assert first.prompt_config == sent["prompt_config"]


async def test_the_page_renames_around_taken_names_and_checks_the_prompt(talk: Talk) -> None:
    await talk.assistants.create(ANN, {"name": "a"})
    second = await talk.assistants.create(ANN, {"name": "b"})
    renamed = await talk.assistants.update(ANN, second.id, {"name": "a", "llm_id": "x@Y"}, as_page=True)
    assert (renamed.name, renamed.llm_id) == ("a(1)", "x@Y")
    prompt = {"system": "", "parameters": [{"key": "a", "optional": False}]}
    with pytest.raises(InvalidInput):
        await talk.assistants.update(ANN, second.id, {"prompt_config": prompt}, as_page=True)
    with pytest.raises(LimitExceeded):
        await talk.assistants.update(ANN, second.id, {"llm_id": "x" * 256}, as_page=True)


async def test_a_number_may_make_a_name_too_long(talk: Talk) -> None:
    await talk.assistants.create(ANN, {"name": "x" * 255})
    with pytest.raises(LimitExceeded):
        await talk.assistants.create(ANN, {"name": "x" * 255}, as_page=True)


async def test_chats_are_found_by_words_of_their_name(talk: Talk) -> None:
    for name in ("Annual report", "REPORTS 50%", "other"):
        await talk.assistants.create(ANN, {"name": name})
    await talk.assistants.create(BOB, {"name": "report of Bob"})
    found, total = await talk.assistants.search(ANN, Page(order_by="name", descending=False), "Report")
    assert ([chat.name for chat in found], total) == (["Annual report", "REPORTS 50%"], 2)
    found, total = await talk.assistants.search(ANN, Page(size=1, order_by="name", descending=False), "report")
    assert ([chat.name for chat in found], total) == (["Annual report"], 2)
    assert [chat.name for chat in (await talk.assistants.search(ANN, Page(), "0%"))[0]] == ["REPORTS 50%"]
    assert await talk.assistants.search(ANN, Page(), "x_") == ([], 0)
    assert (await talk.assistants.search(ANN, Page()))[1] == 3


async def test_chats_are_deleted_together_or_not_at_all(talk: Talk) -> None:
    mine = [(await talk.assistants.create(ANN, {"name": name})).id for name in "ab"]
    his = (await talk.assistants.create(BOB, {"name": "c"})).id
    for foreign in (his, "nothing"):
        with pytest.raises(NotFound):
            await talk.assistants.delete_together(ANN, [*mine, foreign])
    assert (await talk.assistants.search(ANN, Page()))[1] == 2
    await talk.assistants.delete_together(ANN, [*mine, mine[0]])
    await talk.assistants.delete_together(ANN, mine)
    assert await talk.assistants.search(ANN, Page()) == ([], 0)
    await talk.assistants.create(ANN, {"name": "a"})
