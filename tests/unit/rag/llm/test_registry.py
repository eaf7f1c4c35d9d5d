import pytest

from rag.core.errors import NotFound
from rag.core.settings import Settings, load_settings
from rag.llm.chat_model import LiteLLMBase
from rag.llm.openai_lane import OpenAiLane
from rag.llm.registry import Registry, read_models_file


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
