"""The metadata filter of retrieval (chunks.md section 7)."""

from typing import Any

import pytest

from api.apps.envelope import Refused
from api.apps.sdk.metadata import OPERATORS, matching_documents
from tests.unit.api.apps.web import Web


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


async def test_conditions_pick_documents(site: Web) -> None:
    alice = await site.person("alice")
    dataset, (first, second) = await site.dataset(alice, "years", "a.txt", "b.txt")
    for document, fields in ((first, {"year": 2020, "tags": ["x", "y"]}), (second, {"year": "2021"})):
        path = f"/api/v1/datasets/{dataset}/documents/{document}"
        assert (await site.call("PUT", path, alice, json={"meta_fields": fields}))["code"] == 0

    async def found(*conditions: tuple[str, str, str]) -> set[str]:
        condition = {"conditions": [{"name": n, "comparison_operator": o, "value": v} for n, o, v in conditions]}
        async with site.app.app_context():
            return set(await matching_documents(alice.principal, (dataset,), condition))

    assert await found(("year", "is", "2020")) == {first}
    assert await found(("year", ">", "2020")) == {second}
    assert await found(("tags", "contains", "Y")) == {first}
    assert await found(("year", "not empty", ""), ("tags", "=", "x")) == {first}
    assert await found(("nobody", "=", "x")) == set()
    assert await found(("year", "=", "1999")) == set()


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        ({"conditions": [{}]}, "KeyError('name')"),
        ({"conditions": [{"name": "a"}]}, "KeyError('comparison_operator')"),
        (
            {"conditions": [{"name": "a", "comparison_operator": "=", "value": 1}]},
            "TypeError(\"'>' not supported between instances of 'str' and 'int'\")",
        ),
    ],
)
async def test_malformed_conditions(site: Web, condition: Any, text: str) -> None:
    alice = await site.person("alice")
    async with site.app.app_context():
        with pytest.raises(Refused) as refused:
            await matching_documents(alice.principal, (), condition)
    assert refused.value.message == text
