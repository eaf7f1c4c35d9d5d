"""Providers behind LiteLLM: a call goes to the address that was set, with the tenant's key and no other."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from aiohttp import web
from pydantic import SecretStr

from rag.core.errors import InvalidInput, ModelError
from rag.core.settings import load_settings
from rag.llm.base import ProviderLogin
from rag.llm.models_file import Kind
from rag.llm.registry import Registry

# The library's objects do not fit their own pydantic schema, and it leaves a client to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

SERVERS = "of-the-server-itself"
TENANTS = "of-the-tenant-alone"
AWS_ENVIRONMENT = (
    "AWS_BEARER_TOKEN_BEDROCK",
    "AWS_EXTERNAL_ID",
    "AWS_PROFILE",
    "AWS_PROFILE_NAME",
    "AWS_ROLE_ARN",
    "AWS_ROLE_NAME",
    "AWS_SESSION_NAME",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN",
)
"""What else LiteLLM takes from the environment where a call does not say it."""
AWS = f'{{"aws_access_key_id": "{TENANTS}", "aws_secret_access_key": "s", "aws_region_name": "eu-west-1"}}'


@dataclass(frozen=True)
class Seen:
    path: str
    headers: str


class AnyPath:
    """Records all requests and answers each with what the path asks for, if it is no chat."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.seen.append(Seen(path=request.path, headers=str(dict(request.headers))))
        if request.path.endswith("/invoke"):
            return web.json_response({"embedding": [1.0] * 1024, "inputTextTokenCount": 3})
        if "batchEmbed" in request.path:
            return web.json_response({"embeddings": [{"values": [1.0] * 3072}]})
        if request.path.endswith("/rerank"):
            # Amazon's spelling and Cohere's.
            return web.json_response({"results": [{"index": 0, "relevanceScore": 0.5, "relevance_score": 0.5}]})
        if request.path.endswith("/embed"):
            return web.json_response({"id": "x", "embeddings": {"float": [[1.0] * 1536]}, "texts": ["ok"]})
        return web.json_response({"message": "no chat here"}, status=400)


@pytest.fixture
async def anywhere() -> AsyncIterator[AnyPath]:
    there = AnyPath()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", there.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    there.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield there
    await runner.cleanup()


@pytest.fixture
async def registry(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Registry]:
    """One whose process has keys of its own, in the settings and where LiteLLM would look for them."""
    names = ("ANTHROPIC_API_KEY", "GEMINI_API_KEY", "COHERE_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    environ = dict.fromkeys(names, SERVERS) | {"AWS_REGION_NAME": "us-east-1"}
    elsewhere = {"AWS_STS_ENDPOINT": "http://127.0.0.1:9", "AWS_BEDROCK_RUNTIME_ENDPOINT": "http://127.0.0.1:9"}
    for name, value in (environ | elsewhere | dict.fromkeys(AWS_ENVIRONMENT, SERVERS)).items():
        monkeypatch.setenv(name, value)
    registry = Registry(load_settings(environ=environ))
    yield registry
    await registry.close()


@pytest.mark.parametrize(
    ("provider", "kind", "model", "path"),
    [
        ("Anthropic", "chat", "claude-sonnet-5", "/v1/messages"),
        ("Gemini", "chat", "gemini-2.5-flash", "/models/gemini-2.5-flash:streamGenerateContent"),
        ("Gemini", "embedding", "gemini-embedding-001", "/models/gemini-embedding-001:batchEmbedContents"),
        ("Bedrock", "chat", "amazon.nova-lite-v1:0", "/model/amazon.nova-lite-v1:0/converse-stream"),
        ("Bedrock", "embedding", "amazon.titan-embed-text-v2:0", "/model/amazon.titan-embed-text-v2:0/invoke"),
        ("Bedrock", "rerank", "cohere.rerank-v3-5:0", "/rerank"),
        ("Cohere", "chat", "command-a-03-2025", "/v2/chat"),
        ("Cohere", "embedding", "embed-v4.0", "/v2/embed"),
        ("Cohere", "rerank", "rerank-v3.5", "/v2/rerank"),
    ],
)
async def test_a_call_goes_where_the_tenant_said_with_its_key_alone(
    registry: Registry, anywhere: AnyPath, provider: str, kind: Kind, model: str, path: str
) -> None:
    key = SecretStr(AWS if provider == "Bedrock" else TENANTS)
    login = ProviderLogin(provider=provider, api_key=key, base_url=anywhere.url)
    if kind == "chat":
        with pytest.raises(ModelError) as raised:
            await registry.probe(login, kind, model)
        assert TENANTS not in str(raised.value)
    else:
        await registry.probe(login, kind, model)
    assert [seen.path for seen in anywhere.seen] == [path]
    assert TENANTS in anywhere.seen[0].headers
    assert SERVERS not in anywhere.seen[0].headers


@pytest.mark.parametrize("provider", ["Anthropic", "Gemini", "Bedrock", "Cohere"])
async def test_without_a_key_no_call_is_made(registry: Registry, anywhere: AnyPath, provider: str) -> None:
    login = ProviderLogin(provider=provider, api_key=SecretStr(""), base_url=anywhere.url)
    with pytest.raises(InvalidInput):
        await registry.probe(login, "chat", "any")
    assert anywhere.seen == []


async def test_a_tenants_session_token_goes_with_its_keys(registry: Registry, anywhere: AnyPath) -> None:
    key = AWS.replace("}", ', "aws_session_token": "token-of-the-tenant"}')
    login = ProviderLogin(provider="Bedrock", api_key=SecretStr(key), base_url=anywhere.url)
    await registry.probe(login, "embedding", "amazon.titan-embed-text-v2:0")
    assert "'x-amz-security-token': 'token-of-the-tenant'" in anywhere.seen[0].headers.lower()


@pytest.mark.parametrize("route", ["claude_platform", "mantle", "agent", "agentcore", "converse/mantle"])
async def test_no_name_of_a_model_leads_to_another_service_of_amazons(
    registry: Registry, anywhere: AnyPath, route: str
) -> None:
    login = ProviderLogin(provider="Bedrock", api_key=SecretStr(AWS), base_url=anywhere.url)
    with pytest.raises(InvalidInput, match="no model"):
        await registry.probe(login, "chat", f"{route}/any")
    assert anywhere.seen == []
