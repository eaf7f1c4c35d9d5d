"""What only a server does: it ends, stops, refuses and limits. Some tests have a server of their own to do it to."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import peewee
import pytest
from pydantic import SecretStr

from api.db.database import Database
from api.db.mysql import MysqlDialect
from api.db.services.chunk_rows import write_rows
from api.db.tables import Chunk, Dataset, Tenant
from api.watch import RowsOnServer
from rag.core.errors import LimitExceeded, OutcomeUnknown, StoreError, StoreUnavailable
from rag.core.settings import RowsSettings
from rag.core.types import ChunkText
from tests.integration.rows.conftest import execute
from tests.servers.mariadb import Mariadb, connect, fresh_database
from tests.unit.api.db.rows import Rows

AT_MOST_S = 5.0
STAMPS = {"create_time": 1, "update_time": 1}


@pytest.fixture
def db(rows: Rows) -> Iterator[Database]:
    database = rows.database()
    database.open()
    yield database
    database.close()


def opened(address: str, **more: Any) -> Database:
    settings = RowsSettings(url=address, **more)
    database = Database(MysqlDialect(settings), busy_timeout_s=settings.busy_timeout_s)
    database.open()
    return database


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came back or was raised."""
    began = time.monotonic()
    try:
        done: Any = work()
    except StoreError as error:
        done = error
    return time.monotonic() - began, done


def end_others(address: str) -> None:
    """Kill all connections to the database but the one that does it."""
    own = connect(address)
    name = address.rsplit("/", 1)[1]
    with own.cursor() as cursor:
        cursor.execute(f"SELECT id FROM information_schema.processlist WHERE db = '{name}' AND id <> CONNECTION_ID()")
        for (number,) in cursor.fetchall():
            cursor.execute(f"KILL {number}")
    own.close()


class TestRefused:
    def test_a_wrong_password(self, mysql_url: str) -> None:
        address = mysql_url.rsplit("@", 1)[1]
        with pytest.raises(StoreError, match=r"rows\.password") as caught:
            opened(f"mysql://nobody:a-wrong-one@{address}/x")
        assert "a-wrong-one" not in caught.value.message
        assert not caught.value.retryable

    def test_no_such_database(self, mysql_url: str) -> None:
        with pytest.raises(StoreError, match="CREATE DATABASE"):
            opened(f"{mysql_url}/nowhere")

    def test_a_user_of_this_database_alone_will_do(self, mysql_url: str, empty_database: str) -> None:
        name = empty_database.rsplit("/", 1)[1]
        user, password = f"u{name[:8]}", "p@ss/wörd 'and\" %"
        quoted = password.replace("'", "''")
        execute(
            mysql_url,
            f"CREATE USER {user} IDENTIFIED BY '{quoted}'",
            f"GRANT ALL ON {name}.* TO {user}",
        )
        host = mysql_url.rsplit("@", 1)[1]
        try:
            database = opened(f"mysql://{user}@{host}/{name}", password=SecretStr(password))
            database.write_blocking(lambda: Tenant.create(id="a", name="a", **STAMPS))
            database.close()
            execute(mysql_url, f"REVOKE ALL ON {name}.* FROM {user}", f"GRANT SELECT ON {name}.* TO {user}")
            database = opened(f"mysql://{user}:{quote(password, safe='')}@{host}/{name}")
            assert database.run_blocking(lambda: Tenant.get().id) == "a"
            with pytest.raises(StoreError, match="GRANT ALL"):
                database.write_blocking(lambda: Tenant.create(id="b", name="b", **STAMPS))
            database.close()
        finally:
            execute(mysql_url, f"DROP USER {user}")

    def test_nobody_there(self) -> None:
        seconds, error = timed(lambda: opened("mysql://ann@127.0.0.1:9/x"))
        assert isinstance(error, StoreUnavailable)
        assert "127.0.0.1:9" in error.message
        assert seconds < AT_MOST_S

    def test_a_host_without_an_address(self) -> None:
        seconds, error = timed(lambda: opened("mysql://ann@nowhere.invalid/x"))
        assert isinstance(error, StoreUnavailable)
        assert seconds < AT_MOST_S

    def test_something_else_listens(self) -> None:
        import socket

        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"mysql://ann@127.0.0.1:{silent.getsockname()[1]}/x"
            seconds, error = timed(lambda: opened(address, connect_timeout_s=1))
        assert isinstance(error, StoreUnavailable)
        assert seconds < AT_MOST_S


class TlsMariadb(Mariadb):
    """Speaks TLS, with a certificate for its address that signs itself."""

    def _prepare(self, folder: Path) -> tuple[list[str], dict[str, str]]:
        command, environment = super()._prepare(folder)
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=server"]
        make += ["-addext", "subjectAltName=IP:127.0.0.1"]
        make += ["-keyout", str(folder / "server.key"), "-out", str(folder / "server.crt")]
        subprocess.run(make, check=True, capture_output=True)
        (folder / "server.key").chmod(0o644)
        return [*command, f"--ssl-cert={folder / 'server.crt'}", f"--ssl-key={folder / 'server.key'}"], environment

    @property
    def authority(self) -> str:
        return str(self.folder / "server.crt")


class TestSafety:
    def test_the_server_must_be_the_one_that_the_authority_signed(
        self, private_server: Callable[[Callable[[], TlsMariadb]], TlsMariadb], tmp_path: Path
    ) -> None:
        server = private_server(TlsMariadb)
        address = fresh_database(server.url)
        database = opened(address, tls_ca=server.authority)

        def cipher() -> str:
            return str(Tenant._meta.database.execute_sql("SHOW SESSION STATUS LIKE 'Ssl_cipher'").fetchone()[1])

        assert database.run_blocking(cipher)
        database.close()
        with pytest.raises(StoreError, match=r"rows\.tls_ca") as caught:
            opened(address.replace("127.0.0.1", "localhost"), tls_ca=server.authority)
        assert not caught.value.retryable
        other = private_server(TlsMariadb)
        with pytest.raises(StoreError, match=r"rows\.tls_ca"):
            opened(address, tls_ca=other.authority)

    def test_a_server_without_certificate_is_not_trusted(self, one_database: str, tmp_path: Path) -> None:
        authority = tmp_path / "ca.crt"
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=ca"]
        make += ["-keyout", str(tmp_path / "ca.key"), "-out", str(authority)]
        subprocess.run(make, check=True, capture_output=True)
        with pytest.raises(StoreError, match=r"rows\.tls_ca"):
            opened(one_database, tls_ca=str(authority))


class TestConnections:
    def test_one_that_was_ended_while_it_waited(self, db: Database, rows: Rows) -> None:
        db.write_blocking(lambda: Tenant.create(id="a", name="a", **STAMPS))
        end_others(rows.address)
        assert db.run_blocking(lambda: Tenant.select().count()) == 1
        end_others(rows.address)
        db.write_blocking(lambda: Tenant.create(id="b", name="b", **STAMPS))

    @pytest.mark.parametrize("reads", [True, False])
    def test_one_that_is_ended_in_the_middle(self, db: Database, rows: Rows, reads: bool) -> None:
        runs: list[int] = []

        def work() -> int:
            runs.append(Tenant.select().count())
            if not reads:
                Tenant.create(id="a", name="a", **STAMPS)
            if len(runs) == 1:
                end_others(rows.address)
            return int(Tenant.select().count())

        assert (db.run_blocking if reads else db.write_blocking)(work) == (0 if reads else 1)
        assert runs == [0, 0]

    def test_one_that_ends_while_it_stores_is_not_tried_again(self, db: Database, rows: Rows) -> None:
        """Nobody knows whether it was stored: running it again might do it twice."""
        runs: list[int] = []

        def work() -> None:
            runs.append(1)
            Tenant.create(id=f"a{len(runs)}", name="a", **STAMPS)
            end_others(rows.address)

        with pytest.raises(OutcomeUnknown, match="look whether"):
            db.write_blocking(work)
        assert runs == [1]
        assert db.run_blocking(lambda: Tenant.select().count()) == 0

    def test_no_more_than_were_asked_for(self, one_database: str) -> None:
        database = opened(one_database, pool=2, connect_timeout_s=0.5)
        busy, free = threading.Barrier(3), threading.Event()

        def hold() -> None:
            database.run_blocking(lambda: (busy.wait(5), free.wait(10)))

        holders = [threading.Thread(target=hold) for _ in range(2)]
        for holder in holders:
            holder.start()
        busy.wait(5)
        with pytest.raises(StoreUnavailable, match=r"rows\.pool"):
            database.run_blocking(lambda: None)
        free.set()
        for holder in holders:
            holder.join()
        assert database.run_blocking(lambda: 1) == 1
        database.close()
        name = one_database.rsplit("/", 1)[1]
        assert execute(
            one_database,
            f"SELECT COUNT(*) FROM information_schema.processlist WHERE db = '{name}' AND id <> CONNECTION_ID()",
        ) == [(0,)]

    async def test_a_server_whose_connections_are_all_in_use_is_not_away(self, one_database: str) -> None:
        database = opened(one_database, pool=1, connect_timeout_s=0.5)
        busy, free = threading.Event(), threading.Event()

        def hold() -> None:
            busy.set()
            free.wait(10)

        holder = threading.Thread(target=lambda: database.run_blocking(hold))
        holder.start()
        busy.wait(5)

        async def prepare() -> None:
            """Nothing."""

        await RowsOnServer(database, prepare).reach()
        free.set()
        holder.join()
        assert database.run_blocking(lambda: 1) == 1
        database.close()

    def test_a_server_that_takes_no_more_connections_is_not_away(self, mysql_url: str, one_database: str) -> None:
        name, host = one_database.rsplit("/", 1)[1], mysql_url.rsplit("@", 1)[1]
        user = f"one{name[:8]}"
        execute(mysql_url, f"CREATE USER {user} IDENTIFIED BY 'x' WITH MAX_USER_CONNECTIONS 1")
        execute(mysql_url, f"GRANT ALL ON {name}.* TO {user}")
        database = opened(f"mysql://{user}:x@{host}/{name}", pool=2)
        try:
            database.run_blocking(database.probe)
        finally:
            database.close()
            execute(mysql_url, f"DROP USER {user}")

    def test_a_look_does_not_mind_connections_that_ended_while_they_waited(self, db: Database, rows: Rows) -> None:
        db.probe()
        end_others(rows.address)
        db.probe()

    def test_the_first_error_of_a_schema_change_is_told(self, rows: Rows) -> None:
        dialect = MysqlDialect(RowsSettings(url=rows.address))

        def change(database: peewee.Database) -> None:
            with dialect._turn(database):
                end_others(rows.address)
                raise RuntimeError("first")

        with dialect.looking() as database, pytest.raises(RuntimeError, match="first"):
            change(database)

    def test_a_session_is_strict_whatever_the_server_is(self, db: Database) -> None:
        def look() -> tuple[Any, ...]:
            asked = "SELECT @@sql_mode, @@collation_connection, @@innodb_lock_wait_timeout"
            found: tuple[Any, ...] = Tenant._meta.database.execute_sql(asked).fetchone()
            return found

        mode, collation, lock_wait = db.run_blocking(look)
        assert "STRICT_ALL_TABLES" in mode
        assert (collation, lock_wait) == ("utf8mb4_bin", 5)
        with pytest.raises(LimitExceeded, match="too long"):
            db.write_blocking(lambda: Tenant.create(id="a", name="x" * 256, **STAMPS))

    def test_a_long_statement_may_take_its_time(self, one_database: str) -> None:
        database = opened(one_database, connect_timeout_s=0.5)
        slow = "SELECT SLEEP(2.5)"
        assert database.write_blocking(lambda: Tenant._meta.database.execute_sql(slow).fetchone()) == (0,)
        database.close()


class TestLocks:
    def test_two_that_wait_for_each_other_both_get_through(self, db: Database) -> None:
        db.write_blocking(lambda: [Tenant.create(id=one, name="", **STAMPS) for one in "ab"])
        both = threading.Barrier(2, timeout=5)
        runs: list[str] = []

        def change(first: str, second: str) -> None:
            def write() -> None:
                runs.append(first)
                Tenant.update(name=Tenant.name.concat(first)).where(Tenant.id == first).execute()
                if len(runs) <= 2:
                    both.wait()
                Tenant.update(name=Tenant.name.concat(first)).where(Tenant.id == second).execute()

            db.write_blocking(write)

        threads = [threading.Thread(target=change, args=order) for order in (("a", "b"), ("b", "a"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(runs) == 3
        names = db.run_blocking(lambda: sorted("".join(sorted(row.name)) for row in Tenant.select()))
        assert names == ["ab", "ab"]

    def test_a_lock_held_elsewhere_too_long(self, one_database: str, rows: Rows) -> None:
        database = opened(one_database, busy_timeout_s=1)
        database.write_blocking(lambda: Tenant.create(id="a", name="a", **STAMPS))
        other = connect(one_database)
        with other.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("UPDATE tenant SET name = 'b' WHERE id = 'a'")
            update = Tenant.update(name="c").where(Tenant.id == "a")
            seconds, error = timed(lambda: database.write_blocking(update.execute))
            assert isinstance(error, StoreUnavailable)
            assert seconds < AT_MOST_S
            assert database.run_blocking(lambda: Tenant.get_by_id("a").name) == "a"
        other.close()
        assert database.write_blocking(update.execute) == 1
        database.close()

    def test_a_reader_waits_for_no_writer(self, db: Database, rows: Rows) -> None:
        db.write_blocking(lambda: Tenant.create(id="a", name="before", **STAMPS))

        def write() -> str:
            Tenant.update(name="after").where(Tenant.id == "a").execute()
            told: list[tuple[float, str]] = []
            reader = threading.Thread(
                target=lambda: told.append(timed(lambda: db.run_blocking(lambda: Tenant.get_by_id("a").name)))
            )
            reader.start()
            reader.join(5)
            seconds, name = told[0]
            assert seconds < 1
            return name

        assert db.write_blocking(write) == "before"


class TestSizes:
    def test_rows_go_in_statements_that_the_server_takes(
        self, private_server: Callable[[Callable[[], Mariadb]], Mariadb]
    ) -> None:
        server = private_server(Mariadb)
        execute(server.url, "SET GLOBAL max_allowed_packet = 65536")
        database = opened(fresh_database(server.url))
        chunks = [
            ChunkText(
                chunk_id=f"{number:016}", document_id="d", version_id="v", dataset_id="ds", document_name="",
                ordinal=number, content="\\'" * 5_000,
            )
            for number in range(60)
        ]  # fmt: skip
        database.write_blocking(lambda: write_rows(chunks))
        assert database.run_blocking(lambda: Chunk.select().count()) == 60
        with pytest.raises(LimitExceeded, match="max_allowed_packet"):
            database.write_blocking(lambda: Dataset.update(description="x" * 70_000).execute())
        assert database.run_blocking(lambda: Chunk.select().count()) == 60
        database.close()


class TestDown:
    def test_a_server_that_stops_dies_and_comes_back(
        self, private_server: Callable[[Callable[[], Mariadb]], Mariadb]
    ) -> None:
        server = private_server(Mariadb)
        database = opened(fresh_database(server.url))
        database.write_blocking(lambda: Tenant.create(id="a", name="a", **STAMPS))

        def read() -> int:
            return database.run_blocking(lambda: int(Tenant.select().count()))

        def write() -> int:
            return database.write_blocking(lambda: int(Tenant.update(name="b").execute()))

        server.pause()
        for work in (read, write, read, database.probe):
            seconds, told = timed(work)
            assert isinstance(told, StoreUnavailable), told
            assert seconds < AT_MOST_S
        many = [threading.Thread(target=timed, args=(read,)) for _ in range(30)]
        began = time.monotonic()
        for thread in many:
            thread.start()
        for thread in many:
            thread.join()
        assert time.monotonic() - began < AT_MOST_S
        server.resume()
        assert read() == 1
        assert write() == 1
        server.kill()
        for work in (read, write, database.probe):
            seconds, told = timed(work)
            assert isinstance(told, StoreUnavailable), told
            assert seconds < AT_MOST_S
        server.start()
        assert read() == 1
        assert write() == 1
        database.close()
