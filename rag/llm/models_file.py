"""conf/models.yaml: providers, how each is reached, and what its models can do."""

from functools import cache
from typing import Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rag.core.errors import InvalidInput
from rag.core.provider_keys import VARIABLES
from rag.core.resources import conf_path
from rag.llm.base import Capabilities
from rag.llm.providers.base import Family
from rag.llm.providers.table import FAMILIES

Kind = Literal["chat", "embedding", "rerank", "image2text", "speech2text", "tts"]
Can = Literal["tools", "parallel_tools", "json_schema", "vision", "reasoning", "prompt_caching"]
COMPATIBLE_PROVIDER: Final = "OpenAI-API-Compatible"
"""The provider whose row servers take that have no row of their own."""
# The one in C takes a third of the time.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FIELDS: Final = frozenset(variable.field for variable in VARIABLES)


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelEntry(_Entry):
    """`dim` 0: not known before the first call. `can` None: judged by the model's name."""

    kind: Kind = "chat"
    context_tokens: int = Field(0, ge=0)
    max_output_tokens: int = Field(0, ge=0)
    can: frozenset[Can] | None = None
    fixed_sampling: bool = False
    dim: int = Field(0, ge=0, le=65536)
    voice: str = ""

    @model_validator(mode="after")
    def _chats_have_figures(self) -> "ModelEntry":
        if self.kind in ("chat", "image2text") and (self.context_tokens < 256 or self.max_output_tokens < 1):
            raise ValueError("a chat model needs context_tokens of 256 and max_output_tokens of 1 at least")
        return self

    def capabilities(self, model: str, family: Family) -> Capabilities:
        """What the model can do."""
        if self.can is None:
            return family.capabilities_of(model)
        return Capabilities(
            tools="tools" in self.can,
            parallel_tools="parallel_tools" in self.can,
            json_schema="json_schema" in self.can,
            vision="vision" in self.can,
            reasoning="reasoning" in self.can,
            prompt_caching=family.caching if "prompt_caching" in self.can else "none",
        )


class ProviderEntry(_Entry):
    """See the head of conf/models.yaml."""

    transport: Literal["lane", "responses", "litellm"]
    chat_transport: Literal["", "cohere", "interactions"] = ""
    family: str = "compatible"
    litellm_prefix: str
    litellm_embed_prefix: str = ""
    litellm_paths: dict[Kind, str] = Field(default_factory=dict)
    key: str = ""
    base_url: str = ""
    default_base_url: str = ""
    path: str = ""
    api_version: str = ""
    default_api_version: str = ""
    arguments: dict[str, str] = Field(default_factory=dict)
    needs: tuple[str, ...] = ()
    keyless: bool = False
    open_names: bool = False
    discover: Literal["", "openai", "ollama"] = ""
    tags: str = "LLM"
    rank: int = 0
    models: dict[str, ModelEntry] = Field(default_factory=dict)
    unlisted: ModelEntry

    @field_validator("family")
    @classmethod
    def _known_family(cls, value: str) -> str:
        if value not in FAMILIES:
            raise ValueError(f"no family {value!r}; there are {', '.join(FAMILIES)}")
        return value

    @model_validator(mode="after")
    def _known_fields(self) -> "ProviderEntry":
        named = {self.key, self.base_url, self.api_version, *self.needs, *self.arguments.values()} - {""}
        if not named <= _FIELDS:
            raise ValueError(f"no settings {', '.join(sorted(named - _FIELDS))} in rag/core/provider_keys.py")
        return self

    @property
    def strategy(self) -> Family:
        return FAMILIES[self.family]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of models it has, or can have where it names its models itself."""
        found = {entry.kind for entry in self.models.values()}
        if any("vision" in (entry.can or ()) for entry in self.models.values()):
            found.add("image2text")
        if not self.models:
            found = {kind for kind, tag in _TAGS.items() if tag in self.tags.split(",")}
        return tuple(kind for kind in _TAGS if kind in found)


_TAGS: Final[dict[Kind, str]] = {
    "chat": "LLM",
    "embedding": "TEXT EMBEDDING",
    "rerank": "TEXT RE-RANK",
    "image2text": "IMAGE2TEXT",
    "speech2text": "SPEECH2TEXT",
    "tts": "TTS",
}


_PLAIN: Final = ProviderEntry(
    transport="lane",
    litellm_prefix="openai",
    path="/v1",
    keyless=True,
    open_names=True,
    discover="openai",
    unlisted=ModelEntry(context_tokens=32768, max_output_tokens=4096),
)


class ModelsFile(_Entry):
    providers: dict[str, ProviderEntry]

    @property
    def compatible(self) -> ProviderEntry:
        """The row for servers that have none of their own."""
        return self.providers.get(COMPATIBLE_PROVIDER, _PLAIN)

    @field_validator("providers")
    @classmethod
    def _names(cls, value: dict[str, ProviderEntry]) -> dict[str, ProviderEntry]:
        if any("@" in name for name in value):
            raise ValueError("provider names hold no @")
        return value


@cache
def read_models_file() -> ModelsFile:
    """`conf/models.yaml`, read once.

    Raises:
        InvalidInput: the file does not fit its form.
    """
    try:
        return ModelsFile.model_validate(yaml.load(conf_path("models.yaml").read_text("utf-8"), Loader=_LOADER))
    except (ValidationError, yaml.YAMLError) as error:
        raise InvalidInput(f"conf/models.yaml cannot be used: {error}") from error
