"""Conditions on documents' metadata."""

import pytest

from api.db.services.metadata_filter import OPERATORS, Condition, manual_conditions, matching
from rag.core.types import Principal
from tests.unit.api.db.services.world import ANN, BOB, World


@pytest.mark.parametrize(
    ("operator", "stored", "wanted", "holds"),
    [
        ("contains", "Annual Report", "report", True),
        ("not contains", "Annual", "x", True),
        ("start with", "Annual", "ANN", True),
        ("end with", "Annual", "AL", True),
        ("empty", "", "ignored", True),
        ("not empty", "x", "ignored", True),
        ("=", "2020.0", "2020", True),
        ("=", "a", "A", False),
        ("≠", "2021", "2020", True),
        (">", "10", "9", True),
        (">", "n/a", "2020", True),
        ("≤", "9", "10", True),
    ],
)
def test_operators(operator: str, stored: str, wanted: str, holds: bool) -> None:
    assert OPERATORS[operator](stored, wanted) is holds


FIELDS = {"a": {"year": 2020, "tags": ["x", "y"]}, "b": {"year": "2021", "note": ""}, "c": {"kind": {"of": "memo"}}}


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        ([("year", "=", "2020")], ("a",)),
        ([("year", "≥", "2020"), ("tags", "=", "y")], ("a",)),
        ([("year", "≠", "1999")], ("a", "b")),
        ([("note", "empty", "")], ("b",)),
        ([("kind", "contains", "MEMO")], ("c",)),
        ([("year", "matches", "2020")], ()),
        ([("nobody", "≠", "x")], ()),
        ([("year", "=", "2020' OR '1'='1")], ()),
        ([("tags", "contains", ".*")], ()),
        ([], ("a", "b", "c")),
    ],
)
def test_all_conditions_must_hold(conditions: list[tuple[str, str, str]], found: tuple[str, ...]) -> None:
    asked = [Condition(key=key, operator=operator, value=value) for key, operator, value in conditions]
    assert matching(FIELDS, asked) == found


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ([{"key": "year", "op": "is", "value": 2020}], [("year", "=", "2020")]),
        ([{"key": "year", "op": "not is", "value": "x"}], [("year", "≠", "x")]),
        ([{"key": "year"}], [("year", "None", "")]),
        ([{"key": "", "op": "=", "value": "x"}, {"op": "="}, {"key": 7, "op": "="}, "year", None], []),
        (None, []),
        ({"key": "year"}, []),
    ],
)
def test_rows_of_a_chat(listed: object, found: list[tuple[str, str, str]]) -> None:
    assert [(each.key, each.operator, each.value) for each in manual_conditions(listed)] == found


def test_no_more_rows_than_a_chat_needs() -> None:
    assert len(manual_conditions([{"key": "year", "op": "=", "value": "1"}] * 1000)) == 32


async def test_only_the_principals_documents_are_read(world: World) -> None:
    async def document(owner: Principal, name: str, fields: dict[str, object]) -> tuple[str, str]:
        dataset = await world.dataset(owner, name)
        made = await world.document(dataset)
        await world.documents.update(owner, dataset.id, made.id, {"meta_fields": fields})
        await world.document(dataset, "plain.pdf")
        return dataset.id, made.id

    mine, wanted = await document(ANN, "mine", {"year": 2020})
    also, other = await document(ANN, "also", {"year": 2021})
    theirs, _ = await document(BOB, "theirs", {"year": 2020})
    assert await world.documents.meta_fields(ANN, [mine, theirs, mine]) == {wanted: {"year": 2020}}
    assert await world.documents.meta_fields(ANN, [mine, also]) == {wanted: {"year": 2020}, other: {"year": 2021}}
    assert await world.documents.meta_fields(ANN, []) == {}
