"""Where tests of rows get them from: the same tests run on SQLite here and on a server in `tests/integration/rows`."""

from dataclasses import dataclass
from pathlib import Path

from api.db.database import Database
from rag.core.settings import RowsSettings


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one test, empty at first. `address` is a file or `mysql://...`; a child process can be told it."""

    address: str

    def database(self, *, busy_timeout_s: float = 5) -> Database:
        """A database of them, not open yet; each call gives another one of the same rows."""
        if not self.address.startswith("mysql://"):
            return Database(Path(self.address), busy_timeout_s=busy_timeout_s)
        from api.db.mysql import MysqlDialect  # Unit tests need no driver.

        settings = RowsSettings(url=self.address, busy_timeout_s=busy_timeout_s)
        return Database(MysqlDialect(settings), busy_timeout_s=busy_timeout_s)
