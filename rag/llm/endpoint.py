"""Where a model of a provider is reached. Comes from settings alone; no request can change it."""

from dataclasses import dataclass, replace

from pydantic import SecretStr


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """`reasoning` models take `max_completion_tokens` and no sampling parameters."""

    base_url: str
    api_key: SecretStr
    litellm_prefix: str = "openai"
    model: str = ""
    reasoning: bool = False

    def for_model(self, model: str, *, reasoning: bool = False) -> "Endpoint":
        return replace(self, model=model, reasoning=reasoning)
