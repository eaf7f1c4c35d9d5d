"""The families by the names that conf/models.yaml uses."""

from collections.abc import Mapping
from typing import Final

from rag.llm.providers import claude, compatible, gemini, mistral, openai
from rag.llm.providers.base import COMPATIBLE, Family

FAMILIES: Final[Mapping[str, Family]] = {
    "anthropic": claude.ANTHROPIC,
    "azure": openai.AZURE,
    "bedrock": claude.BEDROCK,
    "cohere": compatible.COHERE,
    "compatible": COMPATIBLE,
    "deepseek": compatible.DEEPSEEK,
    "gemini": gemini.GEMINI,
    "groq": compatible.GROQ,
    "local": compatible.LOCAL,
    "mistral": mistral.MISTRAL,
    "openai": openai.OPENAI,
    "xai": compatible.XAI,
    "zhipu": compatible.ZHIPU,
}
