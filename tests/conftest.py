"""What all tests share: repeatable examples, and whoever holds the event loop fails."""

import asyncio
from collections.abc import Callable, Iterator, Mapping

import pytest
import structlog
from hypothesis import settings

from tests import loop_watch
from tests.servers.fixtures import elasticsearch_url, mysql_url, private_server

__all__ = ["elasticsearch_url", "mysql_url", "private_server"]

# The same examples in every run: a change is judged by what it changed. `--hypothesis-profile=default` looks further.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

loop_watch.install()
# As `rag/core/logs.py` has it: the library's default paints tracebacks, with every local, for 140 ms.
structlog.configure(processors=[structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)])


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loops of async tests."""
    return {"watched": loop_watch.new_event_loop}


@pytest.fixture(autouse=True)
def loop_is_free(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test in which the loop was held; `@pytest.mark.holds_loop("why")` exempts one."""
    loop_watch.findings.clear()
    yield
    found = list(dict.fromkeys(loop_watch.findings))
    if found and request.node.get_closest_marker("holds_loop") is None:
        pytest.fail("the event loop was held (see tests/loop_watch.py):\n" + "\n".join(found))
