"""Where and how a model of a provider is reached. Comes from settings or a tenant's login; no request can change it."""

from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr

from rag.llm.providers.base import COMPATIBLE, Family


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """Address, login and strategy of one model.

    `reasoning` models take `max_completion_tokens` and no sampling parameters. `arguments` are what LiteLLM wants
    besides address and key, such as the two keys and the region of Bedrock. With `api_version` the address has Azure's
    form. An empty `base_url` is the default of LiteLLM's adapter.
    """

    base_url: str
    api_key: SecretStr
    litellm_prefix: str = "openai"
    model: str = ""
    reasoning: bool = False
    family: Family = COMPATIBLE
    api_version: str = ""
    arguments: tuple[tuple[str, SecretStr], ...] = ()

    def for_model(self, model: str, *, reasoning: bool = False) -> "Endpoint":
        return replace(self, model=model, reasoning=reasoning)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must show in no error: the key, and the arguments for LiteLLM; not the `x` of a server without keys."""
        values = [self.api_key.get_secret_value(), *(value.get_secret_value() for _, value in self.arguments)]
        return tuple(value for value in values if len(value) > 5)

    @property
    def secret(self) -> str:
        """The first of `secrets`, or nothing."""
        return next(iter(self.secrets), "")

    def url(self, path: str) -> str:
        """The address of an operation, such as `/chat/completions`, of a server that speaks OpenAI's protocol."""
        base = self.base_url.rstrip("/")
        if self.api_version:
            # Azure names the deployment in the address, but for Responses, which have it in the body alone.
            place = "" if path == "/responses" else f"/deployments/{quote(self.model)}"
            return f"{base}/openai{place}{path}?api-version={quote(self.api_version)}"
        return base + path

    def headers(self) -> dict[str, str]:
        """The headers that log in there; none without a key."""
        key = self.api_key.get_secret_value()
        if not key:
            return {}
        return {"api-key": key} if self.api_version else {"Authorization": f"Bearer {key}"}

    def litellm_arguments(self) -> dict[str, Any]:
        """Model, address and login as LiteLLM's functions take them."""
        found: dict[str, Any] = {"model": f"{self.litellm_prefix}/{self.model}"}
        if self.base_url:
            found["api_base"] = self.base_url
        if self.litellm_prefix == "bedrock":
            # What is not said, the library takes from the environment: a bearer token in place of the login's keys,
            # and an address that it prefers to `api_base`.
            found |= {"api_key": "", "aws_session_token": ""}
            found |= {"aws_bedrock_runtime_endpoint": self.base_url} if self.base_url else {}
        if self.api_key.get_secret_value():
            found["api_key"] = self.api_key.get_secret_value()
        return found | {name: value.get_secret_value() for name, value in self.arguments}
