"""What the child processes of the tests do: `python -m tests.integration.rows.workers WHAT ADDRESS NAME`.

Each opens the rows, says `ready`, and begins when it is told; then it prints what it did, as JSON.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from api.db.database import Database
from api.db.services.knowledgebase_service import KnowledgebaseService
from api.db.services.message_rows import add_turn
from api.db.services.task_service import TaskService
from api.db.services.user_service import UserService
from api.db.tables import Dataset
from rag.core.clock import SystemClock
from rag.core.errors import RagError
from rag.core.settings import AuthSettings, IngestSettings
from tests.unit.api.db.rows import Rows
from tests.unit.api.db.services.world import ANN, DeletingStore, Models

TIMES = 15


async def create(db: Database, name: str) -> list[str]:
    """Datasets of one and the same name, one after the other."""
    datasets = KnowledgebaseService(db, SystemClock(), DeletingStore(), Models())  # type: ignore[arg-type]
    return [(await datasets.create(ANN, name="Reports")).name for _ in range(TIMES)]


async def count(db: Database, name: str) -> list[str]:
    """Reads a counter, then writes one more: only a single writer may do that."""

    def add() -> None:
        row = Dataset.get_by_id("counted")
        row.chunk_count += 1
        row.save()

    for _ in range(TIMES):
        await db.write(add)
    return []


async def delete(db: Database, name: str) -> list[str]:
    """All datasets, while others do the same."""
    datasets = KnowledgebaseService(db, SystemClock(), DeletingStore(), Models())  # type: ignore[arg-type]
    return list((await datasets.delete(ANN, None)).done)


async def turns(db: Database, name: str) -> list[str]:
    """Turns of one session."""

    def begin(number: int) -> str:
        return str(add_turn("s", "question", f"{name}-{number}", created_at=1.0).turn)

    return [await db.write(lambda number=number: begin(number)) for number in range(TIMES)]  # type: ignore[misc]


async def claim(db: Database, name: str) -> list[str]:
    """Tasks, until there are none."""
    tasks = TaskService(db, SystemClock(), IngestSettings())
    mine: list[str] = []
    while jobs := await tasks.claim(name, small=3, large=0):
        mine += [job.task_id for job in jobs]
    return mine


async def first_user(db: Database, name: str) -> list[str]:
    """The single local user of fresh rows."""
    return [(await UserService(db, SystemClock(), AuthSettings()).ensure_local_user()).user_id]


async def upgrade(db: Database, name: str) -> list[str]:
    """Nothing: opening the rows has done it."""
    return []


ALL: tuple[Callable[[Database, str], Awaitable[Sequence[str]]], ...] = (
    create,
    count,
    delete,
    turns,
    claim,
    first_user,
)


def main() -> None:
    what, address, name = sys.argv[1:]
    db = Rows(address).database(busy_timeout_s=20)
    if what == "upgrade":
        print("ready", flush=True)
        sys.stdin.readline()
        db.open()
        print("[]", flush=True)
        return
    db.open()
    print("ready", flush=True)
    sys.stdin.readline()
    work = next(one for one in ALL if one.__name__ == what)
    try:
        done: Any = list(asyncio.run(work(db, name)))  # type: ignore[arg-type]
    except RagError as error:
        done = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(done), flush=True)
    db.close()


if __name__ == "__main__":
    main()
