"""What all tests share: repeatable examples, and whoever holds the event loop fails."""

import asyncio
import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import structlog
from hypothesis import settings

from tests import loop_watch
from tests.servers.desk import Desk
from tests.servers.fixtures import DESK, elasticsearch_url, mysql_url, private_server

__all__ = ["elasticsearch_url", "mysql_url", "private_server"]

# The same examples in every run: a change is judged by what it changed. `--hypothesis-profile=default` looks further.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

loop_watch.install()
# As `rag/core/logs.py` has it: the library's default paints tracebacks, with every local, for 140 ms.
structlog.configure(processors=[structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)])
_desk = pytest.StashKey[Desk]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker where it learns of the run's servers. Called in the process that hands out the tests."""
    stash = node.config.stash
    if _desk not in stash:
        stash[_desk] = Desk()
    node.workerinput[DESK] = stash[_desk].address


def pytest_unconfigure(config: pytest.Config) -> None:
    if _desk in config.stash:
        config.stash[_desk].close()
        del config.stash[_desk]


def pytest_collection_finish() -> None:
    _keep_off()


def pytest_runtest_logfinish() -> None:
    if len(sys.modules) > _kept_off.modules + _MANY_MODULES:
        _keep_off()


_MANY_MODULES = 200


class _KeptOff:
    modules = 0


_kept_off = _KeptOff()


def _keep_off() -> None:
    """Keep the collector off what stays anyway: walking all tests and modules takes it up to half a second, for which
    it holds the loops of tests with short deadlines."""
    _kept_off.modules = len(sys.modules)
    gc.collect()
    gc.freeze()


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
