"""How much ingestion waits, for metrics."""

from typing import Any

import peewee

from api.db.database import Database
from api.db.tables import Task


async def queue_depth(db: Database) -> tuple[int, int]:
    """Tasks that wait and tasks that run."""

    def read() -> tuple[int, int]:
        query = Task.select(Task.state, peewee.fn.COUNT(Task.id)).where(Task.state.in_(("queued", "running")))
        rows: Any = query.group_by(Task.state).tuples()
        counts: dict[str, int] = dict(rows)
        return counts.get("queued", 0), counts.get("running", 0)

    return await db.run(read)
