"""docs/recordings.md: how many recorded replies come out of the model stack as they were recorded, and the others."""

import asyncio
import sys
from collections import Counter
from pathlib import Path

from rag.llm import litellm_port
from tests.integration.rag.llm.recordings import FOLDER, Recording, recordings
from tests.integration.rag.llm.replaying import Part, replaying

PAGE = Path(__file__).resolve().parents[4] / "docs" / "recordings.md"

PROTOBUF = "xAI's gRPC: binary messages, not HTTP replies; LiteLLM and the stack speak xAI's HTTP API"
REASONS = {
    "pydantic_ai/test_xai/test_xai_builtin_mcp_server_tool_stream.xai.yaml": PROTOBUF,
    "pydantic_ai/test_xai/test_xai_builtin_web_search_tool_stream.xai.yaml": PROTOBUF,
    "pydantic_ai/test_xai/test_xai_stream_events_with_reasoning.xai.yaml": PROTOBUF,
    "vercel/anthropic/skills/anthropic-skill-version-create.json": "No model's reply: a skill was stored",
    "vercel/openai/image/openai-image.json": "A picture that was drawn: no part of the stack draws",
    "vercel/groq/groq-transcription-text.json": "Plain text, which Groq sends on demand; the stack asks for JSON",
}
"""Why a recording does not come out equal. May only shrink: the test fails for a recording that is not listed here and
does not match, and for a listed one that does."""

HEAD = """# Recorded replies

Replies of providers, recorded by others (`../shared/data/sse`), are sent again over HTTP in the providers' own
framing, and read through the model layer: the provider's adapter under an `LLMBundle`, streams as streams, whole
replies in one piece. Text, tool calls, reasoning, usage (also in the usage row) and finish reason must be what the
recording says; a parser written from the providers' formats reads that, independently of the stack
(`tests/integration/rag/llm/recorded_truth.py` has the rules of comparison). `python -m
tests.integration.rag.llm.recordings` writes this page; `tests/integration/rag/llm/test_recordings.py` guards it.
"""
_NAMES = {
    "chat": "OpenAI chat completions: Alibaba, Azure, DeepSeek, Groq, Mistral, Moonshot, OpenAI, OpenRouter, xAI",
    "responses": "OpenAI Responses: Azure, DeepSeek, LM Studio, OpenAI, OpenRouter, xAI",
    "anthropic": "Anthropic messages",
    "gemini": "Gemini generateContent",
    "bedrock": "Bedrock converse",
    "cohere": "Cohere chat, version 2",
    "completion": "OpenAI legacy completions",
    "embedding": "OpenAI embeddings",
    "cohere-embedding": "Cohere embeddings",
    "speech": "Transcriptions: Groq, Mistral",
    "interactions": "Gemini interactions",
    "xai-grpc": "xAI gRPC",
    "image": "OpenAI image generation",
    "skill": "Anthropic skills",
}


def mismatches(parts: list[Part]) -> dict[str, str]:
    """What is wrong, by name of recording; a recording matches where all its replies do."""
    found: dict[str, str] = {}
    for part in parts:
        if part.wrong:
            found.setdefault(part.recording.name, part.wrong)
    return found


def page(recorded: list[Recording], wrong: dict[str, str]) -> str:
    matching = [each for each in recorded if each.name not in wrong]
    lines = [HEAD, f"**{len(matching)} of {len(recorded)} recordings match.**", ""]
    lines += ["| format | recordings | match |", "|---|---|---|"]
    every = Counter(each.form for each in recorded)
    matched = Counter(each.form for each in matching)
    lines += [f"| {name} | {every[form]} | {matched[form]} |" for form, name in _NAMES.items() if every[form]]
    lines += ["", "## The others", "", "| recording | why |", "|---|---|"]
    lines += [f"| `{name}` | {REASONS.get(name, 'not looked at yet')} |" for name in sorted(wrong)]
    return "\n".join(lines) + "\n"


async def replayed() -> tuple[list[Recording], dict[str, str]]:
    """All recordings, and what is wrong with those that do not match."""
    recorded = await asyncio.to_thread(recordings)
    async with replaying(recorded) as replay:
        parts = await replay.run()
    await litellm_port.close_clients()
    return recorded, mismatches(parts)


def main() -> None:
    """Replay, write the page, and tell what does not match."""
    if not FOLDER.is_dir():
        sys.exit(f"There are no recordings at {FOLDER}.")
    recorded, wrong = asyncio.run(replayed())
    PAGE.write_text(page(recorded, wrong), "utf-8")
    for name, why in wrong.items():
        print(f"{name}: {REASONS.get(name) or why}")
    print(f"{len(recorded) - len(wrong)} of {len(recorded)} recordings match.")
