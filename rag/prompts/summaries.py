"""Notes of a conversation that take the place of its older turns."""

import re
from collections.abc import Callable, Sequence

from rag.core.errors import ModelBadOutput
from rag.core.types import Turn
from rag.llm.base import ChatRequest, Sampling
from rag.nlp.budget import cut_text
from rag.prompts.generator import Chat
from rag.prompts.loader import Prompts

SUMMARY_TOKENS = 500
"""The most that notes take of a prompt."""
_REPLY_TOKENS = 2000
"""What a model may write, its thinking included."""
_LONGEST_TURN_CHARS = 2000
_THOUGHT = re.compile(r"<think>.*?(?:</think>|$)", re.DOTALL)
_FENCE = re.compile(r"<(?=\s*+/?\s*+(?:notes|conversation)\b)", re.IGNORECASE)


async def summary(
    model: Chat, prompts: Prompts, turns: Sequence[Turn], *, before: str, most_chars: int, count: Callable[[str], int]
) -> str:
    """Topics, decisions and open questions of `before` and `turns`, in at most `SUMMARY_TOKENS` tokens.

    Args:
        before: The notes of what was said before `turns`.
        most_chars: Of `turns`, their end; more is not read.
        count: Tokens of a text.
    Raises:
        ModelError: the model failed; ModelBadOutput if it said nothing.
    """
    told = "\n\n".join(f"{turn.role.upper()}: {turn.content[:_LONGEST_TURN_CHARS]}" for turn in turns)
    text = prompts["summary"].render(before=fenced(before), history=fenced(told[-most_chars:]))
    sampling = Sampling(temperature=0.0, max_tokens=_REPLY_TOKENS)
    reply, _ = await model.chat(ChatRequest(turns=(Turn(role="user", content=text),), sampling=sampling))
    notes = _THOUGHT.sub("", reply).strip()
    if not notes:
        raise ModelBadOutput("The model did not sum up the conversation.")
    return cut_text(notes, SUMMARY_TOKENS, count).rstrip()


def fenced(text: str) -> str:
    """`text` that cannot end the fence around it, or begin another."""
    return _FENCE.sub("‹", text)
