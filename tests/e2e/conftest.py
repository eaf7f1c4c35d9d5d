"""Servers for whole-system tests: real processes on free loopback ports, one per module."""

from collections.abc import Iterator

import pytest

from tests.e2e.serving import SHARED, Serving

REPORT = SHARED / "financebench" / "pdfs" / "ULTABEAUTY_2023Q4_EARNINGS.pdf"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server on a fresh data folder, warm."""
    running = Serving(tmp_path_factory.mktemp("server") / "data")
    running.client().close()
    yield running
    if running.process.poll() is None:
        running.stop()
