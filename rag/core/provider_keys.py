"""Keys and addresses of model providers, by their usual names: one table, read by `rag/core/settings.py`.

A row here is a field of `ProviderKeys` (its name in small letters) and a variable of the environment. Which provider
uses it says conf/models.yaml.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, create_model


@dataclass(frozen=True, slots=True)
class Variable:
    """`also` are other names of the same; the first that is set counts."""

    name: str
    kind: Literal["key", "address", "text"]
    meaning: str
    also: tuple[str, ...] = ()

    @property
    def field(self) -> str:
        return self.name.lower()


VARIABLES: Final = (
    Variable("OPENAI_API_KEY", "key", "key of OpenAI or of a compatible server."),
    Variable("OPENAI_BASE_URL", "address", "address of an OpenAI-compatible server.", ("OPENAI_API_BASE",)),
    Variable("AZURE_API_KEY", "key", "key of an Azure OpenAI resource.", ("AZURE_OPENAI_API_KEY",)),
    Variable(
        "AZURE_API_BASE", "address", "its address: `https://<name>.openai.azure.com`.", ("AZURE_OPENAI_ENDPOINT",)
    ),
    Variable("AZURE_API_VERSION", "text", "version of Azure's API; empty: `2024-10-21`."),
    Variable("ANTHROPIC_API_KEY", "key", "key of Anthropic."),
    Variable("ANTHROPIC_API_BASE", "address", "another address for Anthropic's API.", ("ANTHROPIC_BASE_URL",)),
    Variable("GEMINI_API_KEY", "key", "key of Google's Gemini.", ("GOOGLE_API_KEY",)),
    Variable("GEMINI_API_BASE", "address", "another address for Gemini's API, with its version."),
    Variable("MISTRAL_API_KEY", "key", "key of Mistral."),
    Variable("MISTRAL_API_BASE", "address", "another address for Mistral's API."),
    Variable("COHERE_API_KEY", "key", "key of Cohere.", ("CO_API_KEY",)),
    Variable("COHERE_API_BASE", "address", "another address for Cohere's API, without its version."),
    Variable("GROQ_API_KEY", "key", "key of Groq."),
    Variable("GROQ_API_BASE", "address", "another address for Groq's API."),
    Variable("DEEPSEEK_API_KEY", "key", "key of DeepSeek."),
    Variable("DEEPSEEK_API_BASE", "address", "another address for DeepSeek's API."),
    Variable("XAI_API_KEY", "key", "key of xAI."),
    Variable("XAI_API_BASE", "address", "another address for xAI's API."),
    Variable("AWS_ACCESS_KEY_ID", "key", "key id for Amazon Bedrock."),
    Variable("AWS_SECRET_ACCESS_KEY", "key", "secret key for Amazon Bedrock."),
    Variable("AWS_SESSION_TOKEN", "key", "session token for Amazon Bedrock, with temporary keys."),
    Variable("AWS_REGION_NAME", "text", "region of Amazon Bedrock; without it there is no Bedrock.", ("AWS_REGION",)),
    Variable("AWS_BEDROCK_RUNTIME_ENDPOINT", "address", "another address for Bedrock's runtime."),
    Variable("OPENROUTER_API_KEY", "key", "key of OpenRouter."),
    Variable("OPENROUTER_API_BASE", "address", "another address for OpenRouter's API."),
    Variable("AIMLAPI_API", "key", "key of AI/ML API.", ("AIML_API_KEY",)),
    Variable("AIML_API_BASE", "address", "another address for AI/ML API."),
    Variable("ZHIPUAI_API_KEY", "key", "key of Zhipu, `open.bigmodel.cn`."),
    Variable("ZHIPUAI_API_BASE", "address", "another address for Zhipu's API."),
    Variable("ZAI_API_KEY", "key", "key of Z.AI, Zhipu's service for other countries; its keys are no keys of Zhipu."),
    Variable("ZAI_API_BASE", "address", "another address for Z.AI's API."),
    Variable("OLLAMA_API_BASE", "address", "address of Ollama, such as `http://127.0.0.1:11434`."),
    Variable("OLLAMA_API_KEY", "key", "key of Ollama, where it wants one."),
    Variable("HOSTED_VLLM_API_BASE", "address", "address of vLLM, with `/v1`.", ("VLLM_API_BASE",)),
    Variable("HOSTED_VLLM_API_KEY", "key", "key of vLLM, where it wants one.", ("VLLM_API_KEY",)),
    Variable("LM_STUDIO_API_BASE", "address", "address of LM Studio, with `/v1`."),
    Variable("LM_STUDIO_API_KEY", "key", "key of LM Studio, where it wants one."),
)


def checked_address(text: str) -> str:
    """`text`, if it is empty or can be the base of a provider's addresses.

    Raises:
        ValueError: it cannot. The message does not repeat it: there may be a password in it.
    """
    if not text:
        return text
    try:
        parts = urlsplit(text)
        port = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError:  # UnicodeError is one: a host with an empty or too long part cannot be looked up.
        raise ValueError("the address, its host or its port cannot be read") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not text.isprintable():
        raise ValueError("the address must start with http:// or https:// and name a host")
    if "@" in parts.netloc or parts.query or parts.fragment or any(c.isspace() for c in text):
        raise ValueError("the address may hold no user, password, question mark, hash or space")
    return text.rstrip("/")


Address = Annotated[str, AfterValidator(checked_address)]


class CompatibleServer(BaseModel):
    """A server that speaks OpenAI's protocol, under a name of the operator's choice."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    base_url: Address = Field(min_length=1)
    api_key: SecretStr | None = None
    models: tuple[str, ...] = ()
    context_tokens: int = Field(32768, ge=256)
    max_output_tokens: int = Field(4096, ge=1)


class _Keys(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def _field(variable: Variable) -> tuple[Any, Any]:
    names = " or ".join((variable.name, *variable.also))
    description = f"{names}: {variable.meaning}"
    if variable.kind == "key":
        return SecretStr | None, Field(None, description=description)
    return (Address if variable.kind == "address" else str), Field("", description=description)


_FIELDS: dict[str, Any] = {variable.field: _field(variable) for variable in VARIABLES}
_FROM_TABLE: Any = create_model("_FromTable", __base__=_Keys, **_FIELDS)


class ProviderKeys(_FROM_TABLE):
    """Keys and addresses of model providers, by their usual names; the keys are shown by nothing."""

    def text(self, field: str) -> str:
        """The value of a field, a key's in clear; empty where it is not set."""
        value = getattr(self, field) if field else ""
        return value.get_secret_value() if isinstance(value, SecretStr) else value or ""


def keys_in(variables: Mapping[str, str]) -> dict[str, str]:
    """The fields of `ProviderKeys` that `variables` of an environment set."""
    found: dict[str, str] = {}
    for variable in VARIABLES:
        value = next((variables[name] for name in (variable.name, *variable.also) if variables.get(name)), "")
        if value:
            found[variable.field] = value
    return found


def names_set(keys: ProviderKeys) -> list[str]:
    """Names of the variables of `keys` that are set."""
    return [variable.name for variable in VARIABLES if keys.text(variable.field)]
