"""Mistral's API: OpenAI's form, but it turns down fields it does not know, and ids of calls of another form."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import xxhash

from rag.llm.providers.base import Family, Message, without_empty

_ITS_ID: Final = re.compile(r"[a-zA-Z0-9]{9}")
_LETTERS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, kw_only=True, slots=True)
class MistralFamily(Family):
    """Ids of calls have nine letters or digits: those that another provider gave are made anew, the same each time."""

    def messages(self, messages: Sequence[Message], *, has_tools: bool) -> list[dict[str, Any]]:
        found = without_empty(messages)
        for message in found:
            if message.get("tool_calls"):
                message["tool_calls"] = [dict(call) | {"id": its_id(str(call["id"]))} for call in message["tool_calls"]]
            if "tool_call_id" in message:
                message["tool_call_id"] = its_id(str(message["tool_call_id"]))
        return found

    def fields(self, fields: Mapping[str, Any], *, model: str = "", reasoning: bool = False) -> dict[str, Any]:
        found = Family.fields(self, fields, model=model, reasoning=reasoning)
        if found.get("tool_choice") == "required":
            found["tool_choice"] = "any"
        return found


def its_id(call_id: str) -> str:
    """An id that Mistral takes: `call_id` itself, or nine letters and digits made from it."""
    if _ITS_ID.fullmatch(call_id):
        return call_id
    number, letters = xxhash.xxh64_intdigest(call_id.encode("utf-8", "replace")), []
    for _ in range(9):
        number, rest = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[rest])
    return "".join(letters)


MISTRAL: Final = MistralFamily(
    name="Mistral",
    # As LiteLLM does it: with these it answers 422.
    dropped=frozenset({"$id", "$schema", "additionalProperties"}),
    # It sends its usage unasked, and turns down the question.
    asks_usage=False,
    renamed=(("seed", "random_seed"), ("max_completion_tokens", "max_tokens")),
    unsent=frozenset({"logit_bias", "service_tier", "stream_options", "user", "verbosity"}),
)
