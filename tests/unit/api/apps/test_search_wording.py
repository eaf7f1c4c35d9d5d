"""`keyword` and `cross_languages` of the searches: worded by the tenant's chat model."""

from typing import Any

import orjson
import pytest

from api.db.services.records import RetrievalRequest
from api.db.services.retrieval_service import RetrievalService, SearchScope
from rag.core.types import Retrieved
from rag.testing.upstream import Plan
from tests.unit.api.apps.test_page_models import MODEL, Page, page

__all__ = ["page"]

ROUTES = [("/api/v1/retrieval", "dataset_ids"), ("/api/v1/searchbots/retrieval_test", "kb_id")]


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The questions that reach the search."""
    seen: list[str] = []

    async def search(self: RetrievalService, scope: SearchScope, request: RetrievalRequest) -> Retrieved:
        seen.append(request.question)
        return Retrieved(hits=(), total=0, timings_ms={})

    monkeypatch.setattr(RetrievalService, "search", search)
    return seen


def says(**reply: Any) -> Plan:
    return Plan(tokens=(orjson.dumps(reply).decode(),))


@pytest.mark.parametrize(("path", "key"), ROUTES)
async def test_a_search_is_worded_as_its_body_asks(page: Page, searched: list[str], path: str, key: str) -> None:
    await page.default(llm_id=MODEL)
    dataset, _ = await page.site.dataset(page.ann, "k")
    page.chat.will(says(translations=["Wie hoch?"]), says(keywords=["Turm", "hoch"]))
    body = {key: [dataset], "question": "How high?", "cross_languages": ["German"], "keyword": "False"}
    reply = await page.site.call("POST", path, page.ann, json=body)
    assert reply["code"] == 0, reply
    assert searched == ["Wie hoch? Turm hoch"]


@pytest.mark.parametrize(("path", "key"), ROUTES)
@pytest.mark.parametrize("more", [{}, {"keyword": False, "cross_languages": None}, {"cross_languages": []}])
async def test_a_search_that_asks_for_no_words_calls_no_model(
    page: Page, searched: list[str], path: str, key: str, more: dict[str, Any]
) -> None:
    await page.default(llm_id=MODEL)
    dataset, _ = await page.site.dataset(page.ann, "k")
    reply = await page.site.call("POST", path, page.ann, json={key: [dataset], "question": "How high?"} | more)
    assert reply["code"] == 0, reply
    assert searched == ["How high?"]
    assert page.chat.requests == []


@pytest.mark.parametrize(("path", "key"), ROUTES)
async def test_languages_are_a_list_of_texts(page: Page, path: str, key: str) -> None:
    dataset, _ = await page.site.dataset(page.ann, "k")
    body = {key: [dataset], "question": "How high?", "cross_languages": "German"}
    reply = await page.site.call("POST", path, page.ann, json=body)
    assert (reply["code"], reply["message"]) == (101, "`cross_languages` should be a list of strings")
