"""Fixtures on real servers. A server starts when the first test asks for it; all end with the run.

`PARLEY_TEST_ELASTICSEARCH_URL` and `PARLEY_TEST_MYSQL_URL` name running servers to use instead. Where a server
cannot be had, its tests are skipped with the reason; with `CI` set they fail. Workers of a run that is shared out have
one server of each kind together: see `tests.servers.desk`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NoReturn, Protocol, TypeVar

import pytest

from tests.servers.desk import MAKERS, asked
from tests.servers.fetch import Missing
from tests.servers.process import ServerProcess

S = TypeVar("S", bound=ServerProcess)
DESK = "desk"
"""What workers are told the desk's address under."""
_VARIABLES = {"elasticsearch": "PARLEY_TEST_ELASTICSEARCH_URL", "mariadb": "PARLEY_TEST_MYSQL_URL"}


def prepared(make: Callable[[], S], *, running: bool = True) -> S:
    """A server that answers, or one that waits for its `start`. Skips or fails the test where there is none."""
    try:
        server = make()
    except Missing as missing:
        _without(missing)
    if running:
        try:
            server.start()
        except Missing as missing:
            server.close()
            _without(missing)
    return server


def _without(missing: Missing) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(str(missing), pytrace=False)
    pytest.skip(str(missing))


@pytest.fixture(scope="session")
def elasticsearch_url(pytestconfig: pytest.Config) -> Iterator[str]:
    """The address of the run's Elasticsearch."""
    with _of_the_run("elasticsearch", pytestconfig) as url:
        yield url


@pytest.fixture(scope="session")
def mysql_url(pytestconfig: pytest.Config) -> Iterator[str]:
    """The address of the run's MariaDB, user and password in it, without a database: see `fresh_database`."""
    with _of_the_run("mariadb", pytestconfig) as url:
        yield url


@contextmanager
def _of_the_run(name: str, config: pytest.Config) -> Iterator[str]:
    given, desk = os.environ.get(_VARIABLES[name]), getattr(config, "workerinput", {}).get(DESK)
    if given:
        yield given
    elif desk:
        try:
            url = asked(desk, name)
        except Missing as missing:
            _without(missing)
        yield url
    else:
        server = prepared(MAKERS[name])
        yield server.url
        server.close()


class PrivateServer(Protocol):
    """Makes a server of one test's own."""

    def __call__(self, make: Callable[[], S], *, running: bool = True) -> S: ...


@pytest.fixture
def private_server() -> Iterator[PrivateServer]:
    """Gives a server of this test's own, to stop, pause, kill and start again: `private_server(Mariadb)`."""
    with ExitStack() as stack:

        def start(make: Callable[[], S], *, running: bool = True) -> S:
            server = prepared(make, running=running)
            stack.callback(server.close)
            return server

        yield start
