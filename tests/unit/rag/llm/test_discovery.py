import asyncio
import dataclasses
from collections.abc import AsyncIterator

import orjson
import pytest
from structlog.testing import capture_logs

from rag.core.errors import ModelBadOutput, ModelError, ModelOverloaded, ModelRefused
from rag.core.settings import load_settings
from rag.llm.discovery import Discovery, kind_by_name, models_at
from rag.llm.models_file import read_models_file
from rag.llm.provider_table import Provider, server_providers
from rag.llm.registry import Registry
from rag.llm.upstream import UpstreamPool
from rag.testing.upstream_services import Answer, ServicesUpstream
from tests.unit.rag.llm.services import KEY, services

__all__ = ["services"]

FILE = read_models_file()


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.at = 0.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> object:
        raise AssertionError


def home(url: str, **more: str) -> Provider:
    environ = {"PARLEY_MODELS__COMPATIBLE__HOME__BASE_URL": url, "PARLEY_MODELS__COMPATIBLE__HOME__API_KEY": KEY} | more
    return server_providers(FILE, load_settings(environ=environ))["home"]


@pytest.fixture
async def registry(services: ServicesUpstream) -> AsyncIterator[Registry]:
    environ = {
        "PARLEY_MODELS__COMPATIBLE__HOME__BASE_URL": services.url,
        "PARLEY_MODELS__COMPATIBLE__HOME__API_KEY": KEY,
        "PARLEY_MODELS__COMPATIBLE__DEAD__BASE_URL": "http://127.0.0.1:9/v1",
        "OLLAMA_API_BASE": services.url.removesuffix("/v1"),
        "OLLAMA_API_KEY": KEY,
    }
    registry = Registry(load_settings(environ=environ))
    await registry.open()
    yield registry
    await registry.close()


async def test_models_of_servers_are_listed_and_usable(registry: Registry, services: ServicesUpstream) -> None:
    services.models = ["qwen3:8b", "nomic-embed-text", "bge-reranker-v2"]
    assert not [model for model in registry.listed() if model.discovered]
    await registry.discover()
    found = {(model.name, model.kind, model.provider) for model in registry.listed() if model.discovered}
    for provider in ("home", "Ollama"):
        assert ("qwen3:8b", "chat", provider) in found
        assert ("nomic-embed-text", "embedding", provider) in found
        assert ("bge-reranker-v2", "rerank", provider) in found
    assert {called.path for called in services.calls} == {"/v1/models", "/api/tags"}
    assert registry.chat("qwen3:8b").info.name == "qwen3:8b@Ollama"
    assert "qwen3:8b@home" in [info.name for info in registry.chat_infos()]
    assert "nomic-embed-text@home" in [embedder.name for embedder in registry.embedders()]


async def test_a_dead_server_harms_nobody(registry: Registry) -> None:
    with capture_logs() as logs:
        await registry.discover()
    (line,) = [line for line in logs if line["log_level"] == "warning"]
    assert line["provider"] == "dead"
    assert KEY not in str(logs)
    assert [model for model in registry.listed() if model.provider == "home" and model.discovered]
    assert registry.chat("any@dead").info.name == "any@dead"


async def test_servers_are_asked_now_and_then_only(pool: UpstreamPool, services: ServicesUpstream) -> None:
    clock = Clock()
    discovery = Discovery(pool, every_s=300, clock=clock)  # type: ignore[arg-type]
    provider = home(services.url)
    await asyncio.gather(*(discovery.refresh([provider]) for _ in range(5)))
    assert len(services.calls) == 1
    clock.at = 299
    await discovery.refresh([provider])
    assert len(services.calls) == 1
    services.models = ["another"]
    clock.at = 301
    await discovery.refresh([provider])
    assert discovery.models_of("home") == ("another",)
    assert discovery.models_of("Nobody") == ()


async def test_a_server_that_hangs_is_left(pool: UpstreamPool, services: ServicesUpstream) -> None:
    services.answer = Answer(wait_s=30)
    with capture_logs() as logs:
        await Discovery(pool, every_s=0, timeout_s=0.2).refresh([home(services.url)])
    assert "did not answer within 0.2 s" in logs[0]["reason"]


async def test_a_server_that_falls_silent_keeps_its_models(pool: UpstreamPool, services: ServicesUpstream) -> None:
    discovery = Discovery(pool, every_s=0)
    await discovery.refresh([home(services.url)])
    services.answer = Answer(status=500)
    with capture_logs() as logs:
        await discovery.refresh([home(services.url)])
    assert [line["event"] for line in logs] == ["models not discovered"]
    assert discovery.models_of("home") == ("chat-one", "embed-one")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(body=b'{"data": [' + b'{"id": "x"},' * 500_000 + b'{"id": "y"}]}'), ModelBadOutput),
        (Answer(body=b'{"data": [{"id": "cut'), ModelBadOutput),
        (Answer(body=b"[" * 5000 + b"]" * 5000), ModelBadOutput),
        (Answer(body=[]), ModelBadOutput),
        (Answer(body={"data": "x"}), ModelBadOutput),
        (Answer(body={"models": [{"name": "x"}]}), ModelBadOutput),
        (Answer(body=b"<html>Welcome</html>", content_type="text/html"), ModelBadOutput),
        (Answer(status=401, body={"error": {"message": KEY}}), ModelRefused),
        (Answer(status=301, headers={"Location": "http://127.0.0.1:9/"}), ModelRefused),
        (Answer(cut=True), ModelOverloaded),
    ],
    ids=["huge", "cut json", "deep", "list", "text", "other form", "html", "wrong key", "redirect", "reset"],
)
async def test_hostile_servers(
    pool: UpstreamPool, services: ServicesUpstream, answer: Answer, error: type[ModelError]
) -> None:
    services.answer = answer
    with pytest.raises(error) as raised:
        await models_at(home(services.url), pool)
    assert KEY not in str(raised.value)


async def test_names_that_cannot_be_names_are_left_out(pool: UpstreamPool, services: ServicesUpstream) -> None:
    names = ["good", "good", "", " padded", "a@b", "x" * 201, "new\nline", 7, None, {"id": "x"}, "org/also-good:1b"]
    services.answer = Answer(body={"data": [{"id": name} for name in names] + ["x", None, {}]})
    assert await models_at(home(services.url), pool) == ("good", "org/also-good:1b")
    services.answer = Answer(body=orjson.dumps({"data": [{"id": f"m{n}"} for n in range(5000)]}))
    assert len(await models_at(home(services.url), pool)) == 1000


async def test_an_address_that_cannot_be_looked_up_is_told_and_ends_nothing(pool: UpstreamPool) -> None:
    provider = home("http://here.test/v1")
    provider = dataclasses.replace(provider, endpoint=dataclasses.replace(provider.endpoint, base_url="http://a..b/v1"))
    with pytest.raises(ModelBadOutput, match="base address"):
        await models_at(provider, pool)
    with capture_logs() as logs:
        await Discovery(pool, every_s=0).refresh([provider])
    assert [line["provider"] for line in logs] == ["home"]


async def test_a_server_with_named_models_is_not_asked(pool: UpstreamPool, services: ServicesUpstream) -> None:
    provider = home(services.url, PARLEY_MODELS__COMPATIBLE__HOME__MODELS="[one]")
    await Discovery(pool, every_s=0).refresh([provider])
    assert services.calls == []
    assert list(provider.models) == ["one"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("qwen3:8b", "chat"),
        ("BAAI/bge-m3", "embedding"),
        ("nomic-embed-text", "embedding"),
        ("BAAI/bge-reranker-v2-m3", "rerank"),
        ("whisper-large-v3", "speech2text"),
        ("kokoro-tts", "tts"),
    ],
)
def test_names_tell_of_kinds(name: str, kind: str) -> None:
    assert kind_by_name(name) == kind
