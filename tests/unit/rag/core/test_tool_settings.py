from pathlib import Path
from typing import Any

import pytest

from rag.core.errors import InvalidInput
from rag.core.settings import Settings, load_settings

NO_FILE = Path("/nonexistent/.env")


def loaded(**variables: str) -> Settings:
    return load_settings(environ={f"PARLEY_TOOLS__{name}": text for name, text in variables.items()}, env_file=NO_FILE)


def test_servers_are_named_in_variables_and_their_headers_shown_by_nothing() -> None:
    settings = loaded(
        ENABLED="search_knowledge, weather",
        MCP_SERVERS__WEATHER__URL="https://tools.example/mcp",
        MCP_SERVERS__WEATHER__HEADERS='{"Authorization": "Bearer s3cret"}',
    )
    assert settings.tools.enabled == ("search_knowledge", "weather")
    server = settings.tools.mcp_servers["weather"]
    assert server.headers["Authorization"].get_secret_value() == "Bearer s3cret"
    assert "s3cret" not in repr(settings) + settings.model_dump_json()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"MCP_SERVERS__A__URL": "file:///etc/passwd"}, "http:// or https://"),
        ({"MCP_SERVERS__A__URL": "stdio"}, "http:// or https://"),
        ({"MCP_SERVERS__A__URL": "http://u:s3cret@host/mcp"}, "not in the address"),
        ({"MCP_SERVERS__A__URL": "http://host:99999/s3cret"}, "cannot be read"),
        ({"MCP_SERVERS__A__COMMAND": "rm"}, "URL: Field required"),
        ({"MCP_SERVERS__A": '{"url": "http://h/", "headers": {"X": "s3cret\\r\\nY: 1"}}'}, "one line"),
        ({"MCP_SERVERS__A": '{"url": "http://h/", "headers": {"X:": "s3cret"}}'}, "HEADERS"),
        ({"ROUNDS": "0"}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_used_is_refused_without_repeating_it(variables: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        loaded(**variables)
    assert words in caught.value.message
    assert "s3cret" not in caught.value.message
