"""Google's Gemini. LiteLLM converts; schemas are a subset of OpenAPI's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from rag.llm.providers.base import Family, Message, without_empty


@dataclass(frozen=True, kw_only=True, slots=True)
class GeminiFamily(Family):
    """Takes no message without a part."""

    def messages(self, messages: Sequence[Message], *, has_tools: bool) -> list[dict[str, Any]]:
        return without_empty(messages)


GEMINI: Final = GeminiFamily(
    name="Gemini",
    tool_name=r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}",
    refused=frozenset(
        {"contains", "dependentRequired", "dependentSchemas", "else", "if", "not", "patternProperties", "then"}
    ),
    dropped=frozenset({"$comment", "$id", "$schema", "examples", "propertyNames", "readOnly", "writeOnly"}),
    caching="automatic",
)
