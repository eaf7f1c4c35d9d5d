"""`/v1/llm` and the tenant's defaults, row by row of the contract, against a real upstream."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp.web
import orjson
import pytest

from rag.testing.upstream import FaultyUpstream, Plan
from tests.unit.api.apps.web import Person, Web, web

KEY = "sk-tenant-0123456789abcdef"
FACTORY = "OpenAI-API-Compatible"


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyUpstream]:
    made = FaultyUpstream()
    async with made.serving():
        yield made


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Web]:
    """A server whose users may name model servers on this machine."""
    async with web(tmp_path, models={"private_addresses": True}) as running:
        yield running


@pytest.fixture
async def ann(site: Web) -> Person:
    return await site.person("ann")


async def post(site: Web, who: Person, path: str, **body: Any) -> Any:
    return await site.call("POST", f"/v1/llm/{path}", who, json=body)


async def add(site: Web, who: Person, upstream: FaultyUpstream, **more: Any) -> Any:
    body = {
        "llm_factory": FACTORY,
        "model_type": "chat",
        "llm_name": "small",
        "api_base": upstream.url,
        "api_key": KEY,
        "max_tokens": 8192,
    }
    return await post(site, who, "add_llm", **(body | more))


MISSING = [
    ("set_api_key", "llm_factory,api_key"),
    ("add_llm", "llm_factory,model_type,llm_name"),
    ("delete_llm", "llm_factory,llm_name"),
    ("enable_llm", "llm_factory,llm_name"),
    ("delete_factory", "llm_factory"),
]


@pytest.mark.parametrize(("path", "names"), MISSING)
async def test_missing_arguments_are_named(site: Web, ann: Person, path: str, names: str) -> None:
    reply = await post(site, ann, path)
    assert reply == {"code": 101, "message": f"required argument are missing: {names}; ", "data": None}


@pytest.mark.parametrize(("path", "names"), MISSING)
async def test_arguments_that_are_no_texts_are_refused(site: Web, ann: Person, path: str, names: str) -> None:
    for value in (7, True, ["a"], {"a": 1}):
        reply = await post(site, ann, path, **dict.fromkeys(names.split(","), value))
        assert reply["code"] == 101


@pytest.mark.parametrize("path", ["factories", "my_llms", "list"])
async def test_reading_takes_a_login(site: Web, ann: Person, path: str) -> None:
    for headers in ({}, {"Authorization": "nobody"}, ann.headers("key"), ann.headers("share")):
        reply = await site.call("GET", f"/v1/llm/{path}", headers=headers)
        assert (reply["code"], reply["data"]) == (401, None)


@pytest.mark.parametrize(("path", "names"), MISSING)
async def test_changing_takes_a_login(site: Web, ann: Person, path: str, names: str) -> None:
    body = dict.fromkeys(names.split(","), "OpenAI")
    for headers in ({}, ann.headers("key"), ann.headers("share")):
        reply = await site.call("POST", f"/v1/llm/{path}", headers=headers, json=body)
        assert (reply["code"], reply["data"]) == (401, None)


async def test_factories(site: Web, ann: Person) -> None:
    found = (await site.call("GET", "/v1/llm/factories", ann))["data"]
    assert {"OpenAI", "Anthropic", "ZHIPU-AI", "Ollama", FACTORY} <= {one["name"] for one in found}
    assert not {"Builtin", "Youdao", "FastEmbed", "BAAI"} & {one["name"] for one in found}
    assert [one["rank"] for one in found] == sorted((one["rank"] for one in found), reverse=True)
    for one in found:
        assert one.keys() == {
            "name",
            "logo",
            "tags",
            "rank",
            "status",
            "model_types",
            "create_time",
            "create_date",
            "update_time",
            "update_date",
        }
        assert one["model_types"]


async def test_set_api_key_tries_the_key_and_offers_the_catalogue(
    site: Web, ann: Person, upstream: FaultyUpstream
) -> None:
    body = {"llm_factory": "OpenAI", "api_key": KEY, "base_url": upstream.url}
    assert await post(site, ann, "set_api_key", **body) == {"code": 0, "message": "success", "data": True}
    assert [dict(seen.headers)["Authorization"] for seen in upstream.requests] == [f"Bearer {KEY}"]
    mine = (await site.call("GET", "/v1/llm/my_llms", ann))["data"]
    assert mine.keys() == {"OpenAI"}
    assert "LLM" in mine["OpenAI"]["tags"]
    assert {"type": "chat", "name": "gpt-4o-mini", "used_token": 0, "status": "1"} in mine["OpenAI"]["llm"]
    assert {"chat", "embedding"} <= {one["type"] for one in mine["OpenAI"]["llm"]}


async def test_set_api_key_with_a_key_that_the_provider_refuses(
    site: Web, ann: Person, upstream: FaultyUpstream
) -> None:
    upstream.will(Plan(fault="status", status=401, error={"message": f"Incorrect API key provided: {KEY}"}))
    reply = await post(site, ann, "set_api_key", llm_factory="OpenAI", api_key=KEY, base_url=upstream.url)
    assert (reply["code"], reply.keys()) == (102, {"code", "message"})
    assert reply["message"].startswith("\nFail to access model(OpenAI/")
    assert ") using this api key." in reply["message"]
    assert KEY not in reply["message"]
    assert (await site.call("GET", "/v1/llm/my_llms", ann))["data"] == {}


async def test_set_api_key_of_a_provider_nobody_knows(site: Web, ann: Person) -> None:
    reply = await post(site, ann, "set_api_key", llm_factory="Nobody", api_key=KEY)
    assert reply == {
        "code": 100,
        "message": "AssertionError('chat model from Nobody is not supported yet.')",
        "data": None,
    }


async def test_add_llm_and_its_lists(site: Web, ann: Person, upstream: FaultyUpstream) -> None:
    assert await add(site, ann, upstream) == {"code": 0, "message": "success", "data": True}
    mine = (await site.call("GET", "/v1/llm/my_llms?include_details=true", ann))["data"]
    assert mine[FACTORY]["llm"] == [
        {
            "type": "chat",
            "name": "small___OpenAI-API",
            "used_token": 0,
            "status": "1",
            "api_base": upstream.url,
            "max_tokens": 8192,
        }
    ]
    plain = (await site.call("GET", "/v1/llm/my_llms", ann))["data"]
    assert plain[FACTORY]["llm"][0].keys() == {"type", "name", "used_token", "status"}
    (listed,) = (await site.call("GET", "/v1/llm/list", ann))["data"][FACTORY]
    assert listed == {
        "llm_name": "small___OpenAI-API",
        "model_type": "chat",
        "fid": FACTORY,
        "available": True,
        "status": "1",
    }


async def test_add_llm_of_a_provider_nobody_knows(site: Web, ann: Person, upstream: FaultyUpstream) -> None:
    reply = await add(site, ann, upstream, llm_factory="Nobody")
    assert reply == {"code": 102, "message": "LLM factory Nobody is not allowed"}


@pytest.mark.parametrize(
    "more",
    [
        {"model_type": "other"},
        {"llm_name": ""},
        {"api_base": "file:///etc/passwd"},
        {"api_base": "http://169.254.169.254/latest/meta-data"},
        {"api_base": "http://[::ffff:a9fe:a9fe]/v1"},
        {"api_base": "http://nobody.invalid/v1"},
        {"api_key": "a\nb"},
        {"max_tokens": -1},
    ],
)
async def test_add_llm_with_what_cannot_be_used(
    site: Web, ann: Person, upstream: FaultyUpstream, more: dict[str, Any]
) -> None:
    reply = await add(site, ann, upstream, **more)
    assert reply["code"] == 102
    assert upstream.requests == []
    assert (await site.call("GET", "/v1/llm/my_llms", ann))["data"] == {}


async def test_add_llm_at_an_address_that_is_no_provider(site: Web, ann: Person, upstream: FaultyUpstream) -> None:
    reply = await add(site, ann, upstream, api_base=upstream.url + "/nothing/here")
    assert reply["code"] == 102
    assert "Fail to access model" in reply["message"]


async def test_enable_llm(site: Web, ann: Person, upstream: FaultyUpstream) -> None:
    await add(site, ann, upstream)
    name = {"llm_factory": FACTORY, "llm_name": "small___OpenAI-API"}
    assert (await post(site, ann, "enable_llm", **name, status="0"))["data"] is True
    (listed,) = (await site.call("GET", "/v1/llm/list", ann))["data"][FACTORY]
    assert listed["status"] == "0"
    refused = await site.call(
        "POST", "/api/v1/chats", ann, json={"name": "a", "llm": {"model_name": f"small@{FACTORY}"}}
    )
    assert refused["code"] != 0
    assert (await post(site, ann, "enable_llm", **name))["data"] is True
    (listed,) = (await site.call("GET", "/v1/llm/list", ann))["data"][FACTORY]
    assert listed["status"] == "1"
    assert (await post(site, ann, "enable_llm", **name, status="2"))["code"] == 101
    assert (await post(site, ann, "enable_llm", llm_factory=FACTORY, llm_name="nobody"))["code"] == 102


async def test_delete_llm_and_delete_factory(site: Web, ann: Person, upstream: FaultyUpstream) -> None:
    await add(site, ann, upstream)
    await add(site, ann, upstream, llm_name="large")
    name = {"llm_factory": FACTORY, "llm_name": "small___OpenAI-API"}
    assert (await post(site, ann, "delete_llm", **name))["data"] is True
    assert (await post(site, ann, "delete_llm", **name))["data"] is True
    (left,) = (await site.call("GET", "/v1/llm/my_llms", ann))["data"][FACTORY]["llm"]
    assert left["name"] == "large___OpenAI-API"
    assert (await post(site, ann, "delete_factory", llm_factory=FACTORY))["data"] is True
    assert (await site.call("GET", "/v1/llm/my_llms", ann))["data"] == {}
    assert (await post(site, ann, "delete_factory", llm_factory="Nobody"))["data"] is True
    assert (await post(site, ann, "delete_llm", llm_factory="Nobody", llm_name="a"))["data"] is True


async def test_list_is_filtered_by_part_of_the_type(site: Web, ann: Person) -> None:
    everything = (await site.call("GET", "/v1/llm/list", ann))["data"]
    assert {"minilm"} <= {one["llm_name"] for one in everything["Builtin"]}
    (first, *_) = [one for one in everything["OpenAI"] if one["llm_name"] == "gpt-4o-mini"]
    assert (first["fid"], first["available"], first["is_tools"]) == ("OpenAI", False, True)
    assert first["max_tokens"] == 128000
    found = (await site.call("GET", "/v1/llm/list?model_type=embed", ann))["data"]
    assert {one["model_type"] for models in found.values() for one in models} == {"embedding"}
    assert (await site.call("GET", "/v1/llm/list?model_type=nothing", ann))["data"] == {}


async def test_what_a_tenant_set_is_nobody_elses(site: Web, ann: Person, upstream: FaultyUpstream) -> None:
    bob = await site.person("bob")
    await add(site, ann, upstream)
    assert (await site.call("GET", "/v1/llm/my_llms", bob))["data"] == {}
    assert FACTORY not in (await site.call("GET", "/v1/llm/list", bob))["data"]
    for path, body in (
        ("delete_llm", {"llm_name": "small"}),
        ("delete_factory", {}),
        ("enable_llm", {"llm_name": "small", "status": "0"}),
    ):
        await post(site, bob, path, llm_factory=FACTORY, **body)
    (mine,) = (await site.call("GET", "/v1/llm/my_llms", ann))["data"][FACTORY]["llm"]
    assert mine["status"] == "1"
    model = f"small@{FACTORY}"
    made = {
        who.email: await site.call("POST", "/api/v1/chats", who, json={"name": "a", "llm": {"model_name": model}})
        for who in (ann, bob)
    }
    assert made[ann.email]["code"] == 0
    assert made[bob.email]["code"] != 0


async def test_no_reply_and_no_file_holds_a_key(
    site: Web, ann: Person, upstream: FaultyUpstream, tmp_path: Path
) -> None:
    replies = [
        await add(site, ann, upstream),
        await post(site, ann, "set_api_key", llm_factory="OpenAI", api_key=KEY, base_url=upstream.url),
    ]
    for path in ("factories", "my_llms?include_details=true", "list"):
        replies.append(await site.call("GET", f"/v1/llm/{path}", ann))
    for path in ("/v1/user/info", "/v1/user/tenant_info", "/v1/system/token_list"):
        replies.append(await site.call("GET", path, ann))
    text = orjson.dumps(replies).decode()
    assert KEY not in text
    assert KEY[3:] not in text
    rows = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "rows.sqlite" for path in rows)
    assert all(KEY.encode() not in path.read_bytes() for path in rows)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}/v1", "http://localhost:{port}/v1", "http://2130706433:{port}/v1"]
)
async def test_registered_users_reach_no_private_address(tmp_path: Path, upstream: FaultyUpstream, url: str) -> None:
    async with web(tmp_path) as strict:
        bob = await strict.person("bob")
        port = upstream.root.rpartition(":")[2]
        reply = await add(strict, bob, upstream, api_base=url.replace("{port}", port))
        assert reply["code"] == 102
        assert "not allowed" in reply["message"]
        reply = await post(strict, bob, "set_api_key", llm_factory="OpenAI", api_key=KEY, base_url=upstream.url)
        assert reply["code"] == 102
        assert upstream.requests == []


async def test_the_first_user_reaches_a_server_on_this_machine(tmp_path: Path, upstream: FaultyUpstream) -> None:
    async with web(tmp_path) as strict:
        owner = await strict.services.users.ensure_local_user()
        cookie = await strict.services.users.cookie_for(owner)
        headers = {"Cookie": f"parley-9380={cookie}", "Origin": "http://localhost"}
        body = {"llm_factory": "Ollama", "model_type": "chat", "llm_name": "small", "api_base": upstream.root}
        reply = await strict.call("POST", "/v1/llm/add_llm", headers=headers, json=body)
        assert reply["data"] is True
        assert len(upstream.requests) == 1


@pytest.mark.parametrize("path", ["add_llm", "set_api_key"])
async def test_the_servers_key_is_not_sent_to_a_tenants_address(
    tmp_path: Path, upstream: FaultyUpstream, path: str
) -> None:
    own = {"openai_api_key": "sk-operator-0123456789", "openai_base_url": "http://127.0.0.1:9/v1"}
    async with web(tmp_path, models={"private_addresses": True}, providers=own) as site:
        ann = await site.person("ann")
        body = {"llm_factory": "OpenAI", "llm_name": "small", "model_type": "chat", "api_key": ""}
        await post(site, ann, path, **body, api_base=upstream.url, base_url=upstream.url)
        made = await site.call(
            "POST", "/api/v1/chats", ann, json={"name": "a", "llm": {"model_name": "gpt-4o-mini@OpenAI"}}
        )
        if made["code"] == 0:
            question = {"question": "Hello?", "stream": False}
            await site.call("POST", f"/api/v1/chats/{made['data']['id']}/completions", ann, json=question)
        assert upstream.requests
        assert "sk-operator" not in repr(upstream.requests)


async def test_redirects_are_not_followed(site: Web, ann: Person, upstream: FaultyUpstream) -> None:
    asked: list[str] = []

    async def away(request: aiohttp.web.Request) -> aiohttp.web.Response:
        asked.append(request.path)
        raise aiohttp.web.HTTPTemporaryRedirect(f"{upstream.url}/chat/completions")

    app = aiohttp.web.Application()
    app.router.add_route("*", "/{path:.*}", away)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    try:
        await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        reply = await add(site, ann, upstream, api_base=f"http://127.0.0.1:{port}/v1")
    finally:
        await runner.cleanup()
    assert reply["code"] == 102
    assert asked == ["/v1/chat/completions"]
    assert upstream.requests == []


async def test_the_setup_of_the_contracts_own_tests(site: Web, ann: Person, upstream: FaultyUpstream) -> None:
    assert (await site.call("GET", "/v1/llm/my_llms", ann))["data"] == {}
    body = {"llm_factory": "ZHIPU-AI", "api_key": KEY, "base_url": upstream.url}
    assert (await post(site, ann, "set_api_key", **body))["data"] is True
    info = (await site.call("GET", "/v1/user/tenant_info", ann))["data"]
    changes = {
        "tenant_id": info["tenant_id"],
        "llm_id": "glm-4-flash@ZHIPU-AI",
        "embd_id": "BAAI/bge-small-en-v1.5@Builtin",
        "img2txt_id": "",
        "asr_id": "",
        "tts_id": None,
    }
    assert (await site.call("POST", "/v1/user/set_tenant_info", ann, json=changes))["data"] is True
    info = (await site.call("GET", "/v1/user/tenant_info", ann))["data"]
    assert info["llm_id"] == "glm-4-flash@ZHIPU-AI"
    assert info["embd_id"] == "minilm@Builtin"
    assert info["tts_id"] == ""
    chat = (await site.call("POST", "/api/v1/chats", ann, json={"name": "by default"}))["data"]
    assert chat["llm"]["model_name"] == "glm-4-flash@ZHIPU-AI"


@pytest.mark.parametrize("key", ["llm_id", "embd_id", "rerank_id", "asr_id", "img2txt_id", "tts_id"])
async def test_defaults_must_be_models_of_the_tenant(site: Web, ann: Person, key: str) -> None:
    body = dict.fromkeys(("llm_id", "embd_id", "asr_id", "img2txt_id"), "") | {"tenant_id": ann.principal.tenant_id}
    reply = await site.call("POST", "/v1/user/set_tenant_info", ann, json=body | {key: "gpt-4o@OpenAI"})
    assert reply == {
        "code": 100,
        "message": "LookupError('Model(gpt-4o@OpenAI) not authorized')",
        "data": None,
    }


async def test_defaults_of_another_tenant_are_not_set(site: Web, ann: Person) -> None:
    bob = await site.person("bob")
    body = dict.fromkeys(("llm_id", "embd_id", "asr_id", "img2txt_id"), "") | {"tenant_id": ann.principal.tenant_id}
    reply = await site.call("POST", "/v1/user/set_tenant_info", bob, json=body | {"name": "taken over"})
    assert reply == {"code": 102, "message": "Tenant not found!"}
    assert (await site.call("GET", "/v1/user/tenant_info", ann))["data"]["name"] != "taken over"


async def test_lists_of_the_openai_face_show_the_tenants_models(
    site: Web, ann: Person, upstream: FaultyUpstream
) -> None:
    bob = await site.person("bob")
    await add(site, ann, upstream, llm_name="vectors", model_type="embedding")
    name = f"vectors@{FACTORY}"
    hers = {one["id"] for one in (await site.call("GET", "/v1/models", ann))["data"]}
    his = {one["id"] for one in (await site.call("GET", "/v1/models", bob))["data"]}
    assert name in hers
    assert name not in his
    assert (await site.send("GET", f"/v1/models/{name}", ann)).status_code == 200
    assert (await site.send("GET", f"/v1/models/{name}", bob)).status_code == 404
    made = await site.call("POST", "/v1/embeddings", ann, json={"model": name, "input": "words"})
    assert made["data"][0]["embedding"]
    foreign = await site.send("POST", "/v1/embeddings", bob, json={"model": name, "input": "words"})
    assert foreign.status_code == 404
