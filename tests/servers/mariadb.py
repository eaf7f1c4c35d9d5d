"""MariaDB for tests. It stands in for MySQL, too."""

import os
import subprocess
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import pymysql

from tests.servers.fetch import Missing, mariadb_programs
from tests.servers.process import ServerProcess, free_port, own, plain_user

USER, PASSWORD = "parley", "tests-only"


class Mariadb(ServerProcess):
    """A server with one user who may do everything. `url` names no database: see `fresh_database`."""

    def __init__(self) -> None:
        self._port = free_port()
        super().__init__("mariadb", prepare=self._prepare, answers=self._is_up)

    @property
    def url(self) -> str:
        return f"mysql://{USER}:{PASSWORD}@127.0.0.1:{self._port}"

    def _prepare(self, folder: Path) -> tuple[list[str], dict[str, str]]:
        server, install = mariadb_programs()
        own(folder)
        user, group = plain_user() or (None, None)
        made = subprocess.run(
            [install, "--no-defaults", f"--datadir={folder / 'data'}", "--auth-root-authentication-method=normal"]
            + ["--skip-test-db"],
            cwd=folder,
            user=user,
            group=group,
            extra_groups=[] if user is not None else None,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if made.returncode:
            raise Missing(f"mariadb-install-db: {made.stdout[-500:]}{made.stderr[-500:]}")
        first = folder / "init.sql"
        first.write_text(
            f"CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\n"
            f"GRANT ALL ON *.* TO '{USER}'@'%' WITH GRANT OPTION;\n"
        )
        command = [
            server,
            "--no-defaults",
            f"--datadir={folder / 'data'}",
            f"--socket={folder / 'socket'}",
            f"--pid-file={folder / 'pid'}",
            f"--port={self._port}",
            "--bind-address=127.0.0.1",
            f"--init-file={first}",
            "--skip-name-resolve",
        ]
        return command, {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(folder)}

    def _is_up(self) -> bool:
        try:
            connect(self.url).close()
        except pymysql.err.Error:
            return False
        return True


def connect(url: str) -> "pymysql.Connection[pymysql.cursors.Cursor]":
    """A connection of a test's own to a server, in autocommit mode."""
    parts = urlsplit(url)
    return pymysql.connect(
        host=parts.hostname or "",
        port=parts.port or 3306,
        user=parts.username or "",
        password=parts.password or "",
        database=parts.path[1:] or None,
        connect_timeout=5,
        read_timeout=30,
        autocommit=True,
    )


def fresh_database(url: str) -> str:
    """Make an empty database on the server of `url`, as a user would who gives no options; its address."""
    name = f"t{uuid.uuid4().hex[:12]}"
    connection = connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
    finally:
        connection.close()
    return f"{url.rstrip('/')}/{name}"
