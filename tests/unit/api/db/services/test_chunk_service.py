from dataclasses import replace

import pytest

from api.db.services.chunk_rows import positions_from_json, text_of, write_rows
from api.db.services.records import Page
from api.db.tables import Chunk, Document, Outbox
from rag.core.errors import InvalidInput, NotFound
from rag.core.ids import chunk_id
from rag.core.types import ChunkText, Position
from rag.store.base import EntryKey
from tests.unit.api.db.services.world import ANN, World

CONTENTS = ["The cash flow of 2022", "Net SALES grew", "cash, Cash and cash", "Ünïcode <b>cash</b>", "nothing here"]


async def test_chunks_come_in_reading_order_with_their_document(world: World) -> None:
    dataset = await world.dataset()
    document, version = await world.parsed(dataset, "a.pdf", CONTENTS)
    page = await world.chunks.list(ANN, dataset.id, document.id, Page(size=2))
    assert (page.total, [c.content for c in page.chunks]) == (5, CONTENTS[:2])
    assert page.document.id == document.id
    assert page.document.chunk_count == 5
    first = page.chunks[0]
    assert (first.document_name, first.version_id, first.ordinal) == ("a.pdf", version, 0)
    assert first.positions[0].as_wire() == [1, 1, 2, 0, 50]
    rest = await world.chunks.list(ANN, dataset.id, document.id, Page(number=3, size=2))
    assert [c.content for c in rest.chunks] == CONTENTS[4:]
    assert (await world.chunks.list(ANN, dataset.id, document.id, Page(number=9))).chunks == ()


async def test_page_and_top_go_before_the_ordinal(world: World) -> None:
    dataset = await world.dataset()
    document, _ = await world.parsed(dataset, "a.pdf", CONTENTS)
    await world.db.write(lambda: Chunk.update(page=1, top=-1).where(Chunk.ordinal == 4).execute())
    page = await world.chunks.list(ANN, dataset.id, document.id, Page())
    assert [c.ordinal for c in page.chunks] == [4, 0, 1, 2, 3]


async def test_size_zero_gives_ten_and_page_zero_is_refused(world: World) -> None:
    dataset = await world.dataset()
    document, _ = await world.parsed(dataset, "a.pdf", [f"text {n}" for n in range(12)])
    assert len((await world.chunks.list(ANN, dataset.id, document.id, Page(size=0))).chunks) == 10
    for page in (Page(number=0), Page(number=-1), Page(size=-1)):
        with pytest.raises(InvalidInput):
            await world.chunks.list(ANN, dataset.id, document.id, page)


@pytest.mark.parametrize(
    ("keywords", "found"),
    [
        ("cash", [2, 0, 3]),
        ("CASH flow", [0]),
        ("sales", [1]),
        ("cash sales", []),
        ("üNÏCODE", [3]),
        (".*", []),
        ("(", []),
        (" ", [0, 1, 2, 3, 4]),
    ],
)
async def test_keywords_must_all_be_there(world: World, keywords: str, found: list[int]) -> None:
    dataset = await world.dataset()
    document, _ = await world.parsed(dataset, "a.pdf", CONTENTS)
    page = await world.chunks.list(ANN, dataset.id, document.id, Page(), keywords=keywords)
    assert [c.ordinal for c in page.chunks] == found
    assert page.total == len(found)


async def test_matches_are_marked(world: World) -> None:
    dataset = await world.dataset()
    document, _ = await world.parsed(dataset, "a.pdf", CONTENTS)
    page = await world.chunks.list(ANN, dataset.id, document.id, Page(), keywords="flow cash FL")
    assert [c.content for c in page.chunks] == ["The <em>cash</em> <em>flow</em> of 2022"]
    second = await world.chunks.list(ANN, dataset.id, document.id, Page(number=2, size=2), keywords="cash")
    assert (second.total, [c.ordinal for c in second.chunks]) == (3, [3])


async def test_one_chunk_by_id_within_its_document_only(world: World) -> None:
    dataset = await world.dataset()
    document, _ = await world.parsed(dataset, "a.pdf", CONTENTS)
    other, _ = await world.parsed(dataset, "b.pdf", ["elsewhere"])
    wanted = chunk_id(CONTENTS[1], document.id)
    page = await world.chunks.list(ANN, dataset.id, document.id, Page(), chunk_id=wanted, keywords="ignored")
    assert (page.total, [c.content for c in page.chunks]) == (1, [CONTENTS[1]])
    for absent in (chunk_id("elsewhere", other.id), "0" * 16, "'"):
        with pytest.raises(NotFound) as caught:
            await world.chunks.list(ANN, dataset.id, document.id, Page(), chunk_id=absent)
        assert caught.value.kind == "chunk"


async def test_texts_are_live_and_available_only(world: World) -> None:
    dataset = await world.dataset()
    document, old = await world.parsed(dataset, "a.pdf", CONTENTS)
    key = EntryKey(document_id=document.id, version_id=old, chunk_id=chunk_id(CONTENTS[0], document.id))
    hidden = EntryKey(document_id=document.id, version_id=old, chunk_id=chunk_id(CONTENTS[1], document.id))
    strange = EntryKey(document_id="x", version_id=old, chunk_id=key.chunk_id)
    await world.db.write(lambda: Chunk.update(available=False).where(Chunk.chunk_id == hidden.chunk_id).execute())
    assert {k: t.content for k, t in (await world.chunks.texts([key, hidden, strange, key])).items()} == {
        key: CONTENTS[0]
    }
    assert await world.chunks.texts([]) == {}
    listed = await world.chunks.list(ANN, dataset.id, document.id, Page())
    assert (await world.chunks.texts([key]))[key] == listed.chunks[0]
    await world.documents.parse(ANN, dataset.id, [document.id])
    assert list(await world.chunks.texts([key])) == [key]
    new = await world.ingested(document, CONTENTS)
    assert await world.chunks.texts([key]) == {}
    fresh = EntryKey(document_id=document.id, version_id=new, chunk_id=key.chunk_id)
    assert (await world.chunks.texts([fresh]))[fresh].document_name == "a.pdf"
    await world.documents.delete(ANN, dataset.id, [document.id])
    assert await world.chunks.texts([fresh]) == {}


async def test_texts_of_many_documents_come_in_one_read(world: World) -> None:
    dataset = await world.dataset()

    def write() -> list[EntryKey]:
        keys = []
        template = Document.get()
        for number in range(700):
            values = {name: getattr(template, name) for name in Document._meta.sorted_field_names}
            values |= {"id": f"d{number}", "name": f"{number}.pdf", "live_version": f"v{number}"}
            Document.insert(values).execute()
            one = ChunkText(
                chunk_id=f"{number:016}",
                document_id=f"d{number}",
                version_id=f"v{number}",
                dataset_id=dataset.id,
                document_name="",
                ordinal=0,
                content=str(number),
            )
            write_rows([one])
            keys.append(EntryKey(document_id=one.document_id, version_id=one.version_id, chunk_id=one.chunk_id))
        return keys

    await world.document(dataset)
    keys = await world.db.write(write)
    found = await world.chunks.texts(keys)
    assert [found[key].content for key in keys] == [str(number) for number in range(700)]


async def test_a_switched_off_document_is_listed_but_not_found(world: World) -> None:
    dataset = await world.dataset()
    document, version = await world.parsed(dataset, "a.pdf", CONTENTS)
    key = EntryKey(document_id=document.id, version_id=version, chunk_id=chunk_id(CONTENTS[0], document.id))
    assert await world.chunks.hidden_versions(dataset.place) == ()
    off = await world.documents.update(ANN, dataset.id, document.id, {"enabled": False})
    assert off.enabled is False
    assert await world.chunks.hidden_versions(dataset.place) == (version,)
    assert await world.chunks.texts([key]) == {}
    page = await world.chunks.list(ANN, dataset.id, document.id, Page())
    assert {c.available for c in page.chunks} == {False}
    assert await world.db.run(lambda: Outbox.select().count()) == 0
    await world.documents.update(ANN, dataset.id, document.id, {"enabled": True})
    assert await world.chunks.hidden_versions(dataset.place) == ()
    assert list(await world.chunks.texts([key])) == [key]
    changes = await world.db.run(lambda: [(row.action, row.payload) for row in Outbox.select()])
    assert changes == [("renewal", {"document_id": document.id})]


async def test_places_do_not_see_each_other(world: World) -> None:
    dataset = await world.dataset(embedding_model="other@X")
    document, version = await world.parsed(dataset, "a.pdf", ["one"])
    await world.documents.update(ANN, dataset.id, document.id, {"enabled": False})
    assert await world.chunks.hidden_versions(dataset.place) == (version,)
    assert await world.chunks.hidden_versions("t_ann_g9") == ()


async def test_a_chunk_survives_its_row(world: World) -> None:
    chunk = ChunkText(
        chunk_id="c" * 16,
        document_id="d",
        version_id="v",
        dataset_id="s",
        document_name="a.pdf",
        ordinal=3,
        content="text\x00 with \u2028 all",
        heading_path=("One", "Two"),
        positions=(Position(page=2, left=1.5, right=2.0, top=3.2, bottom=4.9),),
        token_count=7,
        important_keywords=("k",),
        questions=("q?",),
        available=False,
        image_id="i",
        kind="table",
        create_time=9,
    )
    bare = replace(chunk, chunk_id="b" * 16, positions=(), heading_path=(), important_keywords=(), questions=())
    await world.db.write(lambda: write_rows([replace(chunk, content="before"), bare]))
    await world.db.write(lambda: write_rows([chunk]))
    kept = await world.db.run(lambda: {row.chunk_id: row for row in Chunk.select()})
    assert {key: text_of(row, "a.pdf") for key, row in kept.items()} == {one.chunk_id: one for one in (chunk, bare)}
    assert [(row.page, row.top) for _, row in sorted(kept.items())] == [(None, 0.0), (2, 3.2)]
    assert positions_from_json(None) == ()
