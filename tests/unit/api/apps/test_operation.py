"""What operators and tools ask: readiness, metrics, the OpenAPI document; and layout of URLs."""

import asyncio
import re

import orjson
from quart import Response

from api.app import warm
from api.apps.context import WebState
from api.apps.telemetry import Telemetry
from tests.unit.api.apps.web import Web


async def text_of(response: Response) -> str:
    return (await response.get_data()).decode()


async def test_alive_before_ready(site: Web) -> None:
    assert (await site.send("GET", "/healthz")).status_code == 200
    response = await site.send("GET", "/readyz")
    assert response.status_code == 503
    assert (await response.get_json())["missing"] == ["index", "memory", "models", "modules", "tools"]
    await warm(site.services, site.state)
    response = await site.send("GET", "/readyz")
    assert response.status_code == 200
    assert await response.get_json() == {"status": "ready"}


async def test_metrics_name_routes_not_paths(site: Web) -> None:
    alice = await site.person("alice")
    await site.call("GET", "/api/v1/datasets/some-id/documents", alice)
    text = await text_of(await site.send("GET", "/metrics"))
    assert 'route="/api/v1/datasets/<dataset_id>/documents"' in text
    assert "some-id" not in text
    for name in ("parley_loop_lag_seconds", "parley_ingest_queued", "process_resident_memory_bytes", "parley_ready"):
        assert re.search(rf"^{name} ", text, re.MULTILINE), name


async def test_metrics_of_many_routes_do_not_hold_the_loop() -> None:
    telemetry = Telemetry(WebState())
    for number in range(1500):
        telemetry.answered(method="GET", route=f"/route/{number}", status=200, seconds=0.01)

    async def depth() -> tuple[int, int]:
        return 0, 0

    # The watch over the loop fails this test where it is held.
    assert b'route="/route/1499"' in await asyncio.create_task(telemetry.render(depth))


async def test_the_openapi_document_has_every_route(site: Web) -> None:
    document = orjson.loads(await text_of(await site.send("GET", "/openapi.json")))
    assert document["openapi"].startswith("3.1")
    for rule in site.app.url_map.iter_rules():
        path = re.sub(r"<(?:[^:>]*:)?([^>]+)>", r"{\1}", rule.rule)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            assert method.lower() in document["paths"][path], f"{method} {rule.rule}"
    create = document["paths"]["/api/v1/datasets"]["post"]
    assert create["security"] == [{"api_key": []}]
    assert "requestBody" in create
    assert create["tags"] == ["datasets"]


async def test_no_page_loads_from_another_origin(site: Web) -> None:
    for path in ("/docs", "/redocs", "/scalar"):
        assert (await site.send("GET", path)).status_code == 404
    assert "cdn" not in await text_of(await site.send("GET", "/openapi.json"))


async def test_slashes(site: Web) -> None:
    alice = await site.person("alice")
    assert (await site.call("GET", "/api/v1/datasets/", alice))["code"] == 0
    response = await site.send("GET", "/api/v1//datasets", alice)
    assert response.status_code == 308
    assert response.headers["Location"].endswith("/api/v1/datasets")
    reply = await site.call("GET", "/api/v1/datasets//documents", alice)
    assert reply["message"] == "<MethodNotAllowed '405: Method Not Allowed'>"


async def test_head_and_options(site: Web) -> None:
    alice = await site.person("alice")
    dataset, (document,) = await site.dataset(alice, "heads", "a.txt")
    response = await site.send("HEAD", f"/api/v1/datasets/{dataset}/documents/{document}", alice)
    assert response.status_code == 200
    response = await site.send("OPTIONS", f"/api/v1/datasets/{dataset}/documents/{document}")
    assert response.status_code == 200
    assert await response.get_data() == b""
