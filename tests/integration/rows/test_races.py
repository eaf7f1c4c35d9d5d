"""Processes that write the same rows at the same moment; on both engines."""

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from api.db.services.task_service import TaskService
from api.db.tables import Conversation, Dataset, Document, IndexPlace, Message, Task, Tenant, User
from rag.core.clock import SystemClock
from rag.core.settings import IngestSettings
from tests.integration.rows.workers import TIMES
from tests.unit.api.db.rows import Rows
from tests.unit.api.db.services.world import World

ROOT = Path(__file__).parents[3]
STAMPS = {"create_time": 1, "update_time": 1}
PROCESSES = 4


@pytest.fixture(params=["sqlite", "mysql"])
def rows(request: pytest.FixtureRequest, tmp_path: Path) -> Rows:
    if request.param == "sqlite":
        return Rows(str(tmp_path / "rows.sqlite"))
    made: Rows = request.getfixturevalue("wiped_rows")
    return made


def at_once(rows: Rows, what: str, processes: int = PROCESSES) -> list[list[Any]]:
    """What so many processes did that began together."""
    with ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.integration.rows.workers", what, rows.address, f"w{number}"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=ROOT,
                )
            )
            for number in range(processes)
        ]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        told = [json.loads(child.communicate(timeout=60)[0]) for child in children]
    assert all(isinstance(one, list) for one in told), told
    return told


def test_the_same_name_at_once_is_numbered(world: World, rows: Rows) -> None:
    names = [name for made in at_once(rows, "create") for name in made]
    expected = {"Reports"} | {f"Reports({number})" for number in range(1, PROCESSES * TIMES)}
    assert sorted(names) == sorted(expected)
    places = world.db.run_blocking(lambda: IndexPlace.select().count())
    assert places == 1


def test_a_counter_loses_nothing(world: World, rows: Rows) -> None:
    world.db.write_blocking(lambda: add_dataset("counted"))
    at_once(rows, "count")
    assert world.db.run_blocking(lambda: Dataset.get_by_id("counted").chunk_count) == PROCESSES * TIMES


def test_each_dataset_is_deleted_once(world: World, rows: Rows) -> None:
    def add() -> None:
        for number in range(40):
            add_dataset(f"ds{number:02}")

    world.db.write_blocking(add)
    deleted = [one for done in at_once(rows, "delete") for one in done]
    assert sorted(deleted) == [f"ds{number:02}" for number in range(40)]
    assert world.db.run_blocking(lambda: Dataset.select().count()) == 0


def test_turns_of_a_session_are_numbered_without_gaps(world: World, rows: Rows) -> None:
    session = {"id": "s", "dialog_id": "c", "tenant_id": "ann"}
    world.db.write_blocking(lambda: Conversation.create(**session, **STAMPS))
    numbers = [int(one) for done in at_once(rows, "turns") for one in done]
    assert sorted(numbers) == list(range(1, PROCESSES * TIMES + 1))
    assert world.db.run_blocking(lambda: Message.select().count()) == 2 * PROCESSES * TIMES


def test_fresh_rows_get_one_local_user(world: World, rows: Rows) -> None:
    users = {one for made in at_once(rows, "first_user") for one in made}
    assert world.db.run_blocking(lambda: [row.id for row in User.select()]) == list(users)
    assert len(users) == 1


def test_each_task_is_claimed_once(world: World, rows: Rows) -> None:
    ids = add_tasks(world, 120)
    claimed = [one for mine in at_once(rows, "claim") for one in mine]
    assert sorted(claimed) == sorted(ids)
    owners = world.db.run_blocking(lambda: {row.id: (row.state, row.attempts) for row in Task.select()})
    assert set(owners.values()) == {("running", 1)}


async def test_a_claim_waits_for_no_other(wiped_rows: Rows) -> None:
    """One claims and does not end; another gets the next tasks at once."""
    first, second = wiped_rows.database(), wiped_rows.database(busy_timeout_s=20)
    first.open()
    try:
        ids = add_tasks(first, 6)
        tasks = TaskService(first, SystemClock(), IngestSettings())
        second_rows: list[float] = []

        def claim_and_stay() -> list[str]:
            mine = [job.task_id for job in tasks._claim("slow", 2, 0)]
            began = time.monotonic()
            others = at_once(wiped_rows, "claim", 1)[0]
            second_rows.append(time.monotonic() - began)
            assert sorted(mine + others) == sorted(ids)
            assert mine == ids[:2]
            return mine

        await first.write(claim_and_stay, locks_rows=True)
        assert second_rows[0] < 5
    finally:
        first.close()
        second.close()


def add_dataset(name: str) -> None:
    row = {"id": name, "tenant_id": "ann", "created_by": "ann", "name": name, "name_norm": name}
    Dataset.create(**row, embedding_model="m", parser_config={}, place="t_ann_g1", **STAMPS)


def add_tasks(world: Any, number: int) -> list[str]:
    ids = [f"t{one:03}" for one in range(number)]

    def add() -> None:
        if not Tenant.get_or_none(Tenant.id == "ann"):
            Tenant.create(id="ann", name="x", **STAMPS)
        add_dataset("ds")
        IndexPlace.create(name="t_ann_g1", tenant_id="ann", embedding_model="m", dim=4, **STAMPS)
        for place, task_id in enumerate(ids):
            row: dict[str, Any] = {"id": f"d{task_id}", "dataset_id": "ds", "tenant_id": "ann", "created_by": "ann"}
            row |= {"name": task_id, "location": task_id, "type": "doc", "size": 1, "sha256": "x", "blob_key": "x"}
            Document.create(**row, chunk_method="naive", parser_config={}, meta_fields={}, **STAMPS)
            task = {"document_id": f"d{task_id}", "dataset_id": "ds", "tenant_id": "ann", "version_id": f"v{task_id}"}
            Task.create(id=task_id, state="queued", create_time=place, update_time=1, **task)

    (world.db if isinstance(world, World) else world).write_blocking(add)
    return ids
