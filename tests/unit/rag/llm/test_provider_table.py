from dataclasses import replace

import pytest
from pydantic import SecretStr

from rag.core.errors import InvalidInput
from rag.core.settings import load_settings
from rag.llm.base import OwnModel, ProviderLogin
from rag.llm.models_file import read_models_file
from rag.llm.provider_table import Provider, fingerprint, server_providers, wire_name, with_login

FILE = read_models_file()
VISIBLE = "sk-visible"
AWS = {"AWS_ACCESS_KEY_ID": "a-visible", "AWS_SECRET_ACCESS_KEY": "s-visible", "AWS_REGION_NAME": "eu-west-1"}


def providers(**environ: str) -> dict[str, Provider]:
    return server_providers(FILE, load_settings(environ=environ))


def available(**environ: str) -> list[str]:
    return [name for name, provider in providers(**environ).items() if provider.available]


def login(provider: str, key: str = "sk-tenant", **more: object) -> ProviderLogin:
    return ProviderLogin(provider=provider, api_key=SecretStr(key), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("environ", "provider", "address"),
    [
        ({"OPENAI_API_KEY": "k"}, "OpenAI", "https://api.openai.com/v1"),
        ({"ANTHROPIC_API_KEY": "k"}, "Anthropic", "https://api.anthropic.com"),
        ({"GEMINI_API_KEY": "k"}, "Gemini", "https://generativelanguage.googleapis.com/v1beta"),
        ({"AZURE_API_KEY": "k", "AZURE_API_BASE": "https://me.test"}, "Azure-OpenAI", "https://me.test"),
        ({"MISTRAL_API_KEY": "k"}, "Mistral", "https://api.mistral.ai/v1"),
        ({"COHERE_API_KEY": "k"}, "Cohere", "https://api.cohere.com"),
        ({"GROQ_API_KEY": "k"}, "Groq", "https://api.groq.com/openai/v1"),
        ({"DEEPSEEK_API_KEY": "k"}, "DeepSeek", "https://api.deepseek.com/v1"),
        ({"XAI_API_KEY": "k"}, "xAI", "https://api.x.ai/v1"),
        (AWS, "Bedrock", ""),
        ({"OPENROUTER_API_KEY": "k"}, "OpenRouter", "https://openrouter.ai/api/v1"),
        ({"AIMLAPI_API": "k"}, "AIMLAPI", "https://api.aimlapi.com/v1"),
        ({"ZHIPUAI_API_KEY": "k"}, "ZHIPU-AI", "https://open.bigmodel.cn/api/paas/v4"),
        ({"ZAI_API_KEY": "k"}, "Z.AI", "https://api.z.ai/api/paas/v4"),
        ({"OLLAMA_API_BASE": "http://o:11434"}, "Ollama", "http://o:11434/v1"),
        ({"VLLM_API_BASE": "http://v:8000/v1"}, "VLLM", "http://v:8000/v1"),
        ({"LM_STUDIO_API_BASE": "http://l:1234"}, "LM-Studio", "http://l:1234/v1"),
        ({"PARLEY_MODELS__COMPATIBLE__HOME__BASE_URL": "http://h/v1"}, "home", "http://h/v1"),
    ],
)
def test_every_provider_is_reached_by_its_usual_variables(environ: dict[str, str], provider: str, address: str) -> None:
    assert available(**environ) == [provider]
    assert providers(**environ)[provider].endpoint.base_url == address


@pytest.mark.parametrize(
    ("variable", "key", "provider"),
    [
        ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OpenAI"),
        ("ANTHROPIC_API_BASE", "ANTHROPIC_API_KEY", "Anthropic"),
        ("GEMINI_API_BASE", "GEMINI_API_KEY", "Gemini"),
        ("MISTRAL_API_BASE", "MISTRAL_API_KEY", "Mistral"),
        ("COHERE_API_BASE", "COHERE_API_KEY", "Cohere"),
        ("GROQ_API_BASE", "GROQ_API_KEY", "Groq"),
        ("DEEPSEEK_API_BASE", "DEEPSEEK_API_KEY", "DeepSeek"),
        ("XAI_API_BASE", "XAI_API_KEY", "xAI"),
        ("OPENROUTER_API_BASE", "OPENROUTER_API_KEY", "OpenRouter"),
        ("AIML_API_BASE", "AIMLAPI_API", "AIMLAPI"),
        ("ZHIPUAI_API_BASE", "ZHIPUAI_API_KEY", "ZHIPU-AI"),
        ("ZAI_API_BASE", "ZAI_API_KEY", "Z.AI"),
        ("AWS_BEDROCK_RUNTIME_ENDPOINT", "", "Bedrock"),
    ],
)
def test_every_provider_can_have_another_address(variable: str, key: str, provider: str) -> None:
    environ = {variable: "http://proxy.test/there", **({key: "k"} if key else AWS)}
    found = providers(**environ)[provider]
    assert found.available
    assert found.endpoint.base_url == "http://proxy.test/there"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OPENAI_API_KEY": ""},
        {"OPENAI_BASE_URL": "http://x.test"},
        {"AZURE_API_KEY": "k"},
        {"AZURE_API_BASE": "http://x.test"},
        {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"},
        {"OLLAMA_API_KEY": "k"},
    ],
)
def test_a_provider_without_what_it_needs_is_not_there(environ: dict[str, str]) -> None:
    assert available(**environ) == []


def test_bedrock_gets_its_keys_as_arguments_and_azure_its_version() -> None:
    endpoint = providers(**AWS)["Bedrock"].endpoint_of("amazon.nova-lite-v1:0")
    assert endpoint.litellm_arguments() == {
        "model": "bedrock/amazon.nova-lite-v1:0",
        "api_key": "",
        "aws_session_token": "",
        "aws_access_key_id": "a-visible",
        "aws_secret_access_key": "s-visible",
        "aws_region_name": "eu-west-1",
    }
    assert "visible" not in repr(endpoint)
    azure = providers(AZURE_API_KEY="k", AZURE_API_BASE="https://me.test")["Azure-OpenAI"]
    assert azure.endpoint.api_version == "2024-10-21"
    newer = providers(AZURE_API_KEY="k", AZURE_API_BASE="https://me.test", AZURE_API_VERSION="2030-01-01")
    assert newer["Azure-OpenAI"].endpoint.api_version == "2030-01-01"


def test_the_order_of_the_file_and_then_that_of_the_settings_decides() -> None:
    keys = {"OPENAI_API_KEY": "k", "GROQ_API_KEY": "k", "AIMLAPI_API": "k"}
    home = {"PARLEY_MODELS__COMPATIBLE__HOME__BASE_URL": "http://h/v1"}
    assert available(**keys, **home) == ["OpenAI", "Groq", "AIMLAPI", "home"]
    assert available(**keys, **home, PARLEY_MODELS__ORDER="[home, Groq]") == ["home", "Groq", "OpenAI", "AIMLAPI"]


def test_names_that_mean_nothing_or_two_things_are_refused() -> None:
    with pytest.raises(InvalidInput, match="ORDER"):
        providers(PARLEY_MODELS__ORDER="[Nobody]")
    twice = load_settings({"models": {"compatible": {"Ollama": {"base_url": "http://h"}}}}, environ={})
    with pytest.raises(InvalidInput, match="Ollama"):
        server_providers(FILE, twice)


def test_every_listed_model_has_figures_and_capabilities() -> None:
    for name, entry in FILE.providers.items():
        assert entry.rank > 0, name
        assert entry.kinds, name
        for model, row in entry.models.items():
            found = row.capabilities(model, entry.strategy)
            if row.kind == "chat":
                assert row.context_tokens > row.max_output_tokens >= 1, (name, model)
                assert not found.parallel_tools or found.tools, (name, model)
            elif row.kind == "embedding":
                assert row.dim > 0, (name, model)
    assert (
        FILE.providers["Anthropic"]
        .models["claude-sonnet-5"]
        .capabilities("claude-sonnet-5", FILE.providers["Anthropic"].strategy)
        .prompt_caching
        == "marked"
    )
    ranks = [entry.rank for entry in FILE.providers.values()]
    assert ranks == sorted(ranks, reverse=True)


def test_a_login_goes_over_the_servers_key() -> None:
    own = providers(GROQ_API_KEY=VISIBLE)["Groq"]
    found = with_login(own, login("Groq"))
    assert found.endpoint.api_key.get_secret_value() == "sk-tenant"
    assert found.endpoint.base_url == own.endpoint.base_url
    assert found.login
    assert own.login == ""


@pytest.mark.parametrize("provider", [name for name in FILE.providers if name != "Bedrock"])
def test_the_servers_key_never_goes_to_a_tenants_address(provider: str) -> None:
    entry = FILE.providers[provider]
    environ = {field.upper(): VISIBLE for field in (entry.key,) if field}
    environ |= {field.upper(): "https://servers.test" for field in (entry.base_url,) if field}
    own = providers(**environ)[provider]
    for key in ("", "sk-tenant"):
        try:
            found = with_login(own, login(provider, key, base_url="https://tenants.test/v1"))
        except InvalidInput:
            assert not key
            assert entry.transport == "litellm"
            continue
        assert VISIBLE not in str(found.endpoint.litellm_arguments()) + str(found.endpoint.headers())
        assert found.endpoint.base_url == "https://tenants.test/v1"


def test_bedrock_needs_all_its_parts_from_the_tenant_itself() -> None:
    own = providers(**AWS)["Bedrock"]
    for key in ("sk-plain", "{}", '{"aws_access_key_id": "x", "aws_region_name": "y"}', "{broken", "[1]"):
        with pytest.raises(InvalidInput, match="aws_secret_access_key"):
            with_login(own, login("Bedrock", key))
    whole = '{"aws_access_key_id": "x", "aws_secret_access_key": "y", "aws_region_name": "z"}'
    arguments = with_login(own, login("Bedrock", whole)).endpoint.litellm_arguments()
    assert (arguments["aws_access_key_id"], arguments["aws_region_name"]) == ("x", "z")
    assert "a-visible" not in str(arguments)


@pytest.mark.parametrize("address", ["ftp://x", "http://u:p@x", "x", "http://x/?a=b"])
def test_an_address_that_cannot_be_used_is_refused(address: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        with_login(providers()["VLLM"], login("VLLM", base_url=address))
    assert "sk-tenant" not in str(raised.value)


@pytest.mark.parametrize(
    ("provider", "key", "field"),
    [
        ("OpenAI", '{"api_key": "sk-1\\r\\nX-Evil: 1"}', "api_key"),
        ("OpenAI", '{"api_key": "sk-1\\u0000"}', "api_key"),
        ("OpenAI", '{"api_key": "sk-\\u043a"}', "api_key"),
        ("OpenAI", "sk-\u043a", "api_key"),
        ("Anthropic", "{sk-\u043a", "api_key"),
        ("Azure-OpenAI", '{"api_key": "sk-1", "api_version": "1\\n"}', "api_version"),
        (
            "Bedrock",
            '{"aws_access_key_id": "a", "aws_secret_access_key": "s\\n", "aws_region_name": "eu-west-1"}',
            "aws_secret_access_key",
        ),
        (
            "Bedrock",
            '{"aws_access_key_id": "a", "aws_secret_access_key": "s", "aws_region_name": "evil.test/?"}',
            "aws_region_name",
        ),
    ],
)
def test_every_part_of_a_key_can_stand_in_a_header(provider: str, key: str, field: str) -> None:
    with pytest.raises(InvalidInput, match=field) as raised:
        with_login(providers()[provider], login(provider, key, base_url="http://x.test"))
    assert raised.value.facts["field"] == "api_key"
    assert "sk-" not in str(raised.value)


def test_a_guarded_login_may_not_lead_litellm_elsewhere() -> None:
    with pytest.raises(InvalidInput, match="address"):
        with_login(providers()["Anthropic"], login("Anthropic", base_url="http://10.0.0.1", guarded=True))
    usual = with_login(providers()["Anthropic"], login("Anthropic", base_url="https://api.anthropic.com", guarded=True))
    assert usual.available
    lane = with_login(providers()["VLLM"], login("VLLM", base_url="http://10.0.0.1", guarded=True))
    assert lane.guarded
    assert not with_login(providers()["Groq"], login("Groq", guarded=True)).guarded


def test_a_login_adds_models_and_switches_some_off() -> None:
    models = (
        OwnModel(name="new-one", kind="chat", max_tokens=9000),
        OwnModel(name="embed-x", kind="embedding", max_tokens=8),
        OwnModel(name="whisper-large-v3", kind="speech2text", enabled=False),
    )
    found = with_login(providers()["Groq"], login("Groq", models=models))
    assert found.entry_of("new-one", "chat").context_tokens == 9000
    assert found.has("new-one", "chat")
    assert found.has("embed-x", "embedding")
    assert not found.has("embed-x", "chat")
    assert not found.has("whisper-large-v3", "speech2text")
    assert found.has("whisper-large-v3-turbo", "speech2text")


def test_a_login_without_key_and_address_only_changes_the_list() -> None:
    own = providers(GROQ_API_KEY=VISIBLE)["Groq"]
    off = (OwnModel(name="openai/gpt-oss-20b", kind="chat", enabled=False),)
    found = with_login(own, login("Groq", "", models=off))
    assert found.endpoint == own.endpoint
    assert not found.has("openai/gpt-oss-20b", "chat")
    assert with_login(own, login("Groq", "")) is own
    assert not with_login(providers()["Groq"], login("Groq", "", models=off)).available


def test_a_login_without_key_and_address_adds_nothing_to_the_servers_list() -> None:
    dear = (OwnModel(name="very-dear", kind="chat"), OwnModel(name="openai/gpt-oss-20b", kind="embedding"))
    own = providers(GROQ_API_KEY=VISIBLE)["Groq"]
    found = with_login(own, login("Groq", "", models=dear))
    assert found.models == own.models
    assert not found.has("very-dear", "chat")
    assert not found.may_have("very-dear", "chat")
    assert with_login(own, login("Groq", models=dear)).has("very-dear", "chat")
    assert with_login(own, login("Groq", "", base_url="http://x.test", models=dear)).has("very-dear", "chat")
    router = providers(OPENROUTER_API_KEY=VISIBLE)["OpenRouter"]
    assert with_login(router, login("OpenRouter", "", models=dear)).has("very-dear", "chat")


def test_a_model_may_be_of_several_kinds() -> None:
    models = (
        OwnModel(name="dual", kind="chat", max_tokens=9000),
        OwnModel(name="dual", kind="embedding", max_tokens=512),
        OwnModel(name="openai/gpt-oss-20b", kind="rerank"),
        OwnModel(name="openai/gpt-oss-20b", kind="chat"),
    )
    own = providers()["Groq"]
    for order in (models, models[::-1]):
        found = with_login(own, login("Groq", models=order))
        assert found.has("dual", "chat")
        assert found.has("dual", "embedding")
        assert not found.has("dual", "rerank")
        assert found.entry_of("dual", "chat").context_tokens == 9000
        assert found.entry_of("dual", "embedding").context_tokens == 512
        assert found.has("openai/gpt-oss-20b", "rerank")
        assert found.entry_of("openai/gpt-oss-20b") == own.entry_of("openai/gpt-oss-20b")
        assert [(name, entry.kind) for name, entry in found.entries() if name == "dual"] == [
            ("dual", one.kind) for one in order if one.name == "dual"
        ]
    sees = with_login(own, login("Groq", models=(OwnModel(name="eyes", kind="image2text", max_tokens=5000),)))
    assert sees.entry_of("eyes").context_tokens == 5000
    assert not sees.has("eyes", "chat")
    off = with_login(own, login("Groq", models=(models[0], replace(models[1], enabled=False))))
    assert off.has("dual", "chat")
    assert not off.has("dual", "embedding")
    assert not off.may_have("dual", "embedding")


def test_fingerprints_tell_logins_apart_and_nothing_else() -> None:
    one = login("Groq", "sk-1")
    assert fingerprint(one) == fingerprint(login("Groq", "sk-1"))
    others = [
        login("Groq", "sk-2"),
        login("xAI", "sk-1"),
        login("Groq", "sk-1", base_url="http://x"),
        login("Groq", "sk-1", guarded=True),
        login("Groq", "sk-1", models=(OwnModel(name="m", kind="chat"),)),
    ]
    assert len({fingerprint(other) for other in [one, *others]}) == 6
    assert "sk-1" not in fingerprint(one)


@pytest.mark.parametrize("suffix", ["___VLLM", "___OpenAI-API", "___LocalAI", "___HuggingFace"])
def test_the_contracts_suffixes_stay_here(suffix: str) -> None:
    assert wire_name("qwen3" + suffix) == "qwen3"
    assert wire_name("qwen3___Other") == "qwen3___Other"
    found = with_login(providers()["VLLM"], login("VLLM", base_url="http://v:1"))
    assert found.endpoint_of("qwen3" + suffix).model == "qwen3"


def test_thinking_models_of_openais_own_kind_take_no_sampling() -> None:
    environ = {"OPENAI_API_KEY": "k", "AZURE_API_KEY": "k", "AZURE_API_BASE": "https://me.test"}
    found = providers(**environ)
    assert found["OpenAI"].endpoint_of("gpt-5").reasoning
    assert not found["OpenAI"].endpoint_of("gpt-4o").reasoning
    assert found["Azure-OpenAI"].endpoint_of("my-gpt-5-deployment").reasoning
    assert not found["Azure-OpenAI"].endpoint_of("my-deployment").reasoning
