from collections.abc import Awaitable, Callable
from dataclasses import fields

import pytest

from api.db.services.parser_configs import default_parser_config
from api.db.services.records import DatasetRecord, Page
from api.db.services.task_service import TaskService
from api.db.tables import BlobGarbage, Chunk, Dataset, Document, DocumentVersion, IndexPlace, Outbox, Task
from rag.core.errors import Conflict, InvalidInput, LimitExceeded, NotFound
from rag.core.settings import IngestSettings
from tests.unit.api.db.services.world import ANN, BOB, World, principal


async def test_a_dataset_has_the_contract_s_defaults(world: World) -> None:
    made = await world.dataset()
    assert (made.tenant_id, made.created_by, made.name) == ("ann", "ann", "reports")
    assert (made.permission, made.chunk_method, made.language) == ("me", "naive", "English")
    assert (made.embedding_model, made.place) == ("minilm@Builtin", "t_ann_g1")
    assert (made.similarity_threshold, made.vector_similarity_weight, made.pagerank) == (0.2, 0.3, 0)
    assert made.parser_config == default_parser_config("naive")
    assert made == await world.knowledgebases.get(ANN, made.id)
    assert made == await world.knowledgebases.by_name(ANN, "REPORTS")


async def test_taken_names_are_numbered_within_the_tenant(world: World) -> None:
    names = [(await world.dataset(name=name)).name for name in ("a", "A", "ａ", "a(1)")]
    assert names == ["a", "A(1)", "ａ(2)", "a(3)"]
    assert (await world.dataset(BOB, name="a")).name == "a"


async def test_names_are_cleaned_and_blank_ones_refused(world: World) -> None:
    assert (await world.dataset(name=" a\x00\u202eb/c ")).name == "ab/c"
    for blank in ("", " ", "\x07", "\u200b"):
        with pytest.raises(InvalidInput):
            await world.dataset(name=blank)
    assert (await world.dataset(name="\ufdfa" * 128)).name == "\ufdfa" * 128


async def test_one_place_per_tenant_and_model(world: World) -> None:
    places = [
        (await world.dataset(owner, name=model, embedding_model=model)).place
        for owner in (ANN, BOB)
        for model in ("minilm@Builtin", "other@X", "minilm@Builtin", "other@X")
    ]
    assert places == ["t_ann_g1", "t_ann_g2"] * 2 + ["t_bob_g1", "t_bob_g2"] * 2
    dims = await world.db.run(lambda: {row.name: row.dim for row in IndexPlace.select()})
    assert dims == {"t_ann_g1": 384, "t_ann_g2": 8, "t_bob_g1": 384, "t_bob_g2": 8}


async def test_an_unknown_model_or_tenant_is_refused(world: World) -> None:
    with pytest.raises(InvalidInput) as caught:
        await world.dataset(embedding_model="unknown@X")
    assert caught.value.facts["field"] == "embedding_model"
    with pytest.raises(NotFound) as missing:
        await world.dataset(principal("nobody"))
    assert missing.value.kind == "tenant"


async def test_lists_page_order_and_count(world: World) -> None:
    made = [await world.dataset(name=name) for name in ("a", "b", "c")]
    await world.dataset(BOB, name="foreign")
    listed, total = await world.knowledgebases.list(ANN, Page(size=2))
    assert ([d.name for d in listed], total) == (["c", "b"], 3)
    listed, total = await world.knowledgebases.list(ANN, Page(number=2, size=2))
    assert ([d.name for d in listed], total) == (["a"], 3)
    listed, _ = await world.knowledgebases.list(ANN, Page(order_by="name", descending=False))
    assert [d.name for d in listed] == ["a", "b", "c"]
    assert (await world.knowledgebases.list(ANN, Page(size=0))) == ([], 3)
    assert (await world.knowledgebases.list(ANN, Page(number=9))) == ([], 3)
    assert [d.id for d in (await world.knowledgebases.list(ANN, Page(), id=made[0].id))[0]] == [made[0].id]
    assert [d.name for d in (await world.knowledgebases.list(ANN, Page(), name="B"))[0]] == ["b"]
    assert await world.knowledgebases.list(ANN, Page(), id=made[0].id, name="b") == ([], 0)


@pytest.mark.parametrize("order_by", ["nothing", "name; DROP TABLE dataset", "name_norm", "id)"])
async def test_only_fields_order(world: World, order_by: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await world.knowledgebases.list(ANN, Page(order_by=order_by))
    assert caught.value.facts["field"] == "orderby"


@pytest.mark.parametrize("order_by", [field.name for field in fields(DatasetRecord)])
async def test_every_field_orders(world: World, order_by: str) -> None:
    await world.dataset()
    assert len((await world.knowledgebases.list(ANN, Page(order_by=order_by)))[0]) == 1


@pytest.mark.parametrize("page", [Page(number=-1), Page(size=-1)])
async def test_negative_pages_are_refused(world: World, page: Page) -> None:
    with pytest.raises(InvalidInput):
        await world.knowledgebases.list(ANN, page)


async def test_updates_store_what_was_sent(world: World) -> None:
    made = await world.dataset()
    changed = await world.knowledgebases.update(
        ANN, made.id, {"name": "new", "description": "d", "pagerank": 7, "permission": "team"}
    )
    assert (changed.name, changed.description, changed.pagerank, changed.permission) == ("new", "d", 7, "team")
    assert changed.parser_config == made.parser_config
    assert changed.update_time > made.update_time
    assert changed == await world.knowledgebases.by_name(ANN, "new")
    with pytest.raises(NotFound):
        await world.knowledgebases.by_name(ANN, "reports")


async def test_another_method_brings_its_config(world: World) -> None:
    made = await world.dataset()
    changed = await world.knowledgebases.update(ANN, made.id, {"chunk_method": "table"})
    assert (changed.chunk_method, changed.parser_config) == ("table", {})
    changed = await world.knowledgebases.update(ANN, made.id, {"chunk_method": "naive", "parser_config": {"a": 1}})
    assert changed.parser_config == {"a": 1}
    changed = await world.knowledgebases.update(ANN, made.id, {"chunk_method": "naive"})
    assert changed.parser_config == {"a": 1}


async def test_a_taken_name_is_a_conflict_but_another_case_is_not(world: World) -> None:
    made = await world.dataset(name="mine")
    await world.dataset(name="other")
    with pytest.raises(Conflict) as caught:
        await world.knowledgebases.update(ANN, made.id, {"name": "OTHER"})
    assert caught.value.facts["field"] == "name"
    assert (await world.knowledgebases.update(ANN, made.id, {"name": "MINE"})).name == "MINE"


async def test_the_model_changes_only_without_chunks_and_running_documents(world: World) -> None:
    made = await world.dataset()
    changed = await world.knowledgebases.update(ANN, made.id, {"embedding_model": "other@X"})
    assert (changed.embedding_model, changed.place) == ("other@X", "t_ann_g2")
    with pytest.raises(InvalidInput):
        await world.knowledgebases.update(ANN, made.id, {"embedding_model": "unknown@X"})
    document = await world.document(made)
    await world.documents.parse(ANN, made.id, [document.id])
    with pytest.raises(Conflict):
        await world.knowledgebases.update(ANN, made.id, {"embedding_model": "minilm@Builtin"})
    await world.ingested(document, ["one", "two"])
    with pytest.raises(Conflict) as caught:
        await world.knowledgebases.update(ANN, made.id, {"embedding_model": "minilm@Builtin"})
    assert caught.value.facts == {"field": "embedding_model", "chunk_count": 2, "current": "other@X"}
    same = await world.knowledgebases.update(ANN, made.id, {"embedding_model": "other@X", "name": "still"})
    assert same.name == "still"


@pytest.mark.parametrize("field", ["id", "tenant_id", "place", "chunk_count", "nothing"])
async def test_other_fields_cannot_be_changed(world: World, field: str) -> None:
    made = await world.dataset()
    with pytest.raises(InvalidInput):
        await world.knowledgebases.update(ANN, made.id, {field: "x"})


async def test_deleting_takes_everything_with_it(world: World) -> None:
    kept, gone = await world.dataset(name="kept"), await world.dataset(name="gone")
    await world.parsed(kept, "a.pdf", ["x"])
    await world.parsed(gone, "a.pdf", ["y", "z"])
    running = await world.document(gone, "b.pdf", content=b"only here")
    await world.documents.parse(ANN, gone.id, [running.id])
    tasks = TaskService(world.db, world.clock, IngestSettings())
    assert len(await tasks.claim("w", small=1, large=1)) == 1

    result = await world.knowledgebases.delete(ANN, [gone.id])

    assert (result.done, result.unknown, result.duplicates) == ((gone.id,), (), ())
    place, selector = world.store.deleted[-1]
    assert (place.name, place.dim, selector.dataset_ids) == (gone.place, 384, (gone.id,))

    def left() -> list[int]:
        return [table.select().where(table.dataset_id == gone.id).count() for table in (Document, Chunk, Task)] + [
            Outbox.select().count(),
            Dataset.select().count(),
        ]

    assert await world.db.run(left) == [0, 0, 0, 0, 1]
    garbage = await world.db.run(lambda: [row.blob_key for row in BlobGarbage.select()])
    assert garbage == [running.blob_key]
    # What was being written stays hidden: its worker may still add to the index before it notices.
    states = await world.db.run(lambda: [row.state for row in DocumentVersion.select()])
    assert states == ["dead"]


async def test_an_index_that_is_down_is_followed_later(world: World) -> None:
    made = await world.dataset()
    world.store.broken = True
    await world.knowledgebases.delete(ANN, [made.id])
    rows = await world.db.run(lambda: [(row.place, row.action, row.payload) for row in Outbox.select()])
    assert rows == [(made.place, "delete", {"dataset_ids": [made.id]})]


async def test_one_foreign_id_deletes_nothing(world: World) -> None:
    mine, foreign = await world.dataset(), await world.dataset(BOB)
    with pytest.raises(NotFound) as caught:
        await world.knowledgebases.delete(ANN, [mine.id, foreign.id, "no such id"])
    assert caught.value.facts["ids"] == (foreign.id, "no such id")
    assert (await world.knowledgebases.list(ANN, Page()))[1] == 1


async def test_none_deletes_all_of_the_principal_and_an_empty_list_none(world: World) -> None:
    await world.dataset(name="a")
    await world.dataset(name="b")
    foreign = await world.dataset(BOB)
    assert (await world.knowledgebases.delete(ANN, [])).done == ()
    assert len((await world.knowledgebases.delete(ANN, None)).done) == 2
    assert (await world.knowledgebases.list(ANN, Page()))[1] == 0
    assert (await world.knowledgebases.get(BOB, foreign.id)) == foreign


FOREIGN: list[Callable[[World, str], Awaitable[object]]] = [
    lambda world, id: world.knowledgebases.get(BOB, id),
    lambda world, id: world.knowledgebases.by_name(BOB, "reports"),
    lambda world, id: world.knowledgebases.update(BOB, id, {"name": "stolen"}),
    lambda world, id: world.knowledgebases.update(BOB, id, {"embedding_model": "other@X"}),
    lambda world, id: world.knowledgebases.delete(BOB, [id]),
]


@pytest.mark.parametrize("call", FOREIGN)
async def test_what_is_not_the_principal_s_is_not_found(
    world: World, call: Callable[[World, str], Awaitable[object]]
) -> None:
    made = await world.dataset()
    with pytest.raises(NotFound):
        await call(world, made.id)
    assert await world.knowledgebases.get(ANN, made.id) == made
    assert await world.knowledgebases.list(BOB, Page(), id=made.id) == ([], 0)


async def test_what_fits_no_row_is_refused_on_every_engine(world: World) -> None:
    with pytest.raises(LimitExceeded) as caught:
        await world.dataset(name="x" * 256)
    assert (caught.value.facts["field"], caught.value.facts["limit"]) == ("name", 255)
    dataset = await world.dataset(name="\U0001f600" * 255)
    assert dataset.name == "\U0001f600" * 255
    with pytest.raises(LimitExceeded):
        await world.dataset(name=dataset.name)
    with pytest.raises(LimitExceeded):
        await world.knowledgebases.update(ANN, dataset.id, {"language": "x" * 33})
    with pytest.raises(InvalidInput):
        await world.knowledgebases.update(ANN, dataset.id, {"pagerank": 2**31})
    kept = await world.knowledgebases.update(ANN, dataset.id, {"language": "x" * 32, "pagerank": 2**31 - 1})
    assert (kept.language, kept.pagerank) == ("x" * 32, 2**31 - 1)
