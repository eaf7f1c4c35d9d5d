"""What rows do on every engine."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import peewee
import pytest

from api.db.database import Database
from api.db.migrations import migrations
from api.db.tables import Chunk, Dataset, Message, SchemaMigration, Tenant
from rag.core.errors import InvalidInput, NotFound, StoreError
from tests.unit.api.db.rows import Rows

ROOT = Path(__file__).parents[4]


@pytest.fixture
def db(rows: Rows) -> Iterator[Database]:
    database = rows.database(busy_timeout_s=0.3)
    database.open()
    yield database
    database.close()


def insert(name: str) -> Callable[[], None]:
    def write() -> None:
        Tenant.insert(id=name, name=name, create_time=1, update_time=1).execute()

    return write


def names() -> list[str]:
    return [row.id for row in Tenant.select().order_by(Tenant.id)]


@pytest.mark.holds_loop("opens the rows itself")
async def test_what_was_written_is_read_by_another_opening(db: Database, rows: Rows) -> None:
    await db.write(insert("a"))
    db.close()
    again = rows.database()
    again.open()
    assert await again.run(names) == ["a"]
    again.close()


async def test_a_write_that_raises_is_undone(db: Database) -> None:
    def write() -> None:
        insert("a")()
        raise NotFound("thing", "x")

    with pytest.raises(NotFound):
        await db.write(write)
    assert await db.run(names) == []


async def test_a_read_that_writes_is_an_error_and_changes_nothing(db: Database) -> None:
    with pytest.raises(StoreError):
        await db.run(insert("a"))
    await db.write(insert("b"))
    assert await db.run(names) == ["b"]


async def test_a_read_sees_one_moment(db: Database) -> None:
    began, written = threading.Event(), threading.Event()

    def read() -> tuple[list[str], list[str]]:
        before = names()
        began.set()
        assert written.wait(5)
        return before, names()

    reading = asyncio.create_task(db.run(read))
    while not began.is_set():
        await asyncio.sleep(0.01)
    await db.write(insert("a"))
    written.set()
    assert await reading == ([], [])


async def test_many_writers_at_once_all_get_through(db: Database) -> None:
    await asyncio.gather(*(db.write(insert(f"{number:03}")) for number in range(100)))
    assert len(await db.run(names)) == 100


async def test_a_broken_uniqueness_is_a_store_error(db: Database) -> None:
    await db.write(insert("a"))
    with pytest.raises(StoreError, match="UNIQUE"):
        await db.write(insert("a"))


@pytest.mark.parametrize("value", ["\ud800", 2**70])
async def test_values_that_fit_no_row_are_invalid_input(db: Database, value: object) -> None:
    with pytest.raises(InvalidInput):
        await db.run(lambda: Tenant.get_or_none(Tenant.id == value, Tenant.create_time == value))


async def test_json_that_cannot_be_kept_is_invalid_input(db: Database) -> None:
    with pytest.raises(InvalidInput):
        await db.write(lambda: Dataset.update(parser_config={"a": "\ud800"}).execute())


async def test_lower_knows_more_than_ascii(db: Database) -> None:
    await db.write(insert("STRASSE Ä"))
    found = await db.run(lambda: Tenant.select().where(peewee.fn.LOWER(Tenant.name).contains("ä")).count())
    assert found == 1


def test_using_rows_before_they_are_open_is_a_mistake(rows: Rows) -> None:
    with pytest.raises(RuntimeError):
        rows.database().run_blocking(names)


@pytest.mark.parametrize(
    "name", ["a ", "a  ", " a", "a\t", "A", "ä", "a\x00", "\x00", "a\x01", "a \x01", "\U0001f600", "ß"]
)
async def test_texts_are_told_apart_to_the_last_character(db: Database, name: str) -> None:
    others = {"a", "b", "ss", name.strip() or "c"} - {name}

    def write() -> None:
        for one in (*others, name):
            Tenant.create(id=one, name=one, create_time=1, update_time=1)

    await db.write(write)
    found = await db.run(lambda: [(row.id, row.name) for row in Tenant.select().where(Tenant.id == name)])
    assert found == [(name, name)]
    for other in others:
        assert await db.run(lambda other=other: Tenant.select().where(Tenant.id == other).count()) == 1
        assert await db.run(lambda other=other: Tenant.get_by_id(other).name) == other


async def test_a_blank_behind_an_id_finds_nothing(db: Database) -> None:
    await db.write(insert("a"))
    for wanted in ("a ", "a\x00", "A", " a", "a\x01"):
        assert await db.run(lambda wanted=wanted: Tenant.get_or_none(Tenant.id == wanted)) is None
        assert await db.run(lambda wanted=wanted: Tenant.select().where(Tenant.id.in_([wanted])).count()) == 0


async def test_a_number_for_an_id_is_a_text(db: Database) -> None:
    """An engine that converts would find every id that begins with a letter."""
    await db.write(insert("abc"))
    for wanted in (0, False, 0.0):
        assert await db.run(lambda wanted=wanted: Tenant.get_or_none(Tenant.id == wanted)) is None


async def test_names_are_ordered_by_their_characters(db: Database) -> None:
    ordered = ["A", "B", "Z", "a", "a b", "ab", "b", "\xe4", "\xfc", "\u4e00", "\uffee", "\U0001f600"]
    for name in reversed(ordered):
        await db.write(insert(name))
    assert await db.run(lambda: [row.name for row in Tenant.select().order_by(Tenant.name)]) == ordered


async def test_rows_without_a_value_come_first(db: Database) -> None:
    def write() -> None:
        for number, page in enumerate((3, None, 1, None)):
            Chunk.insert(
                document_id="d",
                version_id="v",
                chunk_id=str(number),
                dataset_id="ds",
                ordinal=number,
                content="",
                heading_path=[],
                positions=[],
                page=page,
                important_keywords=[],
                questions=[],
                create_time=1,
            ).execute()

    await db.write(write)
    order = (Chunk.page.asc(), Chunk.ordinal.asc())
    assert await db.run(lambda: [row.page for row in Chunk.select().order_by(*order)]) == [None, None, 1, 3]


async def test_updates_count_the_rows_they_found(db: Database) -> None:
    await db.write(insert("a"))
    again = Tenant.update(name="a").where(Tenant.id == "a")
    assert [await db.write(again.execute), await db.write(again.execute)] == [1, 1]
    assert await db.write(Tenant.delete().where(Tenant.id == "b").execute) == 0


async def test_a_word_is_looked_for_as_it_is(db: Database) -> None:
    for name in ("100%", "1000", "a_b", "axb", "a\\b", "it's"):
        await db.write(insert(name))
    for word in ("0%", "a_", "a\\", "t's", "%", "_", "\\"):
        expected = [name for name in ("100%", "1000", "a\\b", "a_b", "axb", "it's") if word in name]
        found = await db.run(lambda word=word: {row.id for row in Tenant.select().where(Tenant.id.contains(word))})
        assert found == set(expected)


async def test_large_texts_and_numbers_come_back_as_they_were(db: Database) -> None:
    text = "\x00\u2028\U0001f600 'quoted' \\ %s ? \n" * 60_000
    value = {"a": [1.1, 2**53, None, True, "\ud7ff"], "\x00": "trailing "}
    numbers = (0.1 + 0.2, 1e-300, -1.7976931348623157e308, 1767225600.123456)

    def write() -> None:
        Dataset.create(
            id="ds",
            tenant_id="x",
            created_by="x",
            name="D",
            name_norm="d",
            embedding_model="m",
            place="p",
            description=text,
            parser_config=value,
            similarity_threshold=numbers[0],
            vector_similarity_weight=numbers[1],
            token_count=2**63 - 1,
            create_time=-(2**63),
            update_time=1,
        )
        Message.create(conversation_id="c", turn=1, role="user", content=" ", created_at=numbers[3])
        Message.create(conversation_id="c", turn=1, role="assistant", content="", created_at=numbers[2])

    await db.write(write)
    row = await db.run(lambda: Dataset.get_by_id("ds"))
    assert (row.description == text, row.parser_config) == (True, value)
    assert (row.similarity_threshold, row.vector_similarity_weight) == numbers[:2]
    assert (row.token_count, row.create_time) == (2**63 - 1, -(2**63))
    messages = await db.run(lambda: list(Message.select().order_by(Message.role)))
    assert [(one.content, one.created_at) for one in messages] == [("", numbers[2]), (" ", numbers[3])]


async def test_a_write_is_run_again_only_when_it_lost(db: Database) -> None:
    runs = []

    def write() -> None:
        runs.append(1)
        raise StoreError("mine")

    with pytest.raises(StoreError, match="mine"):
        await db.write(write)
    assert runs == [1]


def test_rows_of_a_newer_version_are_refused(rows: Rows) -> None:
    newest = max(migrations())
    first = rows.database()
    first.open()
    first.write_blocking(lambda: SchemaMigration.create(number=newest + 1, applied_at=1))
    first.close()
    with pytest.raises(InvalidInput, match="newer version") as caught:
        rows.database().open()
    assert "\n" not in caught.value.message


_WRITER = """
import asyncio, sys
from api.db.tables import Tenant
from tests.unit.api.db.rows import Rows

async def main():
    db = Rows(sys.argv[1]).database(busy_timeout_s=10)
    db.open()
    start = await db.run(lambda: Tenant.select().count())
    def pair(n):
        for side in "ab":
            Tenant.insert(id=f"{n:06}{side}", name="x" * 200, create_time=1, update_time=1).execute()
    for n in range(start // 2, 1_000_000):
        await db.write(lambda: pair(n))
        sys.stdout.write(f"{n:06}\\n")
        sys.stdout.flush()

asyncio.run(main())
"""


def test_no_acknowledged_write_is_lost_by_a_kill(rows: Rows) -> None:
    """A real process is killed while it writes, again and again; pairs of one transaction stay whole."""
    acknowledged: list[str] = []
    for lines in (1, 40, 150):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, rows.address], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as child:
            assert child.stdout is not None
            for _ in range(lines):
                acknowledged.append(child.stdout.readline().strip())
            child.send_signal(signal.SIGKILL)
            acknowledged += [line.strip() for line in child.stdout if line.endswith("\n")]
        database = rows.database()
        database.open()
        kept = set(database.run_blocking(names))
        database.close()
        missing = [n for n in acknowledged if not {f"{n}a", f"{n}b"} <= kept]
        assert missing == []
        assert {name[:-1] for name in kept if name.endswith("a")} == {n[:-1] for n in kept if n.endswith("b")}
    assert len(acknowledged) >= 191
    if not rows.address.startswith("mysql://"):
        with closing(sqlite3.connect(rows.address)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
