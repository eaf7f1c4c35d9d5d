"""The tools of one turn, where the chat or the settings ask for some and the model can use them."""

from dataclasses import dataclass

from api.db.services.dialog_asking import Asking
from api.db.services.dialog_question import SearchPlan
from api.db.services.dialog_search import Sources, found_for, web_for_model
from api.db.services.llm_service import LLMBundle
from api.db.services.tool_sources import Reach
from api.db.services.toolbox import Kit, Toolbox
from api.db.services.toolbox import Turn as ToolTurn
from rag.core.tool_settings import ResearchSettings
from rag.core.types import Retrieved, Turn


@dataclass(frozen=True, kw_only=True, slots=True)
class Means:
    """What answers are made with, of the process."""

    sources: Sources
    toolbox: Toolbox
    research: ResearchSettings


def is_agentic(asking: Asking, bundle: LLMBundle) -> bool:
    """Whether the model searches by itself, so that there is no search before it. Where the reply has a form of its
    own, research is planned instead: the form would bind what is said on the way, too."""
    brief = asking.brief
    wanted = brief.agentic or (brief.reasoning and brief.form.is_free)
    return wanted and brief.searches and _may_have_tools(asking, bundle)


def _may_have_tools(asking: Asking, bundle: LLMBundle) -> bool:
    return bundle.info.capabilities.tools and not asking.brief.form.tools


async def kit_for(asking: Asking, means: Means, bundle: LLMBundle, plan: SearchPlan) -> Kit | None:
    """The tools; None if there are none.

    Args:
        plan: Its documents are all that the tools may reach.
    """
    if not _may_have_tools(asking, bundle):
        return None
    brief = asking.brief
    agentic = is_agentic(asking, bundle)
    research = agentic and brief.reasoning and brief.form.is_free
    names = means.toolbox.wanted(brief.tools, agentic=agentic, research=research)
    if not names:
        return None

    # Where the model searches by itself, nothing was searched before: its first search takes the question along.
    unasked = iter([plan.searched] if agentic else [])

    async def search(question: str) -> Retrieved:
        web = web_for_model(brief, question, next(unasked, ""))
        asked = SearchPlan(question=question, document_ids=plan.document_ids, web=web)
        return await found_for(asking, means.sources, bundle, asked)

    reach = Reach(
        principal=asking.principal,
        # A filter that matches no document leaves nothing to read.
        dataset_ids=() if plan.document_ids == () else brief.dataset_ids,
        document_ids=plan.document_ids or (),
    )
    turn = ToolTurn(
        reach=reach,
        search=search,
        count=bundle.count_tokens,
        on_the_web=bool(brief.web_key),
        research=means.research if research else None,
        closing=Turn(role="user", content=asking.prompts["research_answer"].text),
    )
    with asking.steps.timed("tools"):
        return await means.toolbox.kit(names, turn, agentic=agentic)
