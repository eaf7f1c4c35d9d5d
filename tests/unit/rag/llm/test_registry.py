from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from rag.core.errors import InvalidInput, ModelError, ModelOverloaded, ModelRefused, NotFound
from rag.core.settings import Settings, load_settings
from rag.core.types import TokenUsage
from rag.llm.base import OwnModel, ProviderLogin
from rag.llm.chat_model import LiteLLMBase
from rag.llm.models_file import Kind, read_models_file
from rag.llm.openai_lane import OpenAiLane
from rag.llm.registry import Registry
from rag.testing.upstream_services import Answer, ServicesUpstream
from tests.unit.rag.llm.services import KEY, services

__all__ = ["services"]


def settings(**environ: str) -> Settings:
    return load_settings(environ=environ)


def test_without_a_key_there_is_the_built_in_model() -> None:
    registry = Registry(settings())
    assert registry.providers == ()
    assert [info.name for info in registry.chat_infos()] == ["extractive@Builtin"]
    assert registry.chat("extractive@Builtin").info.local
    assert [embedder.name for embedder in registry.embedders()] == ["minilm@Builtin"]


def test_with_a_key_the_provider_is_there() -> None:
    registry = Registry(settings(OPENAI_API_KEY="sk-x"))
    model = registry.chat("gpt-4o-mini@OpenAI")
    assert isinstance(model, OpenAiLane)
    assert model.info.context_tokens == 128000
    assert registry.chat("gpt-4o-mini") is model
    for name in ("gpt-unheard-of@OpenAI", "gpt-4o@Nobody", "", "@", "@OpenAI"):
        with pytest.raises(NotFound):
            registry.chat(name)


def test_a_compatible_server_names_its_models_itself() -> None:
    registry = Registry(settings(OPENAI_API_KEY="x", OPENAI_BASE_URL="http://127.0.0.1:8000/v1"))
    assert registry.chat("org/llama-3@OpenAI").info.name == "org/llama-3@OpenAI"
    assert registry.chat("llama-3").info.name == "llama-3@OpenAI"
    with pytest.raises(NotFound):
        registry.chat("llama-3@Nobody")


def test_the_configured_model_is_always_listed() -> None:
    registry = Registry(settings(OPENAI_API_KEY="x", PARLEY_MODELS__OPENAI_CHAT="gpt-next"))
    assert registry.chat("gpt-next@OpenAI").info.context_tokens == 32768
    assert "gpt-next@OpenAI" in [info.name for info in registry.chat_infos()]


def test_a_provider_can_go_through_litellm() -> None:
    file = read_models_file()
    entry = file.providers["OpenAI"].model_copy(update={"transport": "litellm"})
    registry = Registry(
        settings(OPENAI_API_KEY="x"), models_file=file.model_copy(update={"providers": {"OpenAI": entry}})
    )
    assert isinstance(registry.chat("gpt-4o@OpenAI"), LiteLLMBase)


def test_embedding_models_are_found_by_either_name() -> None:
    registry = Registry(settings())
    assert registry.embedder("minilm").dim == registry.embedder("minilm@Builtin").dim == 384
    with pytest.raises(NotFound):
        registry.embedder("other")


def test_a_key_never_shows() -> None:
    model = Registry(settings(OPENAI_API_KEY="sk-visible")).chat("gpt-4o@OpenAI")
    assert "sk-visible" not in repr(vars(model))


async def test_warm_open_and_close() -> None:
    registry = Registry(settings(OPENAI_API_KEY="x"))
    await registry.open()
    registry.warm()
    await registry.close()
    await registry.close()


def login(provider: str, key: str = "sk-tenant", **more: Any) -> ProviderLogin:
    return ProviderLogin(provider=provider, api_key=SecretStr(key), **more)


def test_a_tenants_key_makes_models_nobody_else_gets() -> None:
    registry = Registry(settings(GROQ_API_KEY="sk-server"))
    name = "openai/gpt-oss-20b@Groq"
    server, one, two = (
        registry.chat(name, logins) for logins in ((), [login("Groq", "sk-1")], [login("Groq", "sk-2")])
    )
    assert len({id(server), id(one), id(two)}) == 3
    assert registry.chat(name) is server
    assert registry.chat(name, [login("Groq", "sk-1")]) is one
    assert registry.chat(name, [login("xAI", "sk-1")]) is server
    keys = [model._endpoint.api_key.get_secret_value() for model in (server, one, two)]  # type: ignore[attr-defined]
    assert keys == ["sk-server", "sk-1", "sk-2"]


@pytest.mark.parametrize("kind", ["chat", "embedder", "reranker", "describer", "transcriber", "speaker"])
def test_no_kind_is_shared_between_keys(kind: str) -> None:
    registry = Registry(settings())
    make = getattr(registry, kind)
    first, second = ([login("VLLM", key, base_url="http://v.test")] for key in ("sk-1", "sk-2"))
    assert make("m@VLLM", first) is make("m@VLLM", first)
    assert make("m@VLLM", first) is not make("m@VLLM", second)
    for logins in ((), [login("Groq")], [login("VLLM", base_url="not an address")]):
        with pytest.raises(NotFound):
            make("m@VLLM", logins)


def test_the_models_that_are_kept_are_bounded_and_no_key_is_among_their_names() -> None:
    registry = Registry(settings())
    for number in range(600):
        registry.chat("m@VLLM", [login("VLLM", f"sk-{number}", base_url="http://v.test")])
    assert len(registry._kept) == 512
    assert "sk-" not in repr(registry._kept) + repr(registry._logins)


def test_names_that_requests_make_up_do_not_fill_the_memory() -> None:
    registry = Registry(settings(OLLAMA_API_BASE="http://o.test:11434"))
    for number in range(600):
        registry.chat(f"made-up-{number}@Ollama")
    assert len(registry._kept) == 512


def test_the_order_decides_where_several_could_serve() -> None:
    keys = {"OPENAI_API_KEY": "k", "AZURE_API_KEY": "k", "AZURE_API_BASE": "https://a.test", "AIMLAPI_API": "k"}
    assert Registry(settings(**keys)).chat("gpt-4o").info.provider == "OpenAI"
    assert Registry(settings(**keys, PARLEY_MODELS__ORDER="[AIMLAPI]")).chat("gpt-4o").info.provider == "AIMLAPI"
    # Listed goes before possible.
    assert Registry(settings(**keys, PARLEY_MODELS__ORDER="[AIMLAPI]")).chat("gpt-4.1").info.provider == "OpenAI"
    assert Registry(settings(**keys)).chat("who-knows").info.provider == "Azure-OpenAI"


def test_capabilities_come_with_the_model() -> None:
    registry = Registry(settings(ANTHROPIC_API_KEY="k", OPENAI_API_KEY="k", DEEPSEEK_API_KEY="k"))
    sonnet = registry.chat("claude-sonnet-5@Anthropic").info.capabilities
    assert (sonnet.tools, sonnet.vision, sonnet.reasoning, sonnet.prompt_caching) == (True, True, True, "marked")
    mini = registry.chat("gpt-4o-mini").info.capabilities
    assert (mini.json_schema, mini.parallel_tools, mini.reasoning, mini.prompt_caching) == (
        True,
        True,
        False,
        "automatic",
    )
    assert not registry.chat("deepseek-chat").info.capabilities.json_schema
    assert not registry.chat("gpt-4@OpenAI").info.capabilities.vision


def test_all_kinds_are_listed_with_who_can_use_them() -> None:
    registry = Registry(settings(OPENAI_API_KEY="k"))
    listed = registry.listed()
    by_name = {(model.name, model.provider, model.kind): model for model in listed}
    assert len(by_name) == len(listed)
    assert by_name["extractive", "Builtin", "chat"].available
    assert by_name["minilm", "Builtin", "embedding"].available
    assert by_name["gpt-4o", "OpenAI", "chat"].tools
    assert by_name["gpt-4o", "OpenAI", "image2text"].available
    assert ("gpt-4", "OpenAI", "image2text") not in by_name
    assert by_name["whisper-1", "OpenAI", "speech2text"].available
    assert by_name["tts-1", "OpenAI", "tts"].available
    assert not by_name["glm-4-flash", "ZHIPU-AI", "chat"].available
    assert not by_name["rerank-v3.5", "Cohere", "rerank"].available
    found = registry.listed([login("ZHIPU-AI", models=(OwnModel(name="glm-new", kind="chat", max_tokens=4096),))])
    mine = {(model.name, model.kind): model for model in found if model.provider == "ZHIPU-AI"}
    assert mine["glm-4-flash", "chat"].available
    assert mine["glm-new", "chat"].custom
    assert mine["glm-new", "chat"].max_tokens == 4096


def test_every_listed_model_can_be_made() -> None:
    registry = Registry(settings())
    logins = [
        login(factory.name, "k", base_url="https://x.test")
        for factory in registry.factories()
        if factory.name != "Bedrock"
    ]
    aws = '{"aws_access_key_id": "a", "aws_secret_access_key": "b", "aws_region_name": "c"}'
    logins.append(login("Bedrock", aws))
    make = {
        "chat": registry.chat,
        "embedding": registry.embedder,
        "rerank": registry.reranker,
        "image2text": registry.describer,
        "speech2text": registry.transcriber,
        "tts": registry.speaker,
    }
    listed = registry.listed(logins)
    assert len(listed) > 200
    for model in listed:
        assert model.available, model
        made = make[model.kind](f"{model.name}@{model.provider}", logins)
        assert f"{model.name}@{model.provider}" == (made.info.name if model.kind == "chat" else made.name)


def test_factories_tell_what_a_tenant_can_set_up() -> None:
    factories = {factory.name: factory for factory in Registry(settings()).factories()}
    assert len(factories) == 18
    assert {"OpenAI", "Azure-OpenAI", "Bedrock", "ZHIPU-AI", "Ollama", "VLLM", "OpenAI-API-Compatible"} <= set(
        factories
    )
    assert factories["Cohere"].kinds == ("chat", "embedding", "rerank", "image2text")
    assert not factories["Ollama"].needs_key
    assert factories["ZHIPU-AI"].needs_key
    ranks = [factory.rank for factory in factories.values()]
    assert ranks == sorted(ranks, reverse=True)


def test_a_provider_that_only_the_tenant_knows_is_a_compatible_server() -> None:
    registry = Registry(settings())
    mine = [login("LocalAI", base_url="http://mine.test")]
    assert registry.chat("llama___LocalAI@LocalAI", mine).info.name == "llama___LocalAI@LocalAI"
    for logins in ((), [login("LocalAI")], [login("LocalAI", "")]):
        with pytest.raises(NotFound):
            registry.chat("llama@LocalAI", logins)


def test_a_model_that_is_switched_off_is_not_there() -> None:
    registry = Registry(settings(GROQ_API_KEY="k"))
    off = [login("Groq", "", models=(OwnModel(name="whisper-large-v3", kind="speech2text", enabled=False),))]
    assert registry.transcriber("whisper-large-v3@Groq")
    with pytest.raises(NotFound):
        registry.transcriber("whisper-large-v3@Groq", off)
    with pytest.raises(NotFound):
        registry.transcriber("whisper-large-v3", off)
    assert registry.transcriber("whisper-large-v3-turbo@Groq", off)


def test_a_model_is_offered_where_a_call_would_find_it() -> None:
    registry = Registry(settings(GROQ_API_KEY="k"))
    own = OwnModel(name="mine", kind="chat")
    assert registry.offers("whisper-large-v3@Groq", "speech2text")
    assert not registry.offers("whisper-large-v3@Groq", "chat")
    assert not registry.offers("mine@Groq", "chat")
    assert not registry.offers("mine@Groq", "chat", [login("Groq", "", models=(own,))]), "not on the server's key"
    assert registry.offers("mine@Groq", "chat", [login("Groq", "k", models=(own,))])
    off = replace(own, enabled=False)
    assert not registry.offers("mine@Groq", "chat", [login("Groq", "k", models=(off,))])
    elsewhere = login("Bedrock", "k", models=(own,))
    assert not registry.offers("mine@Bedrock", "chat", [elsewhere]), "its key cannot be used"


def test_a_model_is_not_of_another_kind() -> None:
    registry = Registry(settings(OPENAI_API_KEY="k"))
    for make, name in ((registry.chat, "tts-1"), (registry.embedder, "gpt-4o"), (registry.describer, "gpt-4")):
        with pytest.raises(NotFound):
            make(f"{name}@OpenAI")


async def probed(services: ServicesUpstream, kind: Any, key: str = KEY) -> TokenUsage:
    registry = Registry(settings())
    try:
        return await registry.probe(login("VLLM", key, base_url=services.url), kind, "m")
    finally:
        await registry.close()


@pytest.mark.parametrize(
    ("kind", "path", "took"),
    [
        ("chat", "/v1/chat/completions", True),
        ("embedding", "/v1/embeddings", False),
        ("rerank", "/v1/rerank", False),
        ("image2text", "/v1/chat/completions", False),
        ("speech2text", "/v1/audio/transcriptions", True),
        ("tts", "/v1/audio/speech", True),
    ],
)
async def test_a_probe_is_a_real_call(services: ServicesUpstream, kind: Kind, path: str, took: bool) -> None:
    usage = await probed(services, kind)
    assert usage.total_tokens > 0
    assert usage.estimated is took
    assert [called.path for called in services.calls] == [path]
    with pytest.raises(ModelRefused) as raised:
        await probed(services, kind, "sk-of-somebody-else")
    assert "somebody-else" not in str(raised.value)
    services.answer = Answer(body=b"<html>", content_type="text/html")
    with pytest.raises(ModelError):
        await probed(services, kind)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("chat", "/chat/completions"),
        ("embedding", "/embeddings"),
        ("tts", "/audio/speech"),
        ("image2text", "/chat/completions"),
    ],
)
async def test_azure_is_called_by_deployment_with_its_own_header(
    services: ServicesUpstream, kind: Any, path: str
) -> None:
    registry = Registry(settings(AZURE_API_KEY=KEY, AZURE_API_BASE=services.url.removesuffix("/v1")))
    await registry.probe(login("Azure-OpenAI", KEY), kind, "mine")
    await registry.probe(login("Azure-OpenAI", f'{{"api_key": "{KEY}", "api_version": "2030-01-01"}}'), kind, "mine")
    first, second = services.calls
    assert first.path == f"/openai/deployments/mine{path}?api-version=2024-10-21"
    assert second.path == f"/openai/deployments/mine{path}?api-version=2030-01-01"
    assert first.headers["api-key"] == second.headers["api-key"] == KEY
    assert "Authorization" not in first.headers
    await registry.close()


async def test_a_server_without_keys_is_sent_none(services: ServicesUpstream) -> None:
    services.key = ""
    registry = Registry(settings(OLLAMA_API_BASE=services.url.removesuffix("/v1")))
    await registry.open()
    await registry.embedder("nomic@Ollama").encode(["text"])
    assert services.calls[0].path == "/v1/embeddings"
    assert "Authorization" not in services.calls[0].headers
    await registry.close()


async def test_a_probe_of_what_cannot_be_says_why() -> None:
    registry = Registry(settings())
    with pytest.raises(InvalidInput):
        await registry.probe(login("VLLM", base_url="nonsense"), "chat", "m")
    with pytest.raises(InvalidInput, match="address"):
        await registry.probe(login("VLLM"), "chat", "m")
    with pytest.raises(NotFound):
        await registry.probe(login("Groq"), "chat", "no-such-model")
    with pytest.raises(InvalidInput, match="kind"):
        await registry.probe(login("Groq"), "video", "m")  # type: ignore[arg-type]
    with pytest.raises(ModelOverloaded):
        await registry.probe(login("VLLM", base_url="http://127.0.0.1:9"), "embedding", "m")
    await registry.close()


async def test_a_guarded_login_reaches_nothing_on_this_machine(services: ServicesUpstream) -> None:
    registry = Registry(settings())
    for kind in ("chat", "embedding", "rerank", "image2text", "speech2text", "tts"):
        guarded = login("VLLM", KEY, base_url=services.url, guarded=True)
        with pytest.raises(ModelError):
            await registry.probe(guarded, kind, "m")  # type: ignore[arg-type]
    assert services.calls == []
    await registry.close()


def test_no_key_shows_in_any_model() -> None:
    registry = Registry(settings(OPENAI_API_KEY="sk-visible", COHERE_API_KEY="sk-visible"))
    mine = [login("Groq", "sk-visible"), login("VLLM", "sk-visible", base_url="http://v.test")]
    for model in registry.listed(mine):
        if model.available and model.provider != "Builtin" and model.kind == "embedding":
            registry.embedder(f"{model.name}@{model.provider}", mine)
        if model.available and model.provider != "Builtin" and model.kind == "rerank":
            registry.reranker(f"{model.name}@{model.provider}", mine)
    for kind in (registry.chat, registry.embedder, registry.speaker, registry.transcriber, registry.describer):
        kind("m@VLLM", mine)
    assert len(registry._kept) > 8
    assert "sk-visible" not in shown(registry)


def shown(value: object, depth: int = 6) -> str:
    """The representations of `value` and of all that it holds."""
    text = repr(value)
    if depth and hasattr(value, "__dict__"):
        text += "".join(shown(below, depth - 1) for below in vars(value).values())
    elif depth and isinstance(value, Mapping):
        text += repr(list(value)) + "".join(shown(below, depth - 1) for below in value.values())
    return text
