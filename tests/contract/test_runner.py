"""The matcher of the contract rows, on itself."""

from typing import Any

import pytest

from tests.contract.runner import differing, dig, frames_of, shortened


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"a": 1}, {"a": 1}),
        ({"a": 1, "b": 2}, {"a": 1, "...": True}),
        ({"a": "x"}, {"a": "$text"}),
        ({"a": "0" * 32}, {"a": "$id"}),
        ([1, 0.5], ["$int", "$float"]),
        ("hello there", "$re:^hello"),
    ],
)
def test_what_matches(found: Any, expected: Any) -> None:
    assert differing(found, expected, "$") == []


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1, "b": 2}, {"a": 1}),
        ({}, {"a": 1, "...": True}),
        ([1], [1, 2]),
        (0, False),
        (True, "$int"),
        ("x", "$re:^hello"),
        (None, "$text"),
    ],
)
def test_what_differs(found: Any, expected: Any) -> None:
    assert differing(found, expected, "$")


def test_frames_may_be_left_out() -> None:
    assert shortened([1, 2, 3, 4], [1, "...", 4]) == ([1, 4], [1, 4])
    assert shortened([1, 2], [1, "...", 2]) == ([1, 2], [1, 2])
    assert shortened([1, 2, 3], ["...", 3]) == ([3], [3])
    assert shortened([1, 2, 3], [1, "..."]) == ([1], [1])
    assert shortened([1], [1, "...", 2]) == ([1], [1, 2])


def test_small_things() -> None:
    assert frames_of('data:{"a": 1}\n\ndata: [DONE]\n\n') == [{"a": 1}, "[DONE]"]
    assert dig({"data": [{"id": "x"}]}, "data.0.id") == "x"
