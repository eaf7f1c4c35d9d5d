"""Servers for whole-system tests: real processes on free loopback ports, one per module."""

from collections.abc import Iterator

import pytest

from tests.e2e.serving import SHARED, Serving
from tests.e2e.stacks import EMBEDDED, SERVERS, Stack

REPORT = SHARED / "financebench" / "pdfs" / "ULTABEAUTY_2023Q4_EARNINGS.pdf"


@pytest.fixture(scope="module", params=[EMBEDDED, SERVERS])
def stack(request: pytest.FixtureRequest) -> Stack:
    """Each choice of backends in turn; on `servers`, real ones that start when they are needed first."""
    return Stack(request.param, request.getfixturevalue)


@pytest.fixture(scope="module")
def server(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server on a fresh data folder, warm."""
    folder = tmp_path_factory.mktemp("server") / "data"
    running = Serving(folder, env=stack.environment(folder))
    running.client().close()
    yield running
    if running.process.poll() is None:
        running.stop()
