"""chats.md, sessions.md and the OpenAI faces, row by row."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.contract.runner import rows

Run = Callable[[Mapping[str, Any]], None]


@pytest.mark.parametrize("row", rows("chats"))
def test_chats(run_row: Run, row: Mapping[str, Any]) -> None:
    run_row(row)


@pytest.mark.parametrize("row", rows("sessions"))
def test_sessions(run_row: Run, row: Mapping[str, Any]) -> None:
    run_row(row)


@pytest.mark.parametrize("row", rows("openai"))
def test_openai(run_row: Run, row: Mapping[str, Any]) -> None:
    run_row(row)
