from typing import Any

import pytest

from rag.llm.gemini_pieces import GeminiPieces, with_arguments


def chunk(*calls: dict[str, Any], finish: str = "") -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"functionCall": call} for call in calls]}}
    return {"candidates": [candidate | ({"finishReason": finish} if finish else {})]}


def whole(*chunks: dict[str, Any]) -> list[dict[str, Any]]:
    pieces = GeminiPieces()
    return [
        part["functionCall"]
        for each in chunks
        for candidate in pieces.put_right(each)["candidates"]
        for part in candidate["content"]["parts"]
    ]


def piece(path: str, **value: Any) -> dict[str, Any]:
    return {"partialArgs": [{"jsonPath": path, **value}], "willContinue": True}


def test_a_call_without_arguments_gets_none() -> None:
    assert with_arguments([{"functionCall": {"name": "now"}}, {"text": "x"}]) == [
        {"functionCall": {"name": "now", "args": {}}},
        {"text": "x"},
    ]
    assert whole(chunk({"name": "now"}, {"name": "read", "args": {"a": 1}})) == [
        {"name": "now", "args": {}},
        {"name": "read", "args": {"a": 1}},
    ]


@pytest.mark.parametrize("end", [chunk({}), chunk({"name": "next", "args": {}}), chunk(finish="STOP")])
def test_arguments_in_pieces_are_put_together(end: dict[str, Any]) -> None:
    found = whole(
        chunk({"name": "cook", "willContinue": True}),
        chunk(piece("$.dish.name", stringValue="Läck")),
        chunk(piece("$.dish.name", stringValue="erli")),
        chunk(piece("$.dish.steps[1].minutes", numberValue=15)),
        chunk(piece("$.dish.steps[0]", stringValue="Mix.")),
        chunk(piece("$.hot", boolValue=True), piece("$.none", nullValue=None)),
        end,
    )
    arguments = {"dish": {"name": "Läckerli", "steps": ["Mix.", {"minutes": 15}]}, "hot": True, "none": None}
    assert found[0] == {"name": "cook", "args": arguments}


def test_the_last_piece_may_end_the_call() -> None:
    last = {"partialArgs": [{"jsonPath": "$.a", "numberValue": 1}]}
    assert whole(chunk({"name": "f", "willContinue": True}), chunk(last)) == [{"name": "f", "args": {"a": 1}}]


@pytest.mark.parametrize("path", ["$.a[999999999]", "$.a[0]", "$", "", "$.a.b.c"])
def test_paths_that_do_not_fit_break_nothing(path: str) -> None:
    found = whole(
        chunk({"name": "f", "willContinue": True}),
        chunk(piece("$.a", stringValue="x")),
        chunk(piece(path, stringValue="y")),
        chunk({}),
    )
    assert [call["name"] for call in found] == ["f"]
    assert len(repr(found)) < 200


def test_pieces_of_no_call_are_dropped() -> None:
    assert whole(chunk(piece("$.a", stringValue="x"), {})) == []
