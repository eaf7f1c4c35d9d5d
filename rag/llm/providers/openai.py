"""OpenAI and Azure OpenAI."""

from dataclasses import replace
from typing import Final

from rag.llm.providers.base import Family

OPENAI: Final = Family(
    name="OpenAI",
    # "schema must have type 'object' and not have 'oneOf'/'anyOf'/'allOf'/'enum'/'not' at the top level".
    refused_at_root=frozenset({"allOf", "anyOf", "enum", "not", "oneOf"}),
    max_description_chars=1024,
    strict_tools=True,
    fixed_sampling=True,
    caching="automatic",
)
AZURE: Final = replace(OPENAI, name="Azure OpenAI")
