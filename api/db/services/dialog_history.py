"""The conversation before a question: what of it a search, and what of it a prompt is made of."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import structlog

from api.db.services.llm_service import LLMBundle
from rag.core.errors import ModelError
from rag.core.types import Turn
from rag.nlp import citation
from rag.prompts.generator import full_question
from rag.prompts.loader import Prompts

log = structlog.get_logger()

_LIMIT_S = 15.0
_REFINED_USER_TURNS = 3
_LONGEST_REFINED_CHARS = 4000
_PICTURE = "(A picture, which you cannot see.)"


def cleaned(turn: Turn, *, sees: bool = True) -> Turn:
    """A turn of the history: marks of earlier answers would point into other sources, and a model that was chosen
    since may not see pictures; the one that is asked about is another matter."""
    if turn.role == "assistant":
        return replace(turn, content=citation.without_marks(turn.content))
    if turn.pictures and not sees:
        return replace(turn, content=f"{turn.content}\n{_PICTURE}".strip(), pictures=())
    return turn


def can_be_refined(turns: Sequence[Turn]) -> bool:
    """Whether the last turn may need the ones before to be understood."""
    return sum(turn.role == "user" for turn in turns) > 1 and bool(turns[-1].content.strip())


async def refined(bundle: LLMBundle, prompts: Prompts, turns: Sequence[Turn], *, message_id: str) -> str:
    """The last turn as a question complete in itself; as asked where the model does not make it so in time."""
    user_turns = [index for index, turn in enumerate(turns) if turn.role == "user"]
    recent = turns[user_turns[-_REFINED_USER_TURNS:][0] :]
    told = [cleaned(replace(turn, content=turn.content[:_LONGEST_REFINED_CHARS])) for turn in recent]
    try:
        async with asyncio.timeout(_LIMIT_S):
            return await full_question(bundle, prompts, told)
    except (ModelError, TimeoutError) as error:
        log.warning("refine_failed", message=message_id, error=type(error).__name__)
        return turns[-1].content
