from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.api.db.rows import Rows
from tests.unit.api.db.services.world import World


@pytest.fixture
def world(tmp_path: Path, rows: Rows) -> Iterator[World]:
    made = World(tmp_path, rows.database())
    yield made
    made.db.close()
