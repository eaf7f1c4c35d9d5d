from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.api.apps.web import Web, web


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Web]:
    async with web(tmp_path) as running:
        yield running
