"""Names of sessions: a few words that tell one conversation from the others."""

import re
from collections.abc import Sequence

from rag.core.errors import ModelBadOutput
from rag.core.types import Turn
from rag.llm.base import ChatRequest, Sampling
from rag.prompts.generator import Chat
from rag.prompts.loader import Prompts
from rag.prompts.summaries import fenced

LONGEST_TITLE_CHARS = 80
_RULED_CHARS = 60
_READ_CHARS = 1000
_REPLY_TOKENS = 1000
"""A title takes few of them: a model that thinks first takes the others."""
_THOUGHT = re.compile(r"<think>.*?(?:</think>|$)", re.DOTALL)
_LEAD = re.compile(r"^(?:(?:session|conversation)\s+)?title\s*[:：]\s*", re.IGNORECASE)
_AROUND = "\"'“”‘’«»`*#_ \t"
_ENDS = " .。,;:，；："
_POLITE = re.compile(
    r"^(?:(?:hi|hello|hey|please|thanks|ok(?:ay)?)\b[\s,.!]*|(?:can|could|would|will)\s+you\s+(?:please\s+)?"
    r"(?:tell|show|explain\s+to|give)\s+me\s+|(?:tell|show|give)\s+me\s+)+",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+|\n+")


async def session_title(model: Chat, prompts: Prompts, turns: Sequence[Turn]) -> str:
    """A title for the conversation that begins with `turns`, 1 to 80 characters on one line.

    Raises:
        ModelError: the model failed; ModelBadOutput if its reply is no title.
    """
    told = "\n\n".join(f"{turn.role.upper()}: {turn.content[:_READ_CHARS]}" for turn in turns)
    text = prompts["session_title"].render(conversation=fenced(told))
    sampling = Sampling(temperature=0.0, max_tokens=_REPLY_TOKENS)
    reply, _ = await model.chat(ChatRequest(turns=(Turn(role="user", content=text),), sampling=sampling))
    lines = [line.strip(_AROUND) for line in _THOUGHT.sub("", reply).splitlines() if line.strip(_AROUND)]
    title = _LEAD.sub("", lines[0]).strip(_AROUND).rstrip(_ENDS) if lines else ""
    if not title:
        raise ModelBadOutput("The model did not reply with a title.")
    return _shortened(" ".join(title.split()), LONGEST_TITLE_CHARS)


def ruled_title(question: str) -> str:
    """A title from the question's own words, without a model; empty if it has none."""
    asked = question.strip()[:_READ_CHARS]
    sentence = _SENTENCE_END.split(_POLITE.sub("", asked) or asked)[0]
    title = _shortened(" ".join(sentence.split()).strip(_AROUND).rstrip(_ENDS + "?!？！"), _RULED_CHARS)
    return title[:1].upper() + title[1:]


def _shortened(text: str, most: int) -> str:
    """At most `most` characters, whole words where there are any."""
    if len(text) <= most:
        return text
    cut = text[: most - 1]
    whole = cut.rpartition(" ")[0]
    return (whole if len(whole) > most // 2 else cut).rstrip(_ENDS) + "…"
