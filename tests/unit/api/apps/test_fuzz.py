"""Every route with every kind of wrong body and argument: always a clean reply, never a crash."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import structlog

from tests.unit.api.apps.test_foreign_ids import BODIES, Objects, make_objects, routes
from tests.unit.api.apps.web import Web

DEEP = b"[" * 5000 + b"]" * 5000
MIDDLE = b'{"parser_config":' + b'{"a":' * 400 + b"1" + b"}" * 401
HUGE = b'{"page": 1e400, "ids": [' + b"9" * 5000 + b"]}"
CONTENTS = {
    "nothing": b"",
    "null": b"null",
    "empty list": b"[]",
    "list": b"[1]",
    "text": b'"text"',
    "number": b"7",
    "true": b"true",
    "cut off": b'{"name": "a',
    "not UTF-8": b'{"name": "\xff\xfe"}',
    "lone surrogate": b'{"name": "\\ud800"}',
    "NaN": b'{"name": NaN}',
    "deep": DEEP,
    "deep object": MIDDLE,
    "huge numbers": HUGE,
    "twice": b'{"name": "a", "name": null}',
    "NUL": b'{"name": "a\\u0000b", "question": "\\u0000", "ids": ["\\u0000"]}',
}
WRONG: list[Any] = [None, True, 7, -1, 2**63, 1.5e308, "", "x' OR 1=1 --", [], [None], [[]], {}, {"a": {}}, ["x"] * 300]
QUERIES = [
    "page=-1",
    "page=99999999999999999999999",
    "page=%00",
    "page_size=1e9",
    "page_size=" + "9" * 5000,
    "desc=%ff",
    "orderby=__class__",
    "orderby=id;drop",
    "id=%27%20OR%201=1",
    "name=%25",
    "keywords=%5B(*",
    "create_time_from=a",
    "run=%00&run=1",
]
LEAKS = ("Traceback", "site-packages", 'File "', "peewee", "sqlite")


@pytest.fixture
def crashes() -> Iterator[list[Any]]:
    """The crashes that requests cause, which the log alone would tell."""
    seen: list[Any] = []

    def keep(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
        if event.get("event") in ("request_crashed", "answer_crashed"):
            seen.append(event)
        raise structlog.DropEvent

    before = structlog.get_config()["processors"]
    structlog.configure(processors=[keep], cache_logger_on_first_use=False)
    yield seen
    structlog.configure(processors=before)


def assert_clean(status: int, text: str, what: str) -> None:
    assert status in (200, 308, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422), f"{what}: {status} {text[:300]}"
    for leak in LEAKS:
        assert leak not in text, f"{what}: {text[:500]}"
    if text.startswith("{"):
        body = orjson.loads(text)
        assert {"error", "code", "status", "object"} & body.keys(), what


async def send(site: Web, who: Any, method: str, path: str, **arguments: Any) -> None:
    response = await site.send(method, path, who, **arguments)
    text = (await response.get_data()).decode("utf-8", "replace")
    assert_clean(response.status_code, text, f"{method} {path} {str(arguments)[:200]}")


async def prepared(site: Web) -> tuple[Any, Objects, list[tuple[str, str]]]:
    person = await site.person("alice")
    objects = await make_objects(site, person, "papers")
    skipped = ("/readyz", "/openapi.json", "/v1/user/logout", "/v1/system/token/<token>")
    return person, objects, [(method, rule) for method, rule in routes(site) if rule not in skipped]


async def test_bodies(site: Web, crashes: list[Any]) -> None:
    person, objects, all_routes = await prepared(site)
    for method, rule in all_routes:
        if method == "GET" or (method == "DELETE" and rule in ("/api/v1/datasets", "/api/v1/chats")):
            continue
        for content in CONTENTS.values():
            await send(site, person, method, objects.url(rule), content=content)
        plain = {"Content-Type": "text/plain"}
        await send(site, person, method, objects.url(rule), content=b"{}", headers=plain)
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        await send(site, person, method, objects.url(rule), content=b"a=%ff&" * 50, headers=form)
    assert crashes == []


async def test_wrong_types_in_every_field(site: Web, crashes: list[Any]) -> None:
    person, objects, _ = await prepared(site)
    for (method, rule), body in BODIES.items():
        if method == "DELETE" and rule in ("/api/v1/datasets", "/api/v1/chats"):
            continue
        for key in body:
            for value in WRONG:
                changed = objects.fill(body) | {key: value}
                content = orjson.dumps(changed)
                await send(site, person, method, objects.url(rule), content=content)
    assert crashes == []


async def test_wrong_types_of_known_fields(site: Web, crashes: list[Any]) -> None:
    """The fields that routes read but no ordinary body names."""
    person, objects, _ = await prepared(site)
    ids = objects.ids
    document = f"/api/v1/datasets/{ids['dataset_id']}/documents/{ids['document_id']}"
    retrieval = {"question": "", "dataset_ids": [ids["dataset_id"]]}
    cases: list[tuple[str, str, dict[str, Any], str]] = [
        ("POST", "/api/v1/datasets", {"name": "x"}, "avatar description embedding_model permission chunk_method"),
        ("POST", "/api/v1/datasets", {"name": "x"}, "parser_config"),
        ("PUT", document, {}, "name parser_config chunk_method meta_fields enabled chunk_count progress"),
        ("POST", "/api/v1/retrieval", retrieval, "page page_size similarity_threshold vector_similarity_weight"),
        ("POST", "/api/v1/retrieval", retrieval, "top_k highlight metadata_condition document_ids keyword use_kg"),
        ("POST", "/v1/user/login", {"email": "a@b.co"}, "email password"),
        ("POST", "/v1/user/register", {"email": "a@b.co", "nickname": "", "password": "x"}, "email nickname password"),
    ]
    for method, path, body, keys in cases:
        for key in keys.split():
            for value in WRONG:
                await send(site, person, method, path, content=orjson.dumps(body | {key: value}))
    assert crashes == []


async def test_queries_and_paths(site: Web, crashes: list[Any]) -> None:
    person, objects, all_routes = await prepared(site)
    strange = dict.fromkeys(objects.ids, "%27%20OR%201=1%00%ff")
    for method, rule in all_routes:
        path = objects.url(rule)
        if method == "GET":
            for query in QUERIES:
                await send(site, person, method, f"{path}?{query}")
        if "<" in rule:
            await send(site, person, method, Objects(ids=strange).url(rule))
        await send(site, person, "PATCH", path)
        await send(site, person, "HEAD", path)
        await send(site, person, "OPTIONS", path)
    assert crashes == []


@pytest.mark.parametrize(
    "header", ["", " ", "Bearer", "Bearer ", "Bearer \xff\xfe", "Bearer ' OR 1=1 --", "Bearer " + "x" * 6000, "\t\t"]
)
async def test_authorization_headers(site: Web, crashes: list[Any], header: str) -> None:
    for path in ("/api/v1/datasets", "/v1/user/info", "/v1/models"):
        response = await site.send("GET", path, headers={"Authorization": header})
        text = (await response.get_data()).decode()
        assert_clean(response.status_code, text, header)
        assert '"data":[' not in text
    assert crashes == []


@pytest.mark.parametrize("cookie", ["parley-9380=", "parley-9380=x", "parley-9380=a.b.c", "parley-9380=" + "x" * 4000])
async def test_cookies(site: Web, crashes: list[Any], cookie: str) -> None:
    for path in ("/api/v1/datasets", "/v1/user/info", "/"):
        response = await site.send("GET", path, headers={"Cookie": cookie})
        assert_clean(response.status_code, (await response.get_data()).decode(), cookie)
    assert crashes == []
