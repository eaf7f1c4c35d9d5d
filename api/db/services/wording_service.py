"""A search's question in other words, by the tenant's own chat model: in other languages, and with its keywords."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from api.db.services import understanding
from api.db.services.dialog_question import LIMIT_S
from api.db.services.llm_service import LLMBundle
from api.db.services.model_catalogue import ModelCatalogue
from rag.core.errors import RagError
from rag.core.types import Principal
from rag.prompts.loader import Prompts

log = structlog.get_logger()


class WordingService:
    """For searches that no chat makes; those of chats are planned in `dialog_question`. Keeps nothing but usage rows,
    whose purposes are `cross_languages` and `keywords`."""

    def __init__(self, models: ModelCatalogue, prompts: Prompts) -> None:
        self._models = models
        self._prompts = prompts

    async def worded(
        self, principal: Principal, question: str, *, languages: Sequence[str] = (), keywords: bool = False
    ) -> str:
        """What to search for: the question's translations, one on each line, or else the question; with its keywords
        behind it if `keywords`. A step that fails or is late is left out; so are both where the tenant's default chat
        model writes no text of its own."""
        if not question.strip():
            return question
        if languages:
            found = await self._asked(
                principal,
                "cross_languages",
                lambda model: understanding.translations(model, self._prompts, question, languages),
            )
            question = "\n".join(found) or question
        if keywords:
            found = await self._asked(
                principal, "keywords", lambda model: understanding.keywords(model, self._prompts, question)
            )
            question = " ".join((question, *found))
        return question

    async def _asked(
        self, principal: Principal, purpose: str, ask: Callable[[LLMBundle], Awaitable[list[str]]]
    ) -> list[str]:
        try:
            bundle = self._models.bundle_chat(tenant_id=principal.tenant_id, purpose=purpose, key_id=principal.key_id)
            if bundle.info.local:
                return []
            async with asyncio.timeout(LIMIT_S):
                return await ask(bundle)
        except (RagError, TimeoutError) as error:
            log.warning("wording_left_out", step=purpose, error=type(error).__name__)
            return []
