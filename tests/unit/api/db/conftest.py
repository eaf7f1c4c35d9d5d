from pathlib import Path

import pytest

from tests.unit.api.db.rows import Rows


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return Rows(str(tmp_path / "rows.sqlite"))
