"""The metadata filter of retrieval (chunks.md section 7)."""

from typing import Any

import pytest

from api.apps.envelope import Refused
from api.apps.sdk.metadata import matching_documents
from tests.unit.api.apps.web import Web


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
