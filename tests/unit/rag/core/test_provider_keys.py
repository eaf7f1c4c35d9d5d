"""Provider variables: usual names, other names, addresses that can be used, keys that never show."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from rag.core.errors import InvalidInput
from rag.core.provider_keys import VARIABLES, CompatibleServer, ProviderKeys, Variable, checked_address
from rag.core.settings import Settings, load_settings, provider_environment

NO_FILE = Path("/nonexistent/.env")


def settings(**environ: str) -> Settings:
    return load_settings(environ=environ, env_file=NO_FILE)


def test_every_name_in_the_table_is_there_once() -> None:
    names = [name for variable in VARIABLES for name in (variable.name, *variable.also)]
    assert len(names) == len(set(names))
    assert {"GROQ_API_KEY", "AIMLAPI_API", "AWS_SECRET_ACCESS_KEY", "ZAI_API_KEY", "LM_STUDIO_API_BASE"} <= set(names)


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.name)
def test_each_variable_is_read_by_each_of_its_names(variable: Variable) -> None:
    for name in (variable.name, *variable.also):
        found = settings(**{name: "http://x.test"}).providers
        assert found.text(variable.field) == "http://x.test"
        assert settings(**{name: ""}).providers == settings().providers


def test_the_first_name_counts() -> None:
    found = settings(AIML_API_KEY="second", AIMLAPI_API="first")
    assert found.providers.text("aimlapi_api") == "first"
    assert provider_environment(found) == {"AIMLAPI_API": "set"}


def test_the_environment_beats_the_file(tmp_path: Path) -> None:
    config = tmp_path / "parley.yaml"
    config.write_text("providers: {groq_api_key: from-yaml, xai_api_key: from-yaml}\n")
    found = settings(PARLEY_CONFIG=str(config), GROQ_API_KEY="from-environment").providers
    assert (found.text("groq_api_key"), found.text("xai_api_key")) == ("from-environment", "from-yaml")
    assert found.text("") == found.text("mistral_api_key") == ""


def test_no_key_is_ever_shown() -> None:
    keys = {variable.name: f"visible-{variable.name}" for variable in VARIABLES if variable.kind == "key"}
    assert len(keys) > 15
    found = settings(
        **keys,
        PARLEY_MODELS__COMPATIBLE__HOME__BASE_URL="http://h/v1",
        PARLEY_MODELS__COMPATIBLE__HOME__API_KEY="visible",
    )
    assert isinstance(found.models.compatible["home"].api_key, SecretStr)
    for shown in (repr(found), str(found), found.model_dump_json()):
        assert "visible" not in shown


@pytest.mark.parametrize(
    "address",
    [
        "here.test",
        "ftp://here.test",
        "http://",
        "http://user:geheim@here.test",
        "http://here.test:port",
        "http://here.test:0",
        "http://here.test/?key=geheim",
        "http://here.test/#x",
        "http://here.test/a b",
        "http://here.test\n",
        "http://[::1",
        "http://a..b/v1",
        "http://.here.test",
        "http://" + "a" * 64 + ".test",
        "http://xn--\u00fc.test",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(InvalidInput, match="GROQ_API_BASE") as raised:
        settings(GROQ_API_BASE=address)
    assert "geheim" not in str(raised.value)
    assert "PARLEY_" not in str(raised.value)


def test_addresses_end_without_a_slash() -> None:
    assert checked_address("https://here.test:8443/v1/") == "https://here.test:8443/v1"
    assert checked_address("") == ""


def test_compatible_servers_have_names_of_their_own() -> None:
    found = settings(
        PARLEY_MODELS__COMPATIBLE__HOME__BASE_URL="http://h:8000/v1/",
        PARLEY_MODELS__COMPATIBLE__HOME__MODELS="[one, two]",
        PARLEY_MODELS__COMPATIBLE__LAB__BASE_URL="https://lab/v1",
        PARLEY_MODELS__ORDER="[lab, OpenAI]",
    ).models
    assert found.compatible["home"].base_url == "http://h:8000/v1"
    assert found.compatible["home"].models == ("one", "two")
    assert list(found.compatible) == ["home", "lab"]
    assert found.order == ("lab", "OpenAI")


@pytest.mark.parametrize(
    "name",
    [
        "PARLEY_MODELS__COMPATIBLE__A@B__BASE_URL",
        "PARLEY_MODELS__COMPATIBLE__HOME__URL",
        "PARLEY_MODELS__COMPATIBLE__X",
    ],
)
def test_a_compatible_server_must_fit_its_form(name: str) -> None:
    with pytest.raises(InvalidInput, match="PARLEY_MODELS__COMPATIBLE"):
        settings(**{name: "http://h"})
    with pytest.raises(InvalidInput, match="PARLEY_MODELS__COMPATIBLE__HOME__BASE_URL"):
        settings(PARLEY_MODELS__COMPATIBLE__HOME__BASE_URL="")


@pytest.mark.parametrize(
    "address", ["http://ollama:11434", "http://my_host.test/v1", "http://b\u00fccher.test", "http://[::1]:80"]
)
def test_names_that_can_be_looked_up_are_addresses(address: str) -> None:
    assert checked_address(address) == address


@pytest.mark.parametrize(
    "make",
    [
        lambda address: ProviderKeys(openai_base_url=address),
        lambda address: CompatibleServer(base_url=address),
    ],
)
def test_the_error_of_a_refused_address_does_not_show_its_password(make: Callable[[str], object]) -> None:
    with pytest.raises(ValidationError) as raised:
        make("http://user:geheim@here.test")
    assert "geheim" not in str(raised.value)
    assert "geheim" not in repr(raised.value)
