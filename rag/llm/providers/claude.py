"""Anthropic's Messages, and Amazon Bedrock's Converse, which mostly serves the same models. LiteLLM converts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rag.llm.base import Capabilities
from rag.llm.providers.base import Family, Message, without_empty


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaudeFamily(Family):
    """Takes no empty text, and no history with tool calls unless tools are offered; LiteLLM turns down the latter."""

    def messages(self, messages: Sequence[Message], *, has_tools: bool) -> list[dict[str, Any]]:
        # `super()` without arguments does not work in a dataclass with slots.
        told = Family.messages(self, without_empty(messages), has_tools=has_tools)
        return [message | {"content": "(nothing)"} if _says_nothing(message) else message for message in told]

    def maybe_claude(self, model: str) -> bool:
        return True


@dataclass(frozen=True, kw_only=True, slots=True)
class BedrockFamily(ClaudeFamily):
    def capabilities_of(self, model: str) -> Capabilities:
        """Only Anthropic's and Amazon's own models have their prompts cached there."""
        known = any(vendor in model for vendor in ("anthropic.", "amazon.nova"))
        found = Family.capabilities_of(self, model)
        return found if known else _without_caching(found)

    def maybe_claude(self, model: str) -> bool:
        # The name of an inference profile does not say whose model it is.
        return model.startswith("arn:") or Family.maybe_claude(self, model)


def _says_nothing(message: Mapping[str, Any]) -> bool:
    return message["role"] in ("user", "tool") and not message.get("content")


def _without_caching(found: Capabilities) -> Capabilities:
    return Capabilities(
        tools=found.tools,
        parallel_tools=found.parallel_tools,
        json_schema=found.json_schema,
        vision=found.vision,
        reasoning=found.reasoning,
    )


ANTHROPIC: Final = ClaudeFamily(
    name="Anthropic",
    # "input_schema does not support oneOf, allOf, or anyOf at the top level".
    refused_at_root=frozenset({"allOf", "anyOf", "oneOf"}),
    calls_need_tools=True,
    caching="marked",
)
BEDROCK: Final = BedrockFamily(
    name="Amazon Bedrock",
    refused_at_root=frozenset({"allOf", "anyOf", "oneOf"}),
    # Its models take no address or anchor of a schema.
    dropped=frozenset({"$id", "$schema"}),
    calls_need_tools=True,
    caching="marked",
)
