"""Watching servers: what is waited for, what is not, and what callers see meanwhile."""

from pathlib import Path

import pytest

from api.db.database import Database
from api.watch import RowsOnServer, ServerWatch
from rag.core.errors import StoreError, StoreUnavailable


class Server:
    """A server that is as a test says."""

    def __init__(self) -> None:
        self.fault: StoreError | None = None
        self.asked = 0

    async def reach(self) -> None:
        self.asked += 1
        if self.fault is not None:
            raise self.fault


async def test_a_server_that_is_down_is_waited_for() -> None:
    server, away = Server(), dict[str, str]()
    watch = ServerWatch("index", server.reach, away)
    server.fault = StoreUnavailable("It is down.")
    await watch.begin(patient=True)
    assert away == {"index": "It is down."}
    server.fault = None
    await watch.look()
    assert away == {}


async def test_a_command_does_not_wait() -> None:
    server, away = Server(), dict[str, str]()
    server.fault = StoreUnavailable("It is down.")
    with pytest.raises(StoreUnavailable):
        await ServerWatch("index", server.reach, away).begin(patient=False)


async def test_what_waiting_cannot_heal_ends_the_start_but_not_a_running_process() -> None:
    server, away = Server(), dict[str, str]()
    watch = ServerWatch("index", server.reach, away)
    server.fault = StoreError("Wrong password.")
    with pytest.raises(StoreError, match="Wrong password"):
        await watch.begin(patient=True)
    await watch.look()
    assert away == {"index": "Wrong password."}


class TestRowsOnServer:
    """On SQLite: what is opened does not matter to who opens it."""

    async def test_calls_are_refused_until_rows_are_open_and_prepared(self, tmp_path: Path) -> None:
        folder = tmp_path / "later"
        db = Database(folder / "rows.sqlite", busy_timeout_s=1)
        prepared: list[bool] = []

        async def prepare() -> None:
            prepared.append(await db.run(lambda: True))

        rows = RowsOnServer(db, prepare)
        with pytest.raises(StoreUnavailable):
            await rows.reach()
        with pytest.raises(StoreUnavailable, match="cannot be opened"):
            await db.run(lambda: None)
        folder.mkdir()
        await rows.reach()
        await rows.reach()
        assert prepared == [True]
        assert await db.run(lambda: 7) == 7
        db.close()

    async def test_rows_that_could_not_be_prepared_stay_refused(self, tmp_path: Path) -> None:
        db = Database(tmp_path / "rows.sqlite", busy_timeout_s=1)
        faults = [StoreUnavailable("It went again.")]

        async def prepare() -> None:
            await db.write(lambda: None)
            if faults:
                raise faults.pop()

        rows = RowsOnServer(db, prepare)
        with pytest.raises(StoreUnavailable):
            await rows.reach()
        with pytest.raises(StoreUnavailable, match="It went again"):
            await db.write(lambda: None)
        await rows.reach()
        await db.write(lambda: None)
        db.close()


def test_looking_at_rows_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    found = Database(path, busy_timeout_s=1).examine()
    assert found.schema == 0 < found.newest
    assert found.version[0] == "3"
    database = Database(path, busy_timeout_s=1)
    database.open()
    database.close()
    again = Database(path, busy_timeout_s=1).examine()
    assert again.schema == again.newest == found.newest
