"""Questions that may come next, by the tenant's own chat model."""

from api.db.services.model_catalogue import ModelCatalogue
from rag.core.types import Principal
from rag.prompts.loader import Prompts
from rag.prompts.related import related_questions


class RelatedService:
    """Writes related questions. Keeps nothing but the usage row, whose purpose is `related`."""

    def __init__(self, models: ModelCatalogue, prompts: Prompts) -> None:
        self._models = models
        self._prompts = prompts

    async def questions(self, principal: Principal, question: str, industry: str = "") -> list[str]:
        """Questions related to `question`, at most nine; none where the tenant's default chat model writes no text of
        its own, as the built-in one, which only quotes.

        Raises:
            NotFound: the tenant's default chat model is not there any more.
            ModelError: it failed.
            LimitExceeded: a budget is spent.
        """
        bundle = self._models.bundle_chat(tenant_id=principal.tenant_id, purpose="related", key_id=principal.key_id)
        if bundle.info.local or not question.strip():
            return []
        return await related_questions(bundle, self._prompts, question, industry)
