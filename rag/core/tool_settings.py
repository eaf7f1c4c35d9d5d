"""Settings of the tools that models may use, of research in several rounds, and of the web search."""

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

_MOST_HEADERS = 32
McpName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,23}$")]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")]


def _address(url: str) -> str:
    """The address, checked. Errors do not repeat it: there may be a secret in it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("the address or its port cannot be read") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("the address must start with http:// or https:// and name a host")
    if parts.username or parts.password:
        raise ValueError("give user and password as a header, not in the address")
    return url


class McpServer(BaseModel):
    """One MCP server. Headers are sent to its address only, and shown by nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(description="Address of the server's endpoint, `http(s)://host:port/mcp`.")
    headers: dict[HeaderName, SecretStr] = Field(
        default_factory=dict, max_length=_MOST_HEADERS, description="Headers of every request, such as a key."
    )

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        return _address(url)

    @field_validator("headers")
    @classmethod
    def _are_one_line(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in headers.items():
            text = value.get_secret_value()
            if not text.isprintable() or not text.isascii():
                raise ValueError(f"the header {name} must be one line of ASCII characters")
        return headers


class ToolSettings(BaseModel):
    """Which tools there are, and how far a turn may go with them."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    enabled: tuple[str, ...] = Field(
        (),
        description="Tools of chats that name none themselves (`tools` in their prompt settings): `search_knowledge`, "
        "`read_document`, names of MCP servers.",
    )
    rounds: int = Field(
        4, ge=1, le=20, description="Requests to the model in one answer; the last one is sent without tools."
    )
    timeout_s: float = Field(30.0, ge=0.1, le=600, description="Seconds the tools of one round may take.")
    result_tokens: int = Field(2000, ge=64, le=100_000, description="Tokens of one result; what is longer is cut.")
    mcp_servers: dict[McpName, McpServer] = Field(
        default_factory=dict,
        max_length=64,
        description="MCP servers over streamable HTTP, by names of your own: `url` and, if need be, `headers`. As "
        "variables: `PARLEY_TOOLS__MCP_SERVERS__<NAME>__URL`.",
    )
    mcp_list_s: float = Field(
        300.0,
        ge=1,
        le=86_400,
        description="Seconds that an MCP server's list of tools is used before it is asked again.",
    )

    @model_validator(mode="before")
    @classmethod
    def _names_are_lists(cls, data: Any) -> Any:
        """Names in a variable are parted by commas."""
        if isinstance(data, dict) and isinstance(data.get("enabled"), str):
            names = [name.strip() for name in data["enabled"].split(",")]
            return data | {"enabled": [name for name in names if name]}
        return data


class ResearchSettings(BaseModel):
    """How far an answer with `reasoning` goes before it is written from what was found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rounds: int = Field(5, ge=1, le=20, description="Rounds of searching and reading.")
    time_s: float = Field(90.0, ge=0.1, le=600, description="Seconds for all rounds together.")
    tokens: int = Field(60_000, ge=100, le=10_000_000, description="Tokens, in and out, for all rounds together.")


class WebSearchSettings(BaseModel):
    """The web search of chats that bring a key for it (`tavily_api_key`). Chats cannot set the address."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    base_url: str = Field(
        "https://api.tavily.com", description="Address of the service; the keys of chats are sent to it alone."
    )
    results: int = Field(5, ge=1, le=20, description="Pages that one search gives.")
    timeout_s: float = Field(10.0, ge=0.1, le=60, description="Seconds for one search; after them there are no pages.")

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        return _address(url).rstrip("/")
