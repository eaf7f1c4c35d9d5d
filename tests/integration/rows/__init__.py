"""Rows on a real MariaDB server: the tests of `tests/unit/api/db` unchanged, and what only a server can do."""
