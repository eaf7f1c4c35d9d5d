"""Providers and servers that speak OpenAI's chat completions with small differences."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from rag.llm.providers.base import Family


@dataclass(frozen=True, kw_only=True, slots=True)
class XaiFamily(Family):
    """Its reasoning models turn down penalties and stop words."""

    def fields(self, fields: Mapping[str, Any], *, model: str = "", reasoning: bool = False) -> dict[str, Any]:
        found = Family.fields(self, fields, model=model, reasoning=reasoning)
        if reasoning:
            for name in ("frequency_penalty", "presence_penalty", "stop"):
                found.pop(name, None)
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class ZhipuFamily(Family):
    """Lets models choose tools for themselves only, takes one stop word, and temperatures up to 1."""

    def fields(self, fields: Mapping[str, Any], *, model: str = "", reasoning: bool = False) -> dict[str, Any]:
        found = Family.fields(self, fields, model=model, reasoning=reasoning)
        if found.get("tool_choice") == "none":
            found.pop("tools", None)
        if found.get("tool_choice") != "auto":
            found.pop("tool_choice", None)
        if isinstance(found.get("stop"), list):
            found["stop"] = found["stop"][:1]
        if isinstance(found.get("temperature"), int | float):
            found["temperature"] = min(found["temperature"], 1.0)
        return found


GROQ: Final = Family(name="Groq", unsent=frozenset({"logit_bias"}), caching="automatic")
DEEPSEEK: Final = Family(
    name="DeepSeek",
    # A thinking model wants its thoughts back within a round of tools, else it answers 400.
    gives_reasoning_back=True,
    # It knows `json_object` alone.
    json_schema=False,
    unsent=frozenset({"logit_bias", "service_tier", "verbosity"}),
    caching="automatic",
)
XAI: Final = XaiFamily(name="xAI", unsent=frozenset({"logit_bias"}), caching="automatic")
ZHIPU: Final = ZhipuFamily(
    name="Zhipu",
    renamed=(("max_completion_tokens", "max_tokens"),),
    unsent=frozenset(
        {"frequency_penalty", "logit_bias", "parallel_tool_calls", "presence_penalty", "seed", "service_tier", "user"}
    ),
    json_schema=False,
    caching="automatic",
)
COHERE: Final = Family(
    name="Cohere",
    tool_name=r"[a-zA-Z_][a-zA-Z0-9_]{0,63}",
    unsent=frozenset({"logit_bias", "parallel_tool_calls", "service_tier", "user", "verbosity"}),
)
LOCAL: Final = Family(name="the local server", unsent=frozenset({"service_tier", "verbosity"}), caching="automatic")
"""Ollama, vLLM and LM Studio: their own cache of prefixes works unasked."""
