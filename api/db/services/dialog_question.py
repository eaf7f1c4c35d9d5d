"""From the last turn to what is searched for."""

from dataclasses import dataclass

from api.db.services.dialog_asking import Asking
from api.db.services.dialog_history import can_be_refined, refined
from api.db.services.llm_service import LLMBundle


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchPlan:
    """What to search for. `queries` are further wordings, such as the question in other languages, which are searched
    beside it. `document_ids` None leaves all documents of the datasets in, () none of them."""

    question: str
    queries: tuple[str, ...] = ()
    document_ids: tuple[str, ...] | None = None


async def search_plan(asking: Asking, bundle: LLMBundle) -> SearchPlan:
    """The question as it is to be searched: complete in itself where a model can make it so, else as asked."""
    documents = asking.brief.document_ids or None
    if not asking.brief.refine or bundle.info.local or not can_be_refined(asking.turns):
        return SearchPlan(question=asking.question, document_ids=documents)
    with asking.steps.timed("refine"):
        question = await refined(asking.bundle("refine"), asking.prompts, asking.turns, message_id=asking.message_id)
    return SearchPlan(question=question, document_ids=documents)
