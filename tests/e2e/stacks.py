"""What a whole system may be built on. Tests that take a `stack` run on each, unchanged."""

import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from api.backends import Store, make_database, make_store
from api.db.data_folder import DataFolder
from api.db.database import Database
from rag.core.clock import SystemClock
from rag.core.settings import Settings, load_settings
from tests.servers.elastic import fresh_prefix
from tests.servers.mariadb import connect, fresh_database

EMBEDDED, SERVERS = "embedded", "servers"


class Stack:
    """One choice of backends. Each data folder has rows and an index of its own, the same ones at each start.

    Args:
        name: `embedded` (SQLite and LanceDB) or `servers` (MariaDB and Elasticsearch).
        url_of: Gives the address of a server, which starts at the first call.
    """

    def __init__(self, name: str, url_of: Callable[[str], str]) -> None:
        self.name = name
        self._url_of = url_of
        self._environments: dict[Path, dict[str, str]] = {}

    def environment(self, folder: Path) -> dict[str, str]:
        """What a `parley` command needs to know for `folder`."""
        if self.name == EMBEDDED:
            return {}
        if folder not in self._environments:
            self._environments[folder] = {
                "PARLEY_ROWS__URL": fresh_database(self._url_of("mysql_url")),
                "PARLEY_INDEX__URL": self._url_of("elasticsearch_url"),
                "PARLEY_INDEX__PREFIX": fresh_prefix(),
            }
        return self._environments[folder]

    def settings(self, folder: Path) -> Settings:
        return load_settings({"data_dir": folder}, environ=self.environment(folder), env_file=folder / "no.env")

    def database(self, folder: Path) -> Database:
        """The rows of `folder`, not open."""
        return make_database(self.settings(folder), DataFolder(folder))

    def store(self, folder: Path) -> Store:
        """The index of `folder`."""
        return make_store(self.settings(folder), DataFolder(folder), SystemClock(), cache_bytes=0)

    def copy(self, source: Path, target: Path) -> None:
        """Make `target` a copy of `source`, rows included. An index on a server is not copied: it must be empty."""
        shutil.copytree(source, target)
        if self.name == SERVERS:
            copy_rows(self.environment(source)["PARLEY_ROWS__URL"], self.environment(target)["PARLEY_ROWS__URL"])


def copy_rows(source: str, target: str) -> None:
    """Copy all tables of one database of a server into another one, which is empty."""
    name = urlsplit(source).path[1:]
    connection = connect(target)
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SHOW TABLES FROM {name}")
            for (table,) in cursor.fetchall():
                cursor.execute(f"CREATE TABLE `{table}` LIKE {name}.`{table}`")
                cursor.execute(f"INSERT INTO `{table}` SELECT * FROM {name}.`{table}`")
    finally:
        connection.close()
