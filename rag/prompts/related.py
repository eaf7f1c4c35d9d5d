"""Questions that may come next after a question."""

import re
from typing import Final

from rag.core.types import Turn
from rag.llm.base import ChatRequest, Sampling
from rag.prompts.generator import Chat
from rag.prompts.loader import Prompts

_THOUGHT: Final = re.compile(r"<think>.*?(?:</think>|$)", re.DOTALL)
_NUMBERED: Final = re.compile(r"[0-9]\. (.*\S)")
_LONGEST_QUESTION_CHARS: Final = 2000
_LONGEST_INDUSTRY_CHARS: Final = 500
_LONGEST_RELATED_CHARS: Final = 500
_SPACE: Final = re.compile(r"\s+")


async def related_questions(model: Chat, prompts: Prompts, question: str, industry: str = "") -> list[str]:
    """Questions related to `question`, at most nine, in the order of the model's reply.

    Only lines that begin with one digit, a full stop and a space count: a tenth is left out, as the contract has it.

    Args:
        industry: The field that the questions should belong to; empty leaves it open.
    Raises:
        ModelError: the model failed. A reply without such lines is an empty list.
    """
    field = _SPACE.sub(" ", industry).strip()[:_LONGEST_INDUSTRY_CHARS]
    wish = f"The questions should belong to this field (data as well): {field}" if field else ""
    text = prompts["related"].render(question=question[:_LONGEST_QUESTION_CHARS], industry=wish)
    request = ChatRequest(turns=(Turn(role="user", content=text),), sampling=Sampling(temperature=0.9, max_tokens=512))
    reply, _ = await model.chat(request)
    return _questions(reply)


def _questions(reply: str) -> list[str]:
    found = (_NUMBERED.fullmatch(line.strip()) for line in _THOUGHT.sub("", reply).splitlines())
    texts = (match[1][:_LONGEST_RELATED_CHARS] for match in found if match is not None)
    return list(dict.fromkeys(texts))
