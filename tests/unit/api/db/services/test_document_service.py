import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import fields

import peewee
import pytest

from api.db.services.blob_garbage import collect_blobs
from api.db.services.document_intake import FILES_AT_ONCE, NewFile
from api.db.services.records import DocumentQuery, DocumentRecord, Page
from api.db.tables import BlobGarbage, Chunk, Dataset, Document, DocumentVersion, Outbox, Task
from rag.core.errors import Conflict, InvalidInput, LimitExceeded, NotFound, Unsupported
from tests.unit.api.db.services.world import ANN, BOB, MAX_FILE_BYTES, World

ALL = DocumentQuery(page=Page(size=1000))


async def totals(world: World, dataset_id: str) -> tuple[int, int, int]:
    made = await world.knowledgebases.get(ANN, dataset_id)
    return made.document_count, made.chunk_count, made.token_count


async def assert_totals_are_exact(world: World, dataset_id: str) -> None:
    documents, _ = await world.documents.list(ANN, dataset_id, ALL)
    sums = (len(documents), sum(d.chunk_count for d in documents), sum(d.token_count for d in documents))
    assert await totals(world, dataset_id) == sums


async def test_an_upload_becomes_a_document(world: World) -> None:
    dataset = await world.dataset(chunk_method="qa", parser_config={"x": 1})
    made = await world.document(dataset, "Bericht.PDF", content=b"hello", parent_path="/q3/../ann/")
    assert (made.name, made.location, made.suffix, made.type) == ("Bericht.PDF", "q3/ann/Bericht.PDF", "PDF", "pdf")
    assert (made.run, made.progress, made.size, made.source_type) == ("UNSTART", 0.0, 5, "local")
    assert (made.chunk_method, made.parser_config, made.meta_fields) == ("qa", {"x": 1}, {})
    assert made == await world.documents.get(ANN, dataset.id, made.id) == await world.documents.find(ANN, made.id)
    record, content = await world.documents.open(ANN, dataset.id, made.id)
    assert b"".join([piece async for piece in content]) == b"hello"
    assert record == made
    assert await totals(world, dataset.id) == (1, 0, 0)


async def test_the_same_name_is_numbered_and_the_same_bytes_are_kept_once(world: World) -> None:
    dataset = await world.dataset()
    made = [await world.document(dataset, "a.pdf") for _ in range(3)]
    assert [d.name for d in made] == ["a.pdf", "a(1).pdf", "a(2).pdf"]
    assert len({d.blob_key for d in made}) == 1
    assert world.blobs.writes == 1
    assert (await world.document(dataset, "A.pdf")).name == "A.pdf"
    assert await world.db.run(lambda: BlobGarbage.select().count()) == 0


async def test_many_files_come_in_by_themselves(world: World) -> None:
    """Numbers count up within one call, and a file that is refused takes no other along."""
    dataset = await world.dataset()
    long = "a" * 251 + ".pdf"
    names = ["a.pdf", "bad.exe", "a.pdf", long, long] + [f"{number}.txt" for number in range(FILES_AT_ONCE)]
    files = []
    for number, name in enumerate(names):
        staged = world.folder / f"staged{number}"
        staged.write_bytes(b"%d" % (number % 50))
        digest = hashlib.sha256(staged.read_bytes()).hexdigest()
        files.append(NewFile(name=name, staged=staged, size=len(staged.read_bytes()), sha256=digest))
    outcomes = await world.documents.add_all(ANN, dataset.id, files)
    assert [type(o) for o in outcomes[:5]] == [
        DocumentRecord,
        Unsupported,
        DocumentRecord,
        DocumentRecord,
        LimitExceeded,
    ]
    made = [o for o in outcomes if isinstance(o, DocumentRecord)]
    assert [d.name for d in made] == ["a.pdf", "a(1).pdf", long] + names[5:]
    assert len(world.blobs.contents) == 50
    assert await totals(world, dataset.id) == (len(names) - 2, 0, 0)
    assert await world.db.run(lambda: BlobGarbage.select().count()) == 0
    with pytest.raises(NotFound):
        await world.documents.add_all(BOB, dataset.id, files)


async def test_locations_stay_apart_after_a_rename(world: World) -> None:
    dataset = await world.dataset()
    first = await world.document(dataset, "a.pdf")
    await world.documents.update(ANN, dataset.id, first.id, {"name": "b.pdf"})
    assert (await world.document(dataset, "a.pdf")).location == "a.pdf_"


@pytest.mark.parametrize(
    ("name", "error"),
    [("a.exe", Unsupported), ("picture.jpg", Unsupported), ("noextension", Unsupported), ("..", InvalidInput)]
    + [("é" * 126 + ".pdf", LimitExceeded)],
)
async def test_bad_names_are_refused_and_leave_nothing(world: World, name: str, error: type[Exception]) -> None:
    dataset = await world.dataset()
    with pytest.raises(error):
        await world.document(dataset, name)
    assert world.blobs.contents == {}
    assert await totals(world, dataset.id) == (0, 0, 0)


async def test_a_name_that_grows_too_long_is_refused_and_its_file_swept(world: World) -> None:
    dataset = await world.dataset()
    name = "a" * 251 + ".pdf"
    kept = await world.document(dataset, name, content=b"first")
    with pytest.raises(LimitExceeded):
        await world.document(dataset, name, content=b"second")
    assert len(world.blobs.contents) == 2
    assert await collect_blobs(world.db, world.blobs, world.clock) == 0
    world.clock.pass_s(3601)
    assert await collect_blobs(world.db, world.blobs, world.clock) == 1
    assert list(world.blobs.contents) == [kept.blob_key]


async def test_a_folder_that_is_too_long_is_refused(world: World) -> None:
    with pytest.raises(LimitExceeded) as caught:
        await world.document(await world.dataset(), parent_path="x/" * 500)
    assert caught.value.facts["field"] == "parent_path"


async def test_lists_filter_page_and_order(world: World) -> None:
    dataset = await world.dataset()
    names = ("Alpha.pdf", "beta.txt", "100%.csv", "ÄRGER.md", "a_b.pdf")
    made = {name: await world.document(dataset, name) for name in names}
    await world.documents.parse(ANN, dataset.id, [made["beta.txt"].id])

    async def found(**query: object) -> list[str]:
        rows, total = await world.documents.list(ANN, dataset.id, DocumentQuery(**query))  # type: ignore[arg-type]
        assert total == len(rows)
        return [row.name for row in rows]

    assert await found() == list(reversed(names))
    assert await found(page=Page(order_by="name", descending=False)) == sorted(names)
    assert await found(keywords="ALPHA") == ["Alpha.pdf"]
    assert await found(keywords="ärger") == ["ÄRGER.md"]
    assert await found(keywords="%") == ["100%.csv"]
    assert await found(keywords="_") == ["a_b.pdf"]
    assert await found(keywords="' OR 1=1 --") == []
    assert await found(suffixes=("pdf", "md")) == ["a_b.pdf", "ÄRGER.md", "Alpha.pdf"]
    assert await found(runs=("RUNNING",)) == await found(runs=("1",)) == ["beta.txt"]
    assert await found(runs=("nonsense",)) == []
    assert len(await found(runs=("0", "RUNNING"))) == 5
    assert await found(id=made["beta.txt"].id, name="beta.txt") == ["beta.txt"]
    assert await found(id=made["beta.txt"].id, name="Alpha.pdf") == []
    listed, total = await world.documents.list(ANN, dataset.id, DocumentQuery(page=Page(number=2, size=2)))
    assert ([d.name for d in listed], total) == (["100%.csv", "beta.txt"], 5)
    assert await world.documents.list(ANN, dataset.id, DocumentQuery(page=Page(size=0))) == ([], 5)
    late = DocumentQuery(created_from_ms=made["ÄRGER.md"].create_time, created_to_ms=made["a_b.pdf"].create_time)
    listed, total = await world.documents.list(ANN, dataset.id, late)
    assert ([d.name for d in listed], total) == (["a_b.pdf", "ÄRGER.md"], 5)


async def test_a_list_asks_for_absent_things_in_order(world: World) -> None:
    dataset = await world.dataset()
    elsewhere = await world.document(await world.dataset(name="other"), "b.pdf")
    for query, missing in (
        (DocumentQuery(id=elsewhere.id, name="none.pdf"), elsewhere.id),
        (DocumentQuery(name="none.pdf"), "none.pdf"),
    ):
        with pytest.raises(NotFound) as caught:
            await world.documents.list(ANN, dataset.id, query)
        assert (caught.value.kind, caught.value.id) == ("document", missing)


async def test_every_column_orders_and_nothing_else(world: World) -> None:
    dataset = await world.dataset()
    await world.document(dataset)
    of_task = {"stage", "pages_done", "pages_total", "chunks_done", "chunks_total"}
    for name in {field.name for field in fields(DocumentRecord)} - of_task:
        query = DocumentQuery(page=Page(order_by=name))
        assert len((await world.documents.list(ANN, dataset.id, query))[0]) == 1
    for name in (*of_task, "live_version", "name; --"):
        with pytest.raises(InvalidInput):
            await world.documents.list(ANN, dataset.id, DocumentQuery(page=Page(order_by=name)))


async def test_a_list_takes_the_same_few_statements_for_any_length(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = await world.dataset()
    for number in range(20):
        document = await world.document(dataset, f"{number}.pdf")
        await world.documents.parse(ANN, dataset.id, [document.id])
    sent: list[str] = []
    real = peewee.Database.execute_sql

    def execute_sql(self: peewee.Database, sql: str, *args: object, **kwargs: object) -> object:
        sent.append(sql)
        return real(self, sql, *args, **kwargs)

    monkeypatch.setattr(peewee.Database, "execute_sql", execute_sql)
    listed, _ = await world.documents.list(ANN, dataset.id, ALL)
    assert len(listed) == 20
    assert all(d.stage == "queued" for d in listed)
    assert len([sql for sql in sent if sql.startswith("SELECT")]) == 4


async def test_parsing_queues_one_task_and_hides_nothing_yet(world: World) -> None:
    dataset = await world.dataset()
    document = await world.document(dataset)
    result = await world.documents.parse(ANN, dataset.id, [document.id, "unknown", document.id])
    assert (result.done, result.unknown, result.duplicates) == ((document.id,), ("unknown",), (document.id,))
    now = await world.documents.get(ANN, dataset.id, document.id)
    assert (now.run, now.progress_msg, now.stage) == ("RUNNING", "Task is queued...", "queued")
    assert 0 < now.progress < 0.01
    assert now.process_begin_at is not None
    task = await world.db.run(lambda: Task.get())
    assert (task.state, task.tenant_id, task.document_id) == ("queued", "ann", document.id)
    assert world.queue.notified == [task.id]
    assert task.version_id
    assert await world.chunks.hidden_versions(dataset.place) == ()
    world.clock.pass_s(7)
    assert (await world.documents.get(ANN, dataset.id, document.id)).process_duration == pytest.approx(7, abs=0.1)


async def test_parsing_again_while_it_runs_is_a_conflict_and_those_before_stay(world: World) -> None:
    dataset = await world.dataset()
    first, busy, last = [await world.document(dataset, f"{n}.pdf") for n in range(3)]
    await world.documents.parse(ANN, dataset.id, [busy.id])
    with pytest.raises(Conflict) as caught:
        await world.documents.parse(ANN, dataset.id, [first.id, busy.id, last.id])
    assert caught.value.facts["id"] == busy.id
    runs = {d.id: d.run for d in (await world.documents.list(ANN, dataset.id, ALL))[0]}
    assert runs == {first.id: "RUNNING", busy.id: "RUNNING", last.id: "UNSTART"}
    assert len(world.queue.notified) == 2


async def test_parsing_again_keeps_the_old_text_and_exact_totals(world: World) -> None:
    dataset = await world.dataset()
    document, old = await world.parsed(dataset, "a.pdf", ["one", "two"])
    other, _ = await world.parsed(dataset, "b.pdf", ["three"])
    assert await totals(world, dataset.id) == (2, 3, 15)
    await world.documents.parse(ANN, dataset.id, [document.id])
    now = await world.documents.get(ANN, dataset.id, document.id)
    assert (now.chunk_count, now.token_count) == (0, 0)
    assert (await world.chunks.list(ANN, dataset.id, document.id, Page())).total == 2
    await assert_totals_are_exact(world, dataset.id)
    new = await world.ingested(document, ["one", "two", "three"])
    assert new != old
    assert (await world.chunks.list(ANN, dataset.id, document.id, Page())).total == 3
    await assert_totals_are_exact(world, dataset.id)


async def test_a_failed_document_can_be_parsed_again_and_its_old_task_ends(world: World) -> None:
    dataset = await world.dataset()
    document = await world.document(dataset)
    await world.documents.parse(ANN, dataset.id, [document.id])
    await world.db.write(lambda: Document.update(run="FAIL", progress=-1).execute())
    await world.documents.parse(ANN, dataset.id, [document.id])
    states = await world.db.run(lambda: [task.state for task in Task.select().order_by(Task.create_time)])
    assert states == ["cancelled", "queued"]
    versions = await world.db.run(lambda: [task.version_id for task in Task.select()])
    assert len(set(versions)) == 2


async def test_a_file_that_is_too_large_fails_in_words(world: World) -> None:
    dataset = await world.dataset()
    document = await world.document(dataset, content=b"x" * (MAX_FILE_BYTES + 1))
    assert (await world.documents.parse(ANN, dataset.id, [document.id])).done == (document.id,)
    now = await world.documents.get(ANN, dataset.id, document.id)
    assert (now.run, now.progress) == ("FAIL", -1.0)
    assert "[ERROR] The file has 1,001 bytes" in now.progress_msg
    assert world.queue.notified == []


async def test_stopping_takes_the_chunks(world: World) -> None:
    dataset = await world.dataset()
    document, live = await world.parsed(dataset, "a.pdf", ["one"])
    await world.documents.parse(ANN, dataset.id, [document.id])
    result = await world.documents.stop(ANN, dataset.id, [document.id, document.id])
    assert (result.done, result.duplicates) == ((document.id,), (document.id,))
    now = await world.documents.get(ANN, dataset.id, document.id)
    assert (now.run, now.progress, now.chunk_count, now.stage) == ("CANCEL", 0.0, 0, "")
    assert now.process_begin_at is not None
    assert (await world.chunks.list(ANN, dataset.id, document.id, Page())).total == 0
    versions = await world.db.run(lambda: {row.id: row.state for row in DocumentVersion.select()})
    assert versions == {live: "dead"}
    assert await world.db.run(lambda: Task.select().where(Task.state.in_(("queued", "running"))).count()) == 0
    await assert_totals_are_exact(world, dataset.id)
    with pytest.raises(Conflict):
        await world.documents.stop(ANN, dataset.id, [document.id])
    await world.documents.parse(ANN, dataset.id, [document.id])
    await world.ingested(document, ["again"])
    await assert_totals_are_exact(world, dataset.id)


async def test_stopping_ends_at_the_first_that_cannot_be_stopped(world: World) -> None:
    dataset = await world.dataset()
    done, _ = await world.parsed(dataset, "done.pdf", ["x"])
    first, last = await world.document(dataset, "1.pdf"), await world.document(dataset, "2.pdf")
    await world.documents.parse(ANN, dataset.id, [first.id, last.id])
    with pytest.raises(Conflict) as caught:
        await world.documents.stop(ANN, dataset.id, [first.id, done.id, last.id])
    assert caught.value.facts["id"] == done.id
    with pytest.raises(NotFound) as missing:
        await world.documents.stop(ANN, dataset.id, ["unknown", last.id])
    assert missing.value.id == "unknown"
    runs = {d.id: d.run for d in (await world.documents.list(ANN, dataset.id, ALL))[0]}
    assert runs == {done.id: "DONE", first.id: "CANCEL", last.id: "RUNNING"}


async def test_a_failed_document_can_be_stopped(world: World) -> None:
    dataset = await world.dataset()
    document = await world.document(dataset, content=b"x" * (MAX_FILE_BYTES + 1))
    await world.documents.parse(ANN, dataset.id, [document.id])
    await world.documents.stop(ANN, dataset.id, [document.id])
    assert (await world.documents.get(ANN, dataset.id, document.id)).run == "CANCEL"


async def test_deleting_takes_rows_index_and_unnamed_files(world: World) -> None:
    dataset = await world.dataset()
    gone, version = await world.parsed(dataset, "a.pdf", ["one", "two"])
    kept, _ = await world.parsed(dataset, "b.pdf", ["three"])
    twin = await world.document(dataset, "twin.pdf", content=b"b.pdf")
    result = await world.documents.delete(ANN, dataset.id, [gone.id, "unknown", twin.id, gone.id])
    assert (result.done, result.unknown, result.duplicates) == ((gone.id, twin.id), ("unknown",), (gone.id,))
    assert [d.id for d in (await world.documents.list(ANN, dataset.id, ALL))[0]] == [kept.id]
    await assert_totals_are_exact(world, dataset.id)

    def left() -> tuple[int, int]:
        return (
            Chunk.select().where(Chunk.document_id == gone.id).count(),
            Task.select().where(Task.document_id == gone.id).count(),
        )

    assert await world.db.run(left) == (0, 0)
    assert await world.chunks.hidden_versions(dataset.place) == (version,)
    assert set(world.store.deleted[-1][1].document_ids or ()) == {gone.id, twin.id}
    assert await world.db.run(lambda: Outbox.select().count()) == 0
    world.clock.pass_s(3601)
    await collect_blobs(world.db, world.blobs, world.clock)
    assert list(world.blobs.contents) == [kept.blob_key]


async def test_deleting_is_written_down_when_the_index_is_down(world: World) -> None:
    dataset = await world.dataset()
    document, _ = await world.parsed(dataset, "a.pdf", ["one"])
    world.store.broken = True
    await world.documents.delete(ANN, dataset.id, None)
    rows = await world.db.run(lambda: [(row.place, row.action, row.payload) for row in Outbox.select()])
    assert rows == [(dataset.place, "delete", {"document_ids": [document.id]})]


async def test_none_deletes_all_of_the_dataset_only(world: World) -> None:
    dataset, other = await world.dataset(), await world.dataset(name="other")
    for number in range(3):
        await world.document(dataset, f"{number}.pdf")
    outside = await world.document(other)
    assert (await world.documents.delete(ANN, dataset.id, [outside.id])).unknown == (outside.id,)
    assert (await world.documents.delete(ANN, dataset.id, [])).done == ()
    assert len((await world.documents.delete(ANN, dataset.id, None)).done) == 3
    assert await totals(world, dataset.id) == (0, 0, 0)
    assert await world.documents.get(ANN, other.id, outside.id) == outside


async def test_a_file_uploaded_again_is_not_swept(world: World) -> None:
    dataset = await world.dataset()
    document = await world.document(dataset)
    await world.documents.delete(ANN, dataset.id, None)
    world.clock.pass_s(3601)
    again = await world.document(dataset)
    assert await collect_blobs(world.db, world.blobs, world.clock) == 0
    assert document.blob_key == again.blob_key in world.blobs.contents


async def test_names_change_within_their_extension(world: World) -> None:
    dataset = await world.dataset()
    document = await world.document(dataset, "a.pdf")
    await world.document(dataset, "taken.pdf")

    async def rename(name: str) -> str:
        return (await world.documents.update(ANN, dataset.id, document.id, {"name": name})).name

    assert await rename("b.PDF") == "b.PDF"
    assert await rename("b.PDF") == "b.PDF"
    assert await rename("../Taken.pdf") == "Taken.pdf"
    for name, error in (("c.txt", InvalidInput), ("", InvalidInput), ("taken.pdf", Conflict)):
        with pytest.raises(error) as caught:
            await rename(name)
        assert caught.value.facts["field"] == "name"
    with pytest.raises(LimitExceeded):
        await rename("x" * 252 + ".pdf")


async def test_another_method_takes_the_chunks_and_brings_its_config(world: World) -> None:
    dataset = await world.dataset(parser_config={"a": 1})
    document, version = await world.parsed(dataset, "a.pdf", ["one"])

    async def update(**changes: object) -> DocumentRecord:
        return await world.documents.update(ANN, dataset.id, document.id, changes)

    same = await update(chunk_method="naive", parser_config={"a": 2})
    assert (same.run, same.chunk_count, same.parser_config) == ("DONE", 1, {"a": 2})
    changed = await update(chunk_method="qa")
    assert (changed.chunk_method, changed.run, changed.progress) == ("qa", "UNSTART", 0.0)
    assert (changed.progress_msg, changed.chunk_count) == ("", 0)
    assert changed.parser_config == {"a": 2, "raptor": {"use_raptor": False}, "graphrag": {"use_graphrag": False}}
    assert await world.chunks.hidden_versions(dataset.place) == (version,)
    await assert_totals_are_exact(world, dataset.id)
    for method in ("audio", "", "nothing"):
        with pytest.raises(InvalidInput):
            await update(chunk_method=method)
    slides = await world.document(dataset, "a.pptx")
    with pytest.raises(Unsupported):
        await world.documents.update(ANN, dataset.id, slides.id, {"chunk_method": "naive"})


async def test_an_update_is_all_or_nothing(world: World) -> None:
    dataset = await world.dataset()
    document = await world.document(dataset)
    for bad in ({"chunk_method": "nothing"}, {"size": 7}, {"live_version": "x"}):
        with pytest.raises(InvalidInput):
            await world.documents.update(ANN, dataset.id, document.id, {"meta_fields": {"a": 1}, **bad})
    assert await world.documents.get(ANN, dataset.id, document.id) == document
    changed = await world.documents.update(ANN, dataset.id, document.id, {"meta_fields": {"a": 1}})
    assert changed.meta_fields == {"a": 1}


FOREIGN: list[Callable[[World, str, str], Awaitable[object]]] = [
    lambda world, d, doc: world.document(_as(BOB, d)),
    lambda world, d, doc: world.documents.list(BOB, d, DocumentQuery()),
    lambda world, d, doc: world.documents.get(BOB, d, doc),
    lambda world, d, doc: world.documents.find(BOB, doc),
    lambda world, d, doc: world.documents.update(BOB, d, doc, {"name": "stolen.pdf"}),
    lambda world, d, doc: world.documents.open(BOB, d, doc),
    lambda world, d, doc: world.documents.delete(BOB, d, [doc]),
    lambda world, d, doc: world.documents.delete(BOB, d, None),
    lambda world, d, doc: world.documents.parse(BOB, d, [doc]),
    lambda world, d, doc: world.documents.stop(BOB, d, [doc]),
    lambda world, d, doc: world.chunks.list(BOB, d, doc, Page()),
]


def _as(owner: object, dataset_id: str) -> object:
    class Stolen:
        id = dataset_id
        tenant_id = owner.tenant_id  # type: ignore[attr-defined]

    return Stolen()


@pytest.mark.parametrize("call", FOREIGN)
async def test_what_is_not_the_principal_s_is_not_found(
    world: World, call: Callable[[World, str, str], Awaitable[object]]
) -> None:
    dataset = await world.dataset()
    document, _ = await world.parsed(dataset, "a.pdf", ["one"])
    before = await world.documents.get(ANN, dataset.id, document.id)
    with pytest.raises(NotFound):
        await call(world, dataset.id, document.id)
    assert await world.documents.get(ANN, dataset.id, document.id) == before
    assert await totals(world, dataset.id) == (1, 1, 5)


async def test_a_foreign_child_of_an_own_parent_is_not_found(world: World) -> None:
    mine = await world.dataset(BOB)
    document, _ = await world.parsed(await world.dataset(), "a.pdf", ["one"])
    with pytest.raises(NotFound):
        await world.documents.get(BOB, mine.id, document.id)
    with pytest.raises(NotFound):
        await world.documents.stop(BOB, mine.id, [document.id])
    with pytest.raises(NotFound):
        await world.chunks.list(BOB, mine.id, document.id, Page())
    assert (await world.documents.parse(BOB, mine.id, [document.id])).unknown == (document.id,)
    assert (await world.documents.delete(BOB, mine.id, [document.id])).unknown == (document.id,)
    assert (await world.documents.find(ANN, document.id)).run == "DONE"


@pytest.mark.parametrize(
    "hostile", ["' OR '1'='1", "%", "_", "\n", "\x00", '"; DROP TABLE document; --', "", "é" * 500]
)
async def test_ids_are_values_not_queries(world: World, hostile: str) -> None:
    dataset = await world.dataset()
    await world.document(dataset)
    with pytest.raises(NotFound):
        await world.documents.get(ANN, dataset.id, hostile)
    with pytest.raises(NotFound):
        await world.documents.list(ANN, hostile, DocumentQuery())
    assert (await world.documents.delete(ANN, dataset.id, [hostile])).done == ()
    assert await totals(world, dataset.id) == (1, 0, 0)


async def test_dataset_rows_do_not_drift(world: World) -> None:
    dataset = await world.dataset()
    documents = [(await world.parsed(dataset, f"{n}.pdf", ["x"] * 1))[0] for n in range(4)]
    await world.documents.parse(ANN, dataset.id, [documents[0].id, documents[1].id])
    await world.documents.stop(ANN, dataset.id, [documents[0].id])
    await world.ingested(documents[1], ["a", "b"])
    await world.documents.update(ANN, dataset.id, documents[2].id, {"chunk_method": "one"})
    await world.documents.delete(ANN, dataset.id, [documents[3].id])
    await assert_totals_are_exact(world, dataset.id)
    assert await totals(world, dataset.id) == (3, 2, 10)
    assert await world.db.run(lambda: Dataset.select().count()) == 1
