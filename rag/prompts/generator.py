"""Small tasks for a chat model, each with its prompt file. Whoever calls decides on model, budget and fall-back."""

import re
from collections.abc import Sequence
from typing import Protocol

import orjson

from rag.core.errors import ModelBadOutput
from rag.core.types import TokenUsage, Turn
from rag.llm.base import ChatRequest, Sampling
from rag.prompts.loader import Prompts

_LEAD = re.compile(
    r"^(?:(?:refined|rewritten|full|standalone|latest)\s+)?(?:question|message)\s*[:：]\s*", re.IGNORECASE
)
_THOUGHT = re.compile(r"<think>.*?(?:</think>|$)", re.DOTALL)
_LONGEST_TURN_CHARS = 2000
_LONGEST_QUESTION_CHARS = 2000


class Chat(Protocol):
    """The part of a model bundle that is needed here."""

    async def chat(self, request: ChatRequest) -> tuple[str, TokenUsage]: ...


async def full_question(model: Chat, prompts: Prompts, turns: Sequence[Turn]) -> str:
    """The last user turn as a question that needs no conversation around it.

    Args:
        turns: The latest turns, the user's one last.
    Raises:
        ModelError: the model failed; ModelBadOutput if its reply is no question.
    """
    # As JSON strings: no text of theirs can pass for another turn, or for the end of the conversation.
    question = as_json(turns[-1].content[:_LONGEST_QUESTION_CHARS])
    history = "\n".join(f"{turn.role.upper()}: {as_json(turn.content[:_LONGEST_TURN_CHARS])}" for turn in turns[:-1])
    text = prompts["full_question"].render(history=history, question=question)
    request = ChatRequest(turns=(Turn(role="user", content=text),), sampling=Sampling(temperature=0.0, max_tokens=512))
    reply, _ = await model.chat(request)
    return _one_line(reply)


def as_json(text: str) -> str:
    """`text` as a JSON string. A surrogate without its other half, which JSON has no place for, becomes `?`."""
    return orjson.dumps(text.encode("utf-8", "replace").decode()).decode()


def _one_line(reply: str) -> str:
    lines = [line.strip() for line in _THOUGHT.sub("", reply).splitlines() if line.strip()]
    line = _LEAD.sub("", lines[0]).strip().strip("\"'“”`") if lines else ""
    if not line or len(line) > _LONGEST_QUESTION_CHARS:
        raise ModelBadOutput("The model did not reply with a question.", characters=len(line))
    return line
