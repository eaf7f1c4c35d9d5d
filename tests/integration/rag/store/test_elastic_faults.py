"""What ElasticStore does when the server is away, full, busy, another one, or refuses."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from rag.core.clock import SystemClock
from rag.core.errors import InvalidInput, RagError, StoreError, StoreUnavailable
from rag.core.settings import IndexSettings
from rag.store.base import Place, Selector
from rag.store.elastic import ElasticStore
from rag.testing.store_suite import PLACE, ask, entry, ids, unit
from tests.integration.rag.store.fault_proxy import PRODUCT, FaultProxy, answering, chunk_ids, proxy, says, silent
from tests.servers.elastic import PASSWORD, USER, Elasticsearch, fresh_prefix


@asynccontextmanager
async def opened(url: str, *, watched: bool = False, **settings: Any) -> AsyncIterator[ElasticStore]:
    chosen = IndexSettings.model_validate({"url": url, "prefix": fresh_prefix()} | settings)
    store = ElasticStore(chosen, clock=SystemClock(), watched=watched)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def between(elasticsearch_url: str) -> AsyncIterator[FaultProxy]:
    async with proxy(elasticsearch_url) as state:
        yield state


async def send(url: str, method: str, path: str, body: Any = None) -> Any:
    async with aiohttp.ClientSession() as session, session.request(method, url + path, json=body) as reply:
        return await reply.json()


async def every_call(store: ElasticStore) -> AsyncIterator[tuple[float, RagError | None]]:
    """Seconds and error of one call of each kind."""
    calls: list[Callable[[], Any]] = [
        lambda: store.search(PLACE, ask("word", vector=unit(1.0))),
        lambda: store.upsert(PLACE, [entry("late")]),
        lambda: store.delete(PLACE, Selector(version_ids=("v1",))),
        lambda: store.sample(PLACE, ("set1",)),
        lambda: store.optimise(PLACE),
        lambda: store.drop(PLACE),
        store.check,
    ]
    for call in calls:
        began = time.monotonic()
        try:
            await call()
        except RagError as error:
            yield time.monotonic() - began, error
        else:
            yield time.monotonic() - began, None


class TestAway:
    async def test_an_address_where_nobody_listens(self, unused_tcp_port: int) -> None:
        async with opened(f"http://127.0.0.1:{unused_tcp_port}") as store:
            async for seconds, error in every_call(store):
                assert isinstance(error, StoreUnavailable)
                assert "cannot be reached" in error.message
                assert seconds < 1

    async def test_a_name_nobody_has(self) -> None:
        async with opened("http://nobody.invalid:9200") as store:
            with pytest.raises(StoreUnavailable, match="index.url"):
                await store.check()

    async def test_a_server_that_says_nothing(self) -> None:
        async with silent() as url, opened(url, timeout_s=0.4) as store:
            async for seconds, error in every_call(store):
                assert isinstance(error, StoreUnavailable)
                assert "did not answer within 0.4 s" in error.message
                assert seconds < 1

    async def test_five_seconds_are_enough_by_default(self) -> None:
        async with silent() as url, opened(url) as store:
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await store.search(PLACE, ask("word"))
            assert time.monotonic() - began < 5

    async def test_a_server_that_stops_answering(self, private_server: Callable[[Any], Elasticsearch]) -> None:
        server = private_server(Elasticsearch)
        async with opened(server.url) as store:
            await store.upsert(PLACE, [entry("a")])
            server.pause()
            try:
                async for seconds, error in every_call(store):
                    assert isinstance(error, StoreUnavailable), error
                    assert seconds < 5
            finally:
                server.resume()
            await store.upsert(PLACE, [entry("b")])
            assert {"a", "b"} <= set(ids(await store.search(PLACE, ask("word"))))
            server.kill()
            with pytest.raises(StoreUnavailable):
                await store.search(PLACE, ask("word"))
            server.start()
            assert {"a", "b"} <= set(ids(await store.search(PLACE, ask("word")))), "acknowledged writes survive a kill"

    async def test_who_watches_lets_one_call_speak_for_all(
        self, private_server: Callable[[Any], Elasticsearch]
    ) -> None:
        server = private_server(Elasticsearch)
        turns = asyncio.Semaphore(3)
        async with opened(server.url, watched=True) as store:
            await store.upsert(PLACE, [entry("a")])

            async def search() -> None:
                async with turns:
                    with pytest.raises(StoreUnavailable, match="did not answer"):
                        await store.search(PLACE, ask("word", vector=unit(1.0)))

            server.pause()
            try:
                began = time.monotonic()
                await asyncio.gather(*(search() for _ in range(16)))
                assert time.monotonic() - began < 5
                began = time.monotonic()
                await search()
                assert time.monotonic() - began < 0.1, "known already"
                with pytest.raises(StoreUnavailable, match="did not answer"):
                    await store.check()
            finally:
                server.resume()
            await store.check()
            assert ids(await store.search(PLACE, ask("word"))) == ["a"]

    async def test_a_call_that_is_too_dear_speaks_for_itself_alone(self, between: FaultProxy) -> None:
        async def dear(request: web.Request, body: bytes) -> web.Response | None:
            if b"dear" in body:
                await asyncio.sleep(2)
            return None

        between.fault = dear
        async with opened(between.url, watched=True, timeout_s=0.6) as store:
            await store.upsert(PLACE, [entry("a")])
            with pytest.raises(StoreUnavailable, match="did not answer"):
                await store.search(PLACE, ask("dear"))
            assert ids(await store.search(PLACE, ask("word"))) == ["a"]

    async def test_a_gateway_without_a_server_behind_it(self) -> None:
        def bad(request: web.Request) -> web.Response:
            return web.Response(status=502, text="<html>Bad Gateway</html>", content_type="text/html")

        async with answering(bad) as url, opened(url) as store:
            with pytest.raises(StoreUnavailable):
                await store.check()


class TestAnotherServer:
    @pytest.mark.parametrize("status", [200, 404, 405, 400])
    @pytest.mark.parametrize("kind", ["application/json", "text/html"])
    async def test_something_else_answers(self, status: int, kind: str) -> None:
        def other(request: web.Request) -> web.Response:
            return web.Response(status=status, text="{}" if kind.endswith("json") else "<html>", content_type=kind)

        async with answering(other) as url, opened(url) as store:
            with pytest.raises(StoreError, match="is not Elasticsearch: check index.url") as caught:
                await store.search(PLACE, ask("word"))
            assert not caught.value.retryable

    @pytest.mark.parametrize(
        ("version", "advice"),
        [("9.1.0", "upgrade Parley"), ("7.17.9", "upgrade the server"), ("8.9.2", "upgrade the server")],
    )
    async def test_another_version(self, version: str, advice: str) -> None:
        def told(request: web.Request) -> web.Response:
            return web.json_response({"nodes": {"x": {"version": version}}}, headers=PRODUCT)

        async with answering(told) as url, opened(url) as store:
            async for _, error in every_call(store):
                assert isinstance(error, StoreError)
                assert not error.retryable
                assert version in error.message
                assert advice in error.message

    async def test_an_older_server_that_does_not_know_the_media_type(self) -> None:
        async with (
            answering(lambda _: says(400, "media_type_header_exception")) as url,
            opened(url) as store,
        ):
            with pytest.raises(StoreError, match="does not speak Elasticsearch 8"):
                await store.check()

    async def test_it_is_another_after_it_was_away(self, between: FaultProxy) -> None:
        async with opened(between.url) as store:
            await store.upsert(PLACE, [entry("a")])

            async def away(request: web.Request, body: bytes) -> web.Response | None:
                return says(502, "away")

            async def newer(request: web.Request, body: bytes) -> web.Response | None:
                if request.path == "/_nodes/_local":
                    return web.json_response({"nodes": {"x": {"version": "9.0.0"}}}, headers=PRODUCT)
                return None

            between.fault = away
            with pytest.raises(StoreUnavailable):
                await store.search(PLACE, ask("word"))
            between.fault = newer
            with pytest.raises(StoreError, match="upgrade Parley"):
                await store.search(PLACE, ask("word"))


class TestAnotherMapping:
    async def test_an_index_of_somebody_else(self, elasticsearch_url: str) -> None:
        prefix = fresh_prefix()
        await send(elasticsearch_url, "PUT", f"/{prefix}.{PLACE.name}", {"mappings": {"dynamic": "strict"}})
        async with opened(elasticsearch_url, prefix=prefix) as store:
            alone = Place(name=PLACE.name, dim=0)
            for call in (
                store.search(PLACE, ask("word")),
                store.upsert(PLACE, [entry("a")]),
                store.drop(alone),
                store.check(),
            ):
                with pytest.raises(StoreError, match="was not made by Parley.*index.prefix") as caught:
                    await call
                assert not caught.value.retryable

    @pytest.mark.parametrize(("schema", "advice"), [(99, "upgrade Parley"), (0, "run `parley index")])
    async def test_another_schema(self, elasticsearch_url: str, schema: int, advice: str) -> None:
        prefix = fresh_prefix()
        body = {"mappings": {"_meta": {"parley": {"schema": schema}}}}
        await send(
            elasticsearch_url, "PUT", f"/{prefix}.{PLACE.name}.1", body | {"aliases": {f"{prefix}.t_suite_g1": {}}}
        )
        async with opened(elasticsearch_url, prefix=prefix) as store:
            calls: list[Any] = [store.search(PLACE, ask("word")), store.upsert(PLACE, [entry("a")])]
            if schema == 0:
                assert "elasticsearch" in await store.check(), "others can be served, and this one rebuilt"
            else:
                calls.append(store.check())
            for call in calls:
                with pytest.raises(StoreError, match=f"version {schema}, .*{advice}") as caught:
                    await call
                assert caught.value.retryable == (schema == 0)
            await store.drop(PLACE)
            assert await send(elasticsearch_url, "GET", f"/{prefix}.*/_mapping") == {}

    async def test_vectors_of_another_length(self, elasticsearch_url: str) -> None:
        async with opened(elasticsearch_url) as store:
            await store.upsert(PLACE, [entry("a")])
            with pytest.raises(StoreError, match=r"vectors of 8 numbers, 4 are wanted"):
                await store.search(Place(name=PLACE.name, dim=4), ask(vector=np.array([1, 0, 0, 0], dtype=np.float32)))
            await store.drop(Place(name=PLACE.name, dim=4))
            assert ids(await store.search(PLACE, ask("word"))) == []

    async def test_what_is_not_in_the_mapping_is_refused(self, elasticsearch_url: str) -> None:
        async with opened(elasticsearch_url, prefix=(prefix := fresh_prefix())) as store:
            await store.upsert(PLACE, [entry("a")])
            told = await send(elasticsearch_url, "POST", f"/{prefix}.{PLACE.name}/_doc", {"surprise": 1})
            assert told["error"]["type"] == "strict_dynamic_mapping_exception"


class TestLogin:
    async def test_a_secured_server(self, private_server: Callable[[Any], Elasticsearch]) -> None:
        server = private_server(lambda: Elasticsearch(secured=True))
        trusted: dict[str, Any] = {"tls_ca": str(server.authority)}
        async with opened(server.url, **trusted) as store:
            await store.upsert(PLACE, [entry("a")])
            assert ids(await store.search(PLACE, ask("word", vector=unit(1.0)))) == ["a"]
            assert PASSWORD not in await store.check()
        login: dict[str, Any]
        for login in ({"user": USER, "password": "not that one"}, {"api_key": "bm90Om9uZQ=="}, {}):
            async with opened(server.address, **trusted, **login) as store:
                with pytest.raises(StoreError, match=r"refuses the login: check index\.user") as caught:
                    await store.check()
                assert not caught.value.retryable
                assert "not that one" not in str(caught.value)
        async with opened(server.url) as store:
            with pytest.raises(StoreError, match=r"not trusted: name its authority in index\.tls_ca"):
                await store.check()

    async def test_an_api_key_is_sent_and_never_told(self, between: FaultProxy) -> None:
        async def forbid(request: web.Request, body: bytes) -> web.Response | None:
            return says(403, "security_exception", "action is unauthorized")

        async with opened(between.url, api_key="c2VjcmV0OmtleQ==") as store:
            await store.check()
            assert between.calls[-1].headers["Authorization"] == "ApiKey c2VjcmV0OmtleQ=="
            between.fault = forbid
            with pytest.raises(StoreError, match="privilege `monitor`") as caught:
                await store.check()
            assert "c2VjcmV0" not in str(caught.value)

    async def test_a_file_of_an_authority_that_is_not_there(self) -> None:
        settings = IndexSettings.model_validate({"url": "https://127.0.0.1:1", "tls_ca": "/nowhere.crt"})
        with pytest.raises(InvalidInput, match=r"index\.tls_ca"):
            await ElasticStore(settings, clock=SystemClock()).open()


class TestFull:
    async def test_a_block_of_the_flood_stage(self, elasticsearch_url: str) -> None:
        async with opened(elasticsearch_url, prefix=(prefix := fresh_prefix())) as store:
            await store.upsert(PLACE, [entry("a"), entry("b", version_id="v2")])
            where = f"/{prefix}.{PLACE.name}/_settings"
            await send(elasticsearch_url, "PUT", where, {"index.blocks.read_only_allow_delete": True})
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match="disk of Elasticsearch .* too full.*free space"):
                await store.upsert(PLACE, [entry("c")])
            assert time.monotonic() - began < 2
            assert ids(await store.search(PLACE, ask("word"))) == ["a", "b"]
            await send(elasticsearch_url, "PUT", where, {"index.blocks.read_only_allow_delete": None})
            await store.upsert(PLACE, [entry("c")])
            assert len(ids(await store.search(PLACE, ask("word")))) == 3


class TestBusy:
    async def test_a_bulk_call_that_is_sent_away_is_repeated(self, between: FaultProxy) -> None:
        left = 2

        async def reject(request: web.Request, body: bytes) -> web.Response | None:
            nonlocal left
            if not request.path.endswith("_bulk") or left == 0:
                return None
            left -= 1
            return says(429, "es_rejected_execution_exception")

        between.fault = reject
        async with opened(between.url) as store:
            await store.upsert(PLACE, [entry("a"), entry("b")])
            assert len(between.bodies("_bulk")) == 3
            assert len(ids(await store.search(PLACE, ask("word")))) == 2

    async def test_only_the_items_without_room_are_repeated(self, between: FaultProxy) -> None:
        """The proxy passes on all but some items, and answers for those as a full queue would."""
        rejected = {"c3", "c7"}

        async def without(request: web.Request, body: bytes) -> bytes | None:
            if not request.path.endswith("_bulk"):
                return None
            lines = body.splitlines(keepends=True)
            pairs = [lines[i : i + 2] for i in range(0, len(lines), 2)]
            return b"".join(b"".join(pair) for pair in pairs if json.loads(pair[1])["chunk_id"] not in rejected)

        def add(request: web.Request, body: bytes, told: bytes) -> bytes:
            if not request.path.endswith("_bulk"):
                return told
            error = {"type": "es_rejected_execution_exception", "reason": "queue is full"}
            items = [
                {"index": {"status": 429, "error": error} if chunk in rejected else {"status": 201}}
                for chunk in chunk_ids(body)
            ]
            errors = any(chunk in rejected for chunk in chunk_ids(body))
            rejected.discard("c3")
            if chunk_ids(body) == ["c7"]:
                rejected.discard("c7")
            return json.dumps({"errors": errors, "items": items}).encode()

        between.fault, between.after = without, add
        async with opened(between.url) as store:
            await store.upsert(PLACE, [entry(f"c{i}") for i in range(10)])
            found = ids(await store.search(PLACE, ask("word")))
        assert [chunk_ids(body) for body in between.bodies("_bulk")][1] == ["c3", "c7"]
        assert chunk_ids(between.bodies("_bulk")[2]) == ["c7"]
        assert len(between.bodies("_bulk")) <= 4
        assert sorted(found) == [f"c{i}" for i in range(10)]

    async def test_patience_ends(self, between: FaultProxy) -> None:
        async def reject(request: web.Request, body: bytes) -> web.Response | None:
            return says(429, "es_rejected_execution_exception") if request.path.endswith("_bulk") else None

        between.fault = reject
        async with opened(between.url, timeout_s=0.8) as store:
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match="could not take 1 entries in time"):
                await store.upsert(PLACE, [entry("a")])
            assert time.monotonic() - began < 10, "many times what it was given: the machine may be busy"

    async def test_one_refused_item_does_not_take_others_with_it(self, between: FaultProxy) -> None:
        immense = entry("bad", document_id="x" * 40_000)
        async with opened(between.url) as store:
            with pytest.raises(StoreError, match=r"1 of 4 entries could not be written.*immense") as caught:
                await store.upsert(PLACE, [entry("a"), entry("b"), immense, entry("d")])
            assert not caught.value.retryable
            assert len(between.bodies("_bulk")) == 1, "what is refused for good is not sent again"
            await store.upsert(PLACE, [])
            assert sorted(ids(await store.search(PLACE, ask("word")))) == ["a", "b", "d"]

    async def test_a_search_without_room_is_repeated(self, between: FaultProxy) -> None:
        async with opened(between.url) as store:
            await store.upsert(PLACE, [entry("a")])
            left = 1

            async def reject(request: web.Request, body: bytes) -> web.Response | None:
                nonlocal left
                if not request.path.endswith("_msearch") or left == 0:
                    return None
                left -= 1
                return says(429, "es_rejected_execution_exception")

            between.fault = reject
            assert ids(await store.search(PLACE, ask("word"))) == ["a"]

    async def test_a_long_call_is_waited_for_while_the_server_lives(self, between: FaultProxy) -> None:
        async def slow(request: web.Request, body: bytes) -> web.Response | None:
            if request.path.endswith("_bulk"):
                await asyncio.sleep(1.5)
            return None

        between.fault = slow
        async with opened(between.url, timeout_s=0.6) as store:
            await store.upsert(PLACE, [entry("a")])
            assert ids(await store.search(PLACE, ask("word"))) == ["a"]


class TestManyValues:
    async def test_numbers_that_are_none(self, elasticsearch_url: str) -> None:
        async with opened(elasticsearch_url) as store:
            with pytest.raises(InvalidInput, match="not finite"):
                await store.upsert(PLACE, [entry("a", vector=np.full(8, np.nan, dtype=np.float32))])

    async def test_more_filter_values_than_a_clause_takes(self, elasticsearch_url: str) -> None:
        many = tuple(f"doc{i}" for i in range(70_000))
        async with opened(elasticsearch_url) as store:
            await store.upsert(PLACE, [entry("a", document_id="doc69999"), entry("b", document_id="else")])
            found = await store.search(PLACE, ask("word", vector=unit(1.0), documents=many, without=many))
            assert ids(found) == ["a"]
            await store.delete(PLACE, Selector(document_ids=many))
            assert ids(await store.search(PLACE, ask("word"))) == ["b"]

    async def test_more_entries_than_a_page_are_deleted(self, elasticsearch_url: str) -> None:
        async with opened(elasticsearch_url) as store:
            await store.upsert(PLACE, [entry(f"c{i}", version_id="old") for i in range(4_500)], visible=False)
            await store.upsert(PLACE, [entry("kept")])
            await store.delete(PLACE, Selector(version_ids=("old",)))
            assert ids(await store.search(PLACE, ask("word", limit=1_024))) == ["kept"]
            assert (await store.optimise(PLACE)).entries == 1

    @pytest.mark.parametrize("odd", ["a\x00b", "\U0001f600", "_id", "a.b.c", "*", "\ud800", ""])
    async def test_odd_names(self, elasticsearch_url: str, odd: str) -> None:
        async with opened(elasticsearch_url) as store:
            await store.upsert(PLACE, [entry("a"), entry("b", document_id="_id")])
            if odd != "\ud800":
                await store.upsert(PLACE, [entry("mine", document_id=odd, version_id=odd, dataset_id=odd)])
                found = await store.search(PLACE, ask("word", datasets=(odd,), documents=(odd,)))
                assert ids(found) == ["mine"]
            else:
                with pytest.raises(InvalidInput):
                    await store.upsert(PLACE, [entry("mine", document_id=odd)])
                assert ids(await store.search(PLACE, ask("word", documents=(odd,)))) == []
            assert ids(await store.search(PLACE, ask(odd, vector=unit(1.0)))) != []

    async def test_a_question_of_twenty_thousand_words(self, elasticsearch_url: str) -> None:
        async with opened(elasticsearch_url) as store:
            await store.upsert(PLACE, [entry("a", "w3 w255")])
            found = await store.search(PLACE, ask(*(f"w{i}" for i in range(20_000)), vector=unit(1.0)))
            assert ids(found, found.lexical) == ["a"]
            assert found.held[0, [3, 255]].all()


class TestDropped:
    async def test_by_another_process_meanwhile(self, elasticsearch_url: str) -> None:
        prefix = fresh_prefix()
        async with (
            opened(elasticsearch_url, prefix=prefix) as store,
            opened(elasticsearch_url, prefix=prefix) as other,
        ):
            await store.upsert(PLACE, [entry("a")])
            assert ids(await other.search(PLACE, ask("word"))) == ["a"]
            await store.drop(PLACE)
            assert ids(await other.search(PLACE, ask("word"))) == []
            await store.upsert(PLACE, [entry("b")])
            await other.search(PLACE, ask("word"))
            await store.drop(PLACE)
            await other.upsert(PLACE, [entry("c")])
            assert ids(await other.search(PLACE, ask("word"))) == ["c"]
            told = await send(elasticsearch_url, "GET", f"/{prefix}.*/_mapping")
            assert [index["mappings"]["dynamic"] for index in told.values()] == ["strict"]

    async def test_a_pooled_place_leaves_the_others(self, elasticsearch_url: str) -> None:
        other = Place(name="t_other_g1", dim=8)
        async with opened(elasticsearch_url, pooled=True, prefix=(prefix := fresh_prefix())) as store:
            await store.upsert(PLACE, [entry("a")])
            await store.upsert(other, [entry("a", "other word")])
            assert list(await send(elasticsearch_url, "GET", f"/{prefix}.*/_mapping")) == [f"{prefix}.pool-8.1"]
            await store.drop(PLACE)
            assert ids(await store.search(PLACE, ask("word", vector=unit(1.0)))) == []
            assert ids(await store.search(other, ask("word", vector=unit(1.0)))) == ["a"]
            await store.upsert(PLACE, [entry("b")])
            assert ids(await store.search(PLACE, ask("word", vector=unit(1.0)))) == ["b"]
