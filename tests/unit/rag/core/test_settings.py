"""Settings: sources, their order, and what is refused."""

from pathlib import Path

import pytest

from rag.core.errors import InvalidInput
from rag.core.settings import load_settings

NO_FILE = Path("/nonexistent/.env")


def test_defaults() -> None:
    settings = load_settings(environ={}, env_file=NO_FILE)
    assert settings.server.port == 9380
    assert settings.server.host == "127.0.0.1"
    assert settings.providers.openai_api_key is None


def test_environment_nests_and_beats_yaml_and_command_line_beats_both(tmp_path: Path) -> None:
    config = tmp_path / "parley.yaml"
    config.write_text("server: {port: 1111, host: 127.0.0.2}\nlog: {level: debug}\n")
    environ = {"PARLEY_CONFIG": str(config), "PARLEY_SERVER__PORT": "2222"}
    settings = load_settings({"server": {"host": "127.0.0.3", "port": None}}, environ=environ, env_file=NO_FILE)
    assert (settings.server.port, settings.server.host, settings.log.level) == (2222, "127.0.0.3", "debug")


def test_dotenv_is_weaker_than_the_environment(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("OPENAI_API_KEY=from-file\nPARLEY_SERVER__PORT=3333\n")
    settings = load_settings(environ={"PARLEY_SERVER__PORT": "4444"}, env_file=env_file)
    assert settings.server.port == 4444
    assert settings.providers.openai_api_key is not None
    assert settings.providers.openai_api_key.get_secret_value() == "from-file"


def test_keys_are_never_shown() -> None:
    settings = load_settings(environ={"OPENAI_API_KEY": "sk-secret-value"}, env_file=NO_FILE)
    assert "sk-secret-value" not in repr(settings)
    assert "sk-secret-value" not in settings.model_dump_json()


def test_passwords_leave_the_addresses() -> None:
    environ = {
        "PARLEY_ROWS__URL": "mysql://parley:p%40ss-word@db.example:3307/rows",
        "PARLEY_INDEX__URL": "https://elastic:geheim@one:9200, https://two:9200/path",
    }
    settings = load_settings(environ=environ, env_file=NO_FILE)
    assert settings.rows.url == "mysql://parley@db.example:3307/rows"
    assert settings.rows.password is not None
    assert settings.rows.password.get_secret_value() == "p@ss-word"
    assert settings.index.url == "https://one:9200,https://two:9200/path"
    assert settings.index.user == "elastic"
    assert settings.index.password is not None
    assert settings.index.password.get_secret_value() == "geheim"
    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert "geheim" not in shown
        assert "ss-word" not in shown


def test_a_password_of_its_own_beats_the_one_in_the_address() -> None:
    environ = {"PARLEY_ROWS__URL": "mysql://u:old@[::1]/rows", "PARLEY_ROWS__PASSWORD": "new"}
    rows = load_settings(environ=environ, env_file=NO_FILE).rows
    assert rows.url == "mysql://u@[::1]/rows"
    assert rows.password is not None
    assert rows.password.get_secret_value() == "new"


@pytest.mark.parametrize(
    "environ",
    [
        {"PARLEY_ROWS__URL": "postgres://u:geheim@host/rows"},
        {"PARLEY_ROWS__URL": "mysql://u:geheim@host"},
        {"PARLEY_ROWS__URL": "mysql://u:geheim@host/a/b"},
        {"PARLEY_ROWS__URL": "mysql://u:geheim@host:port/rows"},
        {"PARLEY_ROWS__URL": "mysql://u:geheim@host:99999/rows"},
        {"PARLEY_ROWS__URL": "mysql://u:geheim@[::1/rows"},
        {"PARLEY_ROWS__URL": "mysql://:geheim@host/rows"},
        {"PARLEY_ROWS__URL": "mysql://u:geheim@host/rows?ssl=1"},
        {"PARLEY_INDEX__URL": "u:geheim@host:9200"},
        {"PARLEY_INDEX__URL": "http://u:geheim@one,ftp://two"},
        {"PARLEY_INDEX__URL": "http://u:geheim@one?x=1"},
        {"PARLEY_INDEX__URL": "http://u:geheim@one", "PARLEY_INDEX__API_KEY": "geheim"},
        {"PARLEY_INDEX__PREFIX": "Parley"},
        {"PARLEY_INDEX__PREFIX": "a*"},
    ],
)
def test_addresses_that_cannot_be_used_are_refused_without_repeating_them(environ: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match="PARLEY_(ROWS|INDEX)") as raised:
        load_settings(environ=environ, env_file=NO_FILE)
    assert "geheim" not in str(raised.value)


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"PARLEY_SERVER__PRT": "1"}, "PARLEY_SERVER__PRT"),
        ({"PARLEY_SERVER__PORT": "99999"}, "PARLEY_SERVER__PORT"),
        ({"PARLEY_SERVER__PORT": "x"}, "PARLEY_SERVER__PORT"),
        ({"PARLEY_NONSENSE": "1"}, "PARLEY_NONSENSE"),
        ({"PARLEY_SERVER": "1", "PARLEY_SERVER__PORT": "2"}, "server"),
        ({"PARLEY_CONFIG": "/nonexistent/x.yaml"}, "PARLEY_CONFIG"),
    ],
)
def test_what_cannot_be_used_is_named(environ: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        load_settings(environ=environ, env_file=NO_FILE)


def test_settings_cannot_be_changed() -> None:
    settings = load_settings(environ={}, env_file=NO_FILE)
    with pytest.raises(ValueError, match="frozen"):
        settings.server.port = 1  # type: ignore[misc]  # that it is refused is the point
