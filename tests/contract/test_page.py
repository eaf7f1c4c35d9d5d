"""Sections 6 and 7 of web.md, and what share tokens open (sessions.md sections 9 and 10), row by row."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.contract.runner import rows

Run = Callable[[Mapping[str, Any]], None]


@pytest.mark.parametrize("row", rows("dialog"))
def test_dialog(run_row: Run, row: Mapping[str, Any]) -> None:
    run_row(row)


@pytest.mark.parametrize("row", rows("conversation"))
def test_conversation(run_row: Run, row: Mapping[str, Any]) -> None:
    run_row(row)


@pytest.mark.parametrize("row", rows("bots"))
def test_bots(run_row: Run, row: Mapping[str, Any]) -> None:
    run_row(row)
