"""README, datasets.md, documents.md, chunks.md and the user routes of web.md, row by row."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.contract.runner import rows

Run = Callable[[Mapping[str, Any]], None]


@pytest.mark.parametrize("row", rows("core"))
def test_core(run_row: Run, row: Mapping[str, Any]) -> None:
    run_row(row)


@pytest.mark.parametrize("row", rows("datasets"))
def test_datasets(run_row: Run, row: Mapping[str, Any]) -> None:
    run_row(row)


@pytest.mark.parametrize("row", rows("documents"))
def test_documents(run_row: Run, row: Mapping[str, Any]) -> None:
    run_row(row)


@pytest.mark.parametrize("row", rows("chunks"))
def test_chunks(run_row: Run, row: Mapping[str, Any]) -> None:
    run_row(row)
